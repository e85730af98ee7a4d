"""Learning rate x normalizer on the sigmoid network of [BN] 4.1: who can take which rate?

    python -m scripts.sweep --config=configs/sweeps/learning_rates.py --workdir=runs/learning_rates

configs/mnist_sigmoid.py has one rate for all, the one that the network without normalization ends
highest with. Here each has its own, of two a decade.

With three seeds, the network without normalization ends highest at 3 (97.45%), Batch Norm from 0.3
to 3 (97.62% to 97.67%), Batch Renorm at 1 and 3 (97.60% and 97.69%). With 0.01 it is 90.95%, 95.47%
and 95.41%. Without normalization one seed is at chance with 10 and all are with 30; there, the
others get 96.28% and 96.69%: results/learning_rates.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import mnist_sigmoid


def get_config() -> ConfigDict:
    """Keys as in configs/mnist_sigmoid.py; seeds that nothing else uses."""
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
