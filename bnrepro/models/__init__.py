"""Networks built from the layers."""

from bnrepro.models.mlp import ACTIVATIONS, MLP
from bnrepro.models.normalizers import NORMALIZERS, make_normalizer

__all__ = ["ACTIVATIONS", "MLP", "NORMALIZERS", "make_normalizer"]
