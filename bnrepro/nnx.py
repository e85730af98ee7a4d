"""The two layers for Flax NNX; for Linen they are `bnrepro.BatchNorm` and `bnrepro.BatchRenorm`."""

from bnrepro.layers.nnx import BatchNorm, BatchRenorm

__all__ = ["BatchNorm", "BatchRenorm"]
