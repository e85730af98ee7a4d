"""Batch Normalization and Batch Renormalization: the layers, and the papers' experiments rerun."""

from bnrepro.layers import BatchNorm, BatchRenorm, population_statistics, renorm_schedules

__all__ = ["BatchNorm", "BatchRenorm", "population_statistics", "renorm_schedules"]
