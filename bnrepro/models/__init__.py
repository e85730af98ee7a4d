"""Networks built from the layers."""

from bnrepro.models.networks import make_network
from bnrepro.models.normalizers import make_normalizer

__all__ = ["make_network", "make_normalizer"]
