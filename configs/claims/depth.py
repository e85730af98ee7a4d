"""Gradients and accuracy of networks of growing depth: B5, B6.

    python -m scripts.claims --only=B5,B6

"sigmoid": a name gives the number of hidden layers of 100 units and the learning rate; the initial
weights are as in configs/mnist_sigmoid.py. "relu": 20 layers whose weights are large enough that
activations and gradients grow from layer to layer; gradients are measured, then clipped so that the
network stays near its initialization.
"""

from ml_collections import ConfigDict

from configs import mnist_sigmoid
from configs.claims.common import names, set_variants, shared

DEPTHS = (20, 10, 3)
RATES = (3.0, 0.3)


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = mnist_sigmoid.get_config()
    fast = shared(config, length, seeds=(5, 3), steps=(3_000, 600))
    config.measures = ("gradient_norms",)
    variants = {
        f"sigmoid {depth} {name} rate {rate:g}".replace(".", "_"): {
            "model": {"hidden": (100,) * depth},
            "optimizer": {"learning_rate": rate},
            **names(name),
        }
        for depth in DEPTHS[: 1 if fast else None]
        for name in ("none", "batch_norm")
        for rate in RATES
    }
    variants |= {
        f"relu 20 {name}": {
            "model": {"hidden": (100,) * 20, "activation": "relu", "init_std": 0.2},
            "optimizer": {"learning_rate": 1e-3, "clip_norm": 1e-3},
            **names(name),
        }
        for name in ("none", "batch_norm")
    }
    set_variants(config, variants)
    return config
