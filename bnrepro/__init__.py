"""Batch Normalization and Batch Renormalization: the layers, and the papers' experiments rerun."""

from bnrepro.layers import (
    BatchNorm,
    BatchRenorm,
    load_variables,
    population_statistics,
    renorm_schedules,
    save_variables,
    to_batch_norm,
    to_batch_renorm,
)

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "load_variables",
    "population_statistics",
    "renorm_schedules",
    "save_variables",
    "to_batch_norm",
    "to_batch_renorm",
]
