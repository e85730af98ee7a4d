"""Networks built from the layers."""

from bnrepro.models.cnn import CNN
from bnrepro.models.mlp import MLP
from bnrepro.models.networks import ACTIVATIONS, NETWORKS, make_network
from bnrepro.models.normalizers import NORMALIZERS, make_normalizer

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "MLP",
    "NETWORKS",
    "NORMALIZERS",
    "make_network",
    "make_normalizer",
]
