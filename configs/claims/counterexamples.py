"""What happens when the gradient ignores the normalization: B7, B8.

    python -m scripts.claims --only=B7,B8

Normalizers stand on both sides of the nonlinearity. The bias of the one after it goes through a
linear layer into the next normalizer, which subtracts its effect: it is the b of [BN] section 2.
"""

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared

NORMALIZERS = ("batch_norm", "batch_norm_stop_gradient", "moving_average_norm")


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch.get_config()
    shared(config, length, seeds=(20, 5), steps=(4_000, 1_000))
    config.model.norm_placement = "both"
    config.measures = ("parameter_norms",)
    set_variants(config, {name: names(name) for name in NORMALIZERS})
    return config
