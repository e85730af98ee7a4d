"""Small microbatches with convolutions, whose statistics are also over positions: C1.

    python -m scripts.claims --only=C1

The comparison of configs/small_batch_cnn.py, shorter.
"""

from ml_collections import ConfigDict

from configs import small_batch_cnn
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch_cnn.get_config()
    shared(config, length, seeds=(6, 3), steps=(1_500, 100), evaluations=1)
    set_variants(
        config,
        {
            f"{name} {size}": {**names(name), "microbatch_size": size}
            for size in (32, 2)
            for name in ("batch_norm", "batch_renorm")
        },
    )
    return config
