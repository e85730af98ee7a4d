"""The percentiles of sigmoids' inputs over training, of all units: B2.

    python -m scripts.claims --only=B2

Network, learning rate and initialization are those of configs/mnist_sigmoid.py. The measurement
registered first read one unit of each network.
"""

from ml_collections import ConfigDict

from configs import mnist_sigmoid
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = mnist_sigmoid.get_config()
    shared(config, length, seeds=(8, 5), steps=(50_000, 2_000))
    config.measures = ("sigmoid_inputs",)
    set_variants(config, {"plain": names("none"), "batch_norm": names("batch_norm")})
    return config
