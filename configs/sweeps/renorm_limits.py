"""r_max x d_max x momentum for Batch Renorm at microbatches of 4, which [BRN] leaves open.

    python -m scripts.sweep --config=configs/sweeps/renorm_limits.py --workdir=runs/renorm_limits

[BRN] takes r_max = 3, d_max = 5 and the momentum 0.99, and leaves others to future work (5).
r_max = 1 with d_max = 0 is Batch Norm.

All with r_max of 1.5 and more and d_max of 1 and more give 97.0% to 97.3%, the paper's 97.22%,
Batch Norm with that momentum 96.03%: results/renorm_limits.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import small_batch


def get_config() -> ConfigDict:
    """Keys as in configs/small_batch.py; seeds that it does not use."""
    config = small_batch.get_config()
    config.seeds = 3
    config.first_seed = 2000
    config.microbatch_size = 4
    config.normalizer.name = "batch_renorm"
    config.evaluation.holdout = 5_000
    return config


def get_sweep() -> dict[str, Any]:
    """What is varied, a grid."""
    return {
        "normalizer.r_max": [1.0, 1.5, 2.0, 3.0, 5.0, 10.0],
        "normalizer.d_max": [0.0, 0.5, 1.0, 2.0, 5.0, 10.0],
        "normalizer.momentum": [0.9, 0.99, 0.999],
    }
