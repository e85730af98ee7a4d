"""How much depends on the learning rate and on the initialization: B3, B4.

    python -m scripts.claims --only=B3,B4

"sigmoid" is the network of configs/mnist_sigmoid.py, "relu" that of configs/small_batch.py. "rate"
varies the learning rate by factors of two, "std" the standard deviation of the initial weights from
1e-3 to 1, at the rate of configs/mnist_sigmoid.py.
"""

from ml_collections import ConfigDict

from configs import mnist_sigmoid
from configs.claims.common import names, set_variants, shared

RATES = tuple(2.0**k for k in range(-3, 10))
INIT_STDS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = mnist_sigmoid.get_config()
    fast = shared(config, length, steps=(2_000, 1_000), evaluations=2)
    every = 3 if fast else 1
    activations = {
        "sigmoid": {"activation": "sigmoid"},
        "relu": {"activation": "relu", "init": "lecun_normal"},
    }
    # Names of variants have no dots.
    variants = {
        f"{activation} {name} rate {rate:g}".replace(".", "_"): {
            "model": model,
            "optimizer": {"learning_rate": rate},
            **names(name),
        }
        for activation, model in activations.items()
        for name in ("none", "batch_norm")
        for rate in RATES[::every]
    }
    variants |= {
        f"std {name} {std:g}".replace(".", "_"): {"model": {"init_std": std}, **names(name)}
        for name in ("none", "batch_norm")
        for std in INIT_STDS[::every]
    }
    set_variants(config, variants)
    return config
