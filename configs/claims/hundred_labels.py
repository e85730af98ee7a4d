"""Minibatches of 4 labels x 8 images, of 100 labels of photographs: C4.

    python -m scripts.claims --only=C4

The convolutional network of configs/small_batch_normalizers.py on Tiny ImageNet at 32 x 32. Of its
100 labels, the paper's 16 a minibatch were thought to do little harm. As in the paper, evaluation
uses averages of all parameters.
"""

from ml_collections import ConfigDict

from configs import non_iid, small_batch_normalizers
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch_normalizers.network_config("tiny")
    shared(config, length, seeds=(5, 3), steps=(8_000, 150), evaluations=1)
    config.optimizer.learning_rate = small_batch_normalizers.COMMON_RATES["tiny"]
    config.ema_decay = 0.999
    few = non_iid.few_labels(4, 8)
    set_variants(
        config,
        {
            "iid batch_norm": names("batch_norm") | {"sampler": {"name": "with_replacement"}},
            **{
                f"4x8 {name}": names(name) | {"sampler": few}
                for name in ("batch_norm", "batch_renorm")
            },
        },
    )
    return config
