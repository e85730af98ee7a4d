"""How small may a microbatch be? Section 4.2 of [BRN] (arXiv:1702.03275), on MNIST.

    python -m experiments.small_batch --config=configs/small_batch.py --workdir=runs/small_batch

The gradient is over 64 examples in every variant; what varies is how many of them are normalized
together. Batch Norm and Batch Renorm refuse a microbatch of one.
"""

from ml_collections import ConfigDict

from configs import mnist_sigmoid

NORMALIZERS = ("batch_norm", "batch_renorm", "group_norm", "layer_norm", "none")
MICROBATCH_SIZES = (64, 32, 16, 8, 4, 2, 1)


def get_config() -> ConfigDict:
    """The comparison: keys as in configs/mnist_sigmoid.py, every normalizer at every size."""
    config = mnist_sigmoid.get_config()
    config.binary_input = False  # pixels from 0 to 1
    # No seed below 100 was used to choose a setting.
    config.first_seed = 100
    config.steps = 6_000
    config.batch_size = 64
    config.microbatch_size = 64
    config.eval_every = 500
    # A network deep enough for the effect.
    config.model.activation = "relu"
    config.model.init_std = 0.1
    config.optimizer.learning_rate = 0.1
    config.variants = {
        f"{name} {size}": {"normalizer": {"name": name}, "microbatch_size": size}
        for name in NORMALIZERS
        for size in MICROBATCH_SIZES
        if size > 1 or not name.startswith("batch_")
    }
    config.baseline = "batch_norm 64"
    return config
