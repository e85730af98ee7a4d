"""Networks built from the layers."""

from bnrepro.models.cnn import CNN
from bnrepro.models.mlp import MLP
from bnrepro.models.networks import ACTIVATIONS, INITIALIZERS, NETWORKS, make_network
from bnrepro.models.normalizers import NORMALIZERS, make_normalizer

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "INITIALIZERS",
    "MLP",
    "NETWORKS",
    "NORMALIZERS",
    "make_network",
    "make_normalizer",
]
