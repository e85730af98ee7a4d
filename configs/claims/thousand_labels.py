"""The paper's minibatches of 16 labels x 2 images, of 1,000 labels: C4, C6.

    python -m scripts.claims --only=C4,C6

Three digits side by side and 18 hidden layers, as long as `preview` of configs/labels_and_depth.py,
and with half-minibatches. The fast one has 6 hidden layers.
"""

from ml_collections import ConfigDict

from configs import labels_and_depth
from configs.claims.common import set_variants, shared

KINDS = ("iid batch_norm", "16x2 batch_norm", "16x2 batch_norm halves", "16x2 batch_renorm")


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = labels_and_depth.get_config("long")
    variants = {kind: config.variants[f"18 {kind}"] for kind in KINDS}
    fast = shared(config, length, seeds=(7, 3), steps=(12_000, 800), evaluations=4)
    config.model.hidden = (100,) * (6 if fast else 18)
    config.evaluation.train_examples = 0
    config.evaluation.minibatches = 0
    set_variants(config, variants)
    return config
