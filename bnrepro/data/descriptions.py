"""Data sets by their sizes alone: for plans of training on images that are not there."""

import dataclasses
from typing import Any

import numpy as np

from bnrepro.data.datasets import Dataset, DatasetError, check_divides, load_dataset, parse_name
from bnrepro.data.shards import Shards

# Numbers of training images, test images and classes; height and width (0 if they differ) and
# channels of an image. As in TFDS's catalog, with `validation` to test on where there is no `test`.
_DESCRIPTIONS = {
    "imagenet2012": (1_281_167, 50_000, 1_000, 0, 3),
    "imagenette": (9_469, 3_925, 10, 0, 3),
    "mnist": (60_000, 10_000, 10, 28, 1),
}


def describe_dataset(
    name: str, data_dir: str | None = None, *, image_size: int = 0, stream: bool = False
) -> Dataset:
    """A black data set with the sizes of the one named, which need not be there.

    Its images all share one pixel in memory, and its labels are equally frequent. A set whose sizes
    are not known here is read like `load_dataset`, which explains the arguments.

    Raises:
      DatasetError: as `load_dataset`; images that differ in size, and no `image_size`; one that
        does not divide theirs, unless they are streamed.
    """
    wanted = parse_name(name)
    known = None if wanted.config else _DESCRIPTIONS.get(wanted.name)
    if known is None:
        dataset = load_dataset(name, data_dir, image_size=image_size, stream=stream)
        if not isinstance(dataset.train_images, Shards):
            return dataset
        train, test = (
            _black(len(images), *(image_size or n for n in images.shape[:2]), images.shape[2])
            for images in (dataset.train_images, dataset.test_images)
        )
        return dataclasses.replace(dataset, train_images=train, test_images=test)
    num_train, num_test, classes, stored, channels = known
    size = image_size or stored
    if not size:
        raise DatasetError(f"The images of {name} differ in size: give an image_size.")
    if not stream:
        check_divides(size, stored, stored, name)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        return _black(count, size, size, channels), np.arange(count, dtype=np.int32) % classes

    return Dataset(name, *split(num_train), *split(num_test), tuple(map(str, range(classes))))


def _black(*shape: Any) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), shape)
