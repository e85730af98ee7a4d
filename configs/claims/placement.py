"""Where a normalizer belongs: before the nonlinearity, after it, or on both sides: B9.

    python -m scripts.claims --only=B9

"sigmoid" is the network of configs/mnist_sigmoid.py, "relu" that of configs/small_batch.py, each at
its own learning rate.
"""

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in configs/mnist_sigmoid.py."""
    config = small_batch.get_config()
    fast = shared(config, length, steps=(6_000, 1_000), evaluations=10)
    networks: dict[str, tuple[dict, float]] = {
        "sigmoid": ({"activation": "sigmoid", "init": "normal", "init_std": 0.1}, 3.0),
        "relu": ({"activation": "relu"}, 0.1),
    }
    set_variants(
        config,
        {
            f"{activation} {placement}": {
                "model": {**model, "norm_placement": placement},
                "optimizer": {"learning_rate": rate},
                **names("batch_norm"),
            }
            for activation, (model, rate) in networks.items()
            for placement in ("before", "after", "both")[: 2 if fast else None]
        },
    )
    return config
