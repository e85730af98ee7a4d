"""Batch Normalization and Batch Renormalization: the layers, and the papers' experiments rerun."""

import importlib
from typing import TYPE_CHECKING, Any

from bnrepro.layers import (
    BatchNorm,
    BatchRenorm,
    delayed_renorm_schedules,
    population_statistics,
    renorm_schedules,
)

if TYPE_CHECKING:
    from bnrepro import nnx
    from bnrepro.interchange import load_variables, save_variables, to_batch_norm, to_batch_renorm

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "delayed_renorm_schedules",
    "load_variables",
    "nnx",
    "population_statistics",
    "renorm_schedules",
    "save_variables",
    "to_batch_norm",
    "to_batch_renorm",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # Imported when asked for: not everyone needs Flax NNX, or files of weights.
    if name == "nnx":
        return importlib.import_module("bnrepro.nnx")
    if name in __all__:
        return getattr(importlib.import_module("bnrepro.interchange"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
