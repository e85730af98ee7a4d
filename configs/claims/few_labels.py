"""Minibatches of two labels: C4, C5, C7.

    python -m scripts.claims --only=C4,C5,C7

The comparison of configs/non_iid.py. A name tells labels x images of each.
"""

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in configs/mnist_sigmoid.py."""
    config = small_batch.get_config()
    shared(config, length, steps=(6_000, 1_500), evaluations=10)
    config.evaluation.minibatches = 100
    set_variants(
        config,
        {
            "iid batch_norm": names("batch_norm"),
            "2x32 batch_norm": _labels("batch_norm", 32),
            "2x32 batch_renorm": _labels("batch_renorm", 32),
            "2x128 batch_renorm": _labels("batch_renorm", 128),
        },
    )
    return config


def _labels(name: str, images: int) -> dict:
    return {
        **names(name),
        "batch_size": 2 * images,
        "microbatch_size": 2 * images,
        "sampler": {"name": "labels", "labels_per_batch": 2, "examples_per_label": images},
    }
