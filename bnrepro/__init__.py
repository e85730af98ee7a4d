"""Batch Normalization and Batch Renormalization: the layers, and the papers' experiments rerun."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnrepro import nnx
    from bnrepro.interchange import load_variables, save_variables, to_batch_norm, to_batch_renorm
    from bnrepro.layers import (
        BatchNorm,
        BatchRenorm,
        delayed_renorm_schedules,
        population_statistics,
        renorm_schedules,
    )

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


_INTERCHANGE = {"load_variables", "save_variables", "to_batch_norm", "to_batch_renorm"}


def __getattr__(name: str) -> Any:
    # Imported on demand: not everyone needs Flax NNX or weight files, and --help need not wait for
    # JAX.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "nnx":
        return importlib.import_module("bnrepro.nnx")
    module = "bnrepro.interchange" if name in _INTERCHANGE else "bnrepro.layers"
    return getattr(importlib.import_module(module), name)
