"""Learning rate x normalizer on the sigmoid network of [BN] 4.1: who can take which rate?

    python -m scripts.sweep --config=configs/sweeps/learning_rates.py --workdir=runs/learning_rates

configs/mnist_sigmoid.py has one rate for all. Here each has its own, of two a decade, and held-out
images choose the best.

With three seeds, they choose 1 for all: 97.37% without normalization, 97.61% with Batch Norm,
97.48% with Batch Renorm. With 0.01 it is 90.98%, 95.44% and 95.39%. With 30 all seeds of the
network without normalization are at chance; the others get 96.59% and 96.44%:
results/learning_rates.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import mnist_sigmoid


def get_config() -> ConfigDict:
    """Keys as in configs/mnist_sigmoid.py; seeds that it does not use."""
    config = mnist_sigmoid.get_config()
    config.seeds = 3
    config.first_seed = 2000
    config.eval_every = 2_500
    config.evaluation.holdout = 5_000
    return config


def get_sweep() -> dict[str, Any]:
    """What is varied, a grid."""
    return {
        "normalizer.name": ["none", "batch_norm", "batch_renorm"],
        "optimizer.learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
    }
