"""Where a normalizer belongs, before the nonlinearity or after it: B9.

    python -m scripts.claims --only=B9

"sigmoid" is the network of configs/mnist_sigmoid.py, "relu" that of configs/small_batch.py, each
with the learning rate that configs/placement_rates.py chose for it.

A first registration, on other seeds, gave both placements the rate that suits "before", at which
the sigmoid network diverges with the layer after the nonlinearity: a difference of 87 points that
is due to the rate alone.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared

RATES = {
    ("sigmoid", "before"): 10.0,
    ("sigmoid", "after"): 0.3,
    ("relu", "before"): 0.3,
    ("relu", "after"): 0.1,
}


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch.get_config()
    shared(config, length, steps=(6_000, 1_000), evaluations=10)
    networks: dict[str, dict[str, Any]] = {
        "sigmoid": {"activation": "sigmoid", "init": "normal", "init_std": 0.1},
        "relu": {"activation": "relu"},
    }
    set_variants(
        config,
        {
            f"{activation} {place}": {
                "model": {**networks[activation], "norm_placement": place},
                "optimizer": {"learning_rate": rate},
                **names("batch_norm"),
            }
            for (activation, place), rate in RATES.items()
        },
    )
    return config
