"""Batch Norm beside dropout and L2, on 2,000 training images: B10.

    python -m scripts.claims --only=B10

The other training images are held out, which only makes the training set small.
"""

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch.get_config()
    shared(config, length, steps=(6_000, 1_500), evaluations=1)
    config.evaluation.holdout = 58_000
    config.evaluation.train_examples = 2_000
    added = {
        "": {},
        " dropout": {"model": {"dropout": 0.3}},
        " l2": {"optimizer": {"weight_decay": 1e-3}},
    }
    set_variants(
        config,
        {
            f"{title}{suffix}": {**names(name), **overrides}
            for title, name in (("plain", "none"), ("batch_norm", "batch_norm"))
            for suffix, overrides in added.items()
        },
    )
    return config
