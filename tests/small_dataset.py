"""A set small enough to train on in a second, and a config for it."""

import numpy as np

from bnrepro.comparison.config import with_settings
from bnrepro.data.datasets import Dataset
from configs import mnist_sigmoid


def small_dataset():
    """Two classes told apart by which half of the image is bright."""
    rng = np.random.default_rng(0)

    def split(n):
        labels = rng.integers(0, 2, n).astype(np.int32)
        images = rng.integers(0, 140, (n, 4, 4, 1))
        images[np.arange(n), 2 * labels] += 100
        return images.astype(np.uint8), labels

    train, test = split(120), split(60)
    return Dataset(
        "small/1.0.0", *train, *test, class_names=("top", "bottom"), sha256="of these bytes"
    )


def small_config(**settings):
    """MNIST's, with two seeds of 20 steps and a small network; `settings` by flat key."""
    small = {"seeds": 2, "steps": 20, "eval_every": 10, "batch_size": 12, "microbatch_size": 6}
    return with_settings(
        mnist_sigmoid.get_config().to_dict(), small | {"model.hidden": (6, 5)} | settings
    )
