"""The time that a training step takes, with and without Batch Norm, over widths: B11.

    python -m scripts.claims --only=B11

Nothing is trained to the end: a "seed" is one reading of the clock, over `steps` steps of one run.
"""

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared

WIDTHS = (100, 300, 1_000)


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch.get_config()
    shared(config, length, seeds=(101, 11), steps=(20, 20), evaluations=1)
    set_variants(
        config,
        {
            f"{title} {width}": {**names(name), "model": {"hidden": (width,) * 3}}
            for width in WIDTHS
            for title, name in (("plain", "none"), ("batch_norm", "batch_norm"))
        },
    )
    return config
