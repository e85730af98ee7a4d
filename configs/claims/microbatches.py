"""How many images are normalized together: C1, C2, C3, C8.

    python -m scripts.claims --only=C1,C2,C3,C8

The comparison of configs/small_batch.py with more seeds, for the equivalence on large microbatches.
Normalizers that do not depend on microbatches are trained on microbatches of one.
"""

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared

MICROBATCH_SIZES = (32, 4, 8, 2)


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch.get_config()
    fast = shared(config, length, seeds=(26, 5), steps=(6_000, 1_000), evaluations=10)
    variants = {
        f"{name} {size}": {**names(name), "microbatch_size": size}
        for size in MICROBATCH_SIZES[: 2 if fast else None]
        for name in ("batch_norm", "batch_renorm")
    }
    variants |= {
        f"{name} 1": {**names(name), "microbatch_size": 1} for name in ("group_norm", "layer_norm")
    }
    set_variants(config, variants)
    return config
