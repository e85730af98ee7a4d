"""Networks built from the layers."""

from bnrepro.models.mlp import MLP
from bnrepro.models.normalizers import NORMALIZERS, make_normalizer

__all__ = ["MLP", "NORMALIZERS", "make_normalizer"]
