"""How much epsilon matters with microbatches of 2, whose values may be close together.

    python -m experiments.mnist_sigmoid --config=configs/small_batch_epsilons.py \
        --workdir=runs/small_batch_epsilons

Both normalizers with the epsilon of configs/small_batch.py, a smaller and a larger one, on seeds
that no comparison uses.

Batch Norm and Batch Renorm ended at 41.61% and 70.01% with 1e-5, 71.98% and 91.18% with 1e-3,
81.82% and 94.41% with 1e-2: results/small_batch_epsilons. With 1e-5 accuracy swings by ten points
from one evaluation to the next, so that rounding decides: an earlier version of this code ended at
49.62% and 78.36% on the same three seeds.
"""

from ml_collections import ConfigDict

from configs import small_batch

EPSILONS = (1e-5, 1e-3, 1e-2)


def get_config() -> ConfigDict:
    """The comparison: keys as in configs/mnist_sigmoid.py."""
    config = small_batch.get_config()
    config.seeds = 3
    config.first_seed = 1000
    config.microbatch_size = 2
    config.evaluation.holdout = 5_000
    config.variants = {
        f"{name} {epsilon:g}".replace(".", "_"): {"normalizer": {"name": name, "epsilon": epsilon}}
        for name in ("batch_norm", "batch_renorm")
        for epsilon in EPSILONS
    }
    config.baseline = "batch_norm 0_001"
    return config
