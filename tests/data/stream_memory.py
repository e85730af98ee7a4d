"""Prints the peak memory, in MiB, of a process that streams from a set of so many JPEGs."""

import resource
import sys

import jax
import numpy as np

from bnrepro.data import shards
from bnrepro.data.samplers import make_sampler
from bnrepro.data.sources import make_draw, take_images
from bnrepro.data.streams import stream
from tests.small_shards import encoded, record


class Records:
    """As many records as asked for, all of them one of a few."""

    def __init__(self, count):
        rng, self.count = np.random.default_rng(0), count
        images = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(4)]
        self.few = [record(encoded(image), 0) for image in images]

    def __getitem__(self, index):
        assert 0 <= index < self.count
        return self.few[index % 4]


def main(count):
    shards._record_source = lambda files: Records(count)
    labels = (np.arange(count) % 1_000).astype(np.int32)
    images = shards.Shards([("none", count)], labels, (None, None, 3))
    sampler = make_sampler(
        "labels", labels, 32, labels_per_batch=16, examples_per_label=2, repeat_labels=True
    )
    source = stream(
        images,
        labels,
        make_draw(sampler, flip=False, crop=False),
        lambda arrays, drawn: take_images(arrays, drawn, classes=1_000, digits=1),
        run_key=jax.random.key,
        runs=1,
        image_size=64,
        distorted=True,
        workers=2,
    )
    for step in range(0, 100, 10):
        source.feed([0], step, 10, np.ones((1, 32), bool))
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
