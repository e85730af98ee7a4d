"""A set small enough to train on in a second."""

import numpy as np

from bnrepro.data.datasets import Dataset


def small_dataset():
    """Two classes told apart by which half of the image is bright."""
    rng = np.random.default_rng(0)

    def split(n):
        labels = rng.integers(0, 2, n).astype(np.int32)
        images = rng.integers(0, 140, (n, 4, 4, 1))
        images[np.arange(n), 2 * labels] += 100
        return images.astype(np.uint8), labels

    train, test = split(120), split(60)
    return Dataset("small/1.0.0", *train, *test, class_names=("top", "bottom"), stand_in=False)
