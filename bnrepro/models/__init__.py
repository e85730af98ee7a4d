"""Networks built from the layers."""

from bnrepro.models.cnn import CNN
from bnrepro.models.inception import Inception
from bnrepro.models.kernels import KERNELS
from bnrepro.models.mlp import MLP
from bnrepro.models.networks import ACTIVATIONS, DTYPES, INITIALIZERS, NETWORKS, make_network
from bnrepro.models.normalizers import NORMALIZERS, PLACEMENTS, make_normalizer
from bnrepro.models.resnet import ResNet

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "DTYPES",
    "INITIALIZERS",
    "KERNELS",
    "MLP",
    "NETWORKS",
    "NORMALIZERS",
    "PLACEMENTS",
    "Inception",
    "ResNet",
    "make_network",
    "make_normalizer",
]
