"""Sets described by sizes and labels alone, for steps that are only planned."""

import numpy as np
import pytest

from bnrepro.data.datasets import DatasetError
from bnrepro.data.descriptions import describe_dataset
from tests.small_shards import TRAIN, write_set

pytestmark = pytest.mark.usefixtures("untyped")


def test_a_size_that_training_refuses_is_not_described():
    with pytest.raises(DatasetError, match="must divide the 28 x 28 pixels of mnist, got 13"):
        describe_dataset("mnist", image_size=13)
    assert describe_dataset("mnist", image_size=13, stream=True).test_images.shape[1:3] == (13, 13)


def test_a_set_that_is_only_in_shards_is_described_by_its_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_set(tmp_path, sizes=((16, 12), (9, 20)))
    dataset = describe_dataset("squares", str(tmp_path), image_size=8, stream=True)
    assert dataset.train_images.shape == (TRAIN, 8, 8, 3)
    assert len(dataset.train_labels) == TRAIN and not dataset.train_images.any()


def test_imagenet_is_described_without_memory_for_its_images():
    dataset = describe_dataset("imagenet2012", image_size=224)
    assert dataset.train_images.shape == (1_281_167, 224, 224, 3)
    assert dataset.train_images.strides == (0, 0, 0, 0)
    assert np.bincount(dataset.test_labels).tolist() == [50] * 1_000
    with pytest.raises(DatasetError, match="give an image_size"):
        describe_dataset("imagenet2012")
