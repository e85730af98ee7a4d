"""The MNIST experiment of [BN] 4.1, with what the claims about it measure: B1, B12, B13.

    python -m scripts.claims --only=B1,B12,B13

Network, learning rate and initialization are those of configs/mnist_sigmoid.py, with which the
network without normalization ends as high as with any (configs/mnist_sigmoid_rates.py).
"""

from ml_collections import ConfigDict

from configs import mnist_sigmoid
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = mnist_sigmoid.get_config()
    shared(config, length, seeds=(14, 5), steps=(50_000, 2_000), evaluations=50)
    config.measures = ("along_gradient", "gradient_norms", "near_linear", "sigmoid_input")
    config.measure_every = 50
    set_variants(config, {"plain": names("none"), "batch_norm": names("batch_norm")})
    return config
