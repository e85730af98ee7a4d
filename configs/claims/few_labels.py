"""Minibatches of two labels: C4, C5, C7.

    python -m scripts.claims --only=C4,C5,C7

Variants of configs/non_iid.py. A name gives labels x images of each.
"""

from ml_collections import ConfigDict

from configs import non_iid, small_batch
from configs.claims.common import set_variants, shared

KINDS = ("iid batch_norm", "2x32 batch_norm", "2x32 batch_renorm", "2x128 batch_renorm")


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config, variants = small_batch.get_config(), non_iid.get_config().variants
    shared(config, length, steps=(6_000, 1_000), evaluations=10)
    config.evaluation.minibatches = 100
    set_variants(config, {kind: variants[kind] for kind in KINDS})
    return config
