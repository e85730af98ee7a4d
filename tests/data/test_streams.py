"""Streams: what is read from shards is what a resident set gives, whenever it is read."""

import json
import resource
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from array_record.python import array_record_data_source
from PIL import Image

from bnrepro.data.augment import central, inception
from bnrepro.data.datasets import DatasetError, load_dataset
from bnrepro.data.samplers import make_sampler
from bnrepro.data.shards import Shards
from bnrepro.data.sources import make_draw, take_images
from bnrepro.data.streams import stream
from tests.small_shards import CLASSES, TEST, TRAIN, encoded, write_set, write_shard

pytestmark = pytest.mark.usefixtures("isolated")


def make_parts(dataset):
    sizes = {"labels_per_batch": 4, "examples_per_label": 2, "repeat_labels": True}
    sampler = make_sampler("labels", dataset.train_labels, 8, **sizes)
    draw = make_draw(sampler, flip=True, crop=True)
    take = partial(take_images, classes=CLASSES, digits=1)
    return dataset.train_images, dataset.train_labels, draw, take


def make_stream(data_dir, *, image_size=0, distorted=False, workers=0):
    dataset = load_dataset("squares", data_dir, image_size=image_size, stream=True)
    options = {"image_size": image_size, "distorted": distorted, "workers": workers}
    return stream(*make_parts(dataset), run_key=jax.random.key, runs=2, **options)


def fed(source, seeds, first, count, here=None):
    here = np.ones((len(seeds), 8), bool) if here is None else here
    return source.feed(seeds, first, count, here)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


INCEPTION = {"image_size": 8, "distorted": True}


@pytest.mark.parametrize("options", [{}, INCEPTION], ids=["as stored", "inception"])
def test_a_minibatch_depends_on_seed_and_step_alone(data_dir, options):
    whole = fed(make_stream(data_dir, **options), [3, 5], 10, 6)
    # Another process, with threads, one run of the two, resumed in between.
    part = fed(make_stream(data_dir, workers=3, **options), [5], 13, 2)
    assert_same(part, jax.tree.map(lambda x: x[1:, 3:5], whole))
    images = whole["images"].reshape(12, -1)
    assert len(np.unique(images, axis=0)) == 12


def test_palettes_and_grey_are_decoded_to_the_colours_of_the_set_streamed_or_not(data_dir):
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    grey = Image.new("L", (16, 16), 40)
    files = [(encoded(image, "PNG"), 0) for image in (palette, grey)]
    shard = data_dir / "squares/1.0.0/squares-train.array_record-00000-of-00002"
    write_shard(shard, files * (TRAIN // 4))
    whole = load_dataset("squares", data_dir).train_images
    streamed = load_dataset("squares", data_dir, stream=True).train_images
    for n, colour in enumerate([(10, 20, 30), (40, 40, 40)]):
        assert (whole[n] == colour).all()
        assert (np.asarray(streamed.image(n)) == colour).all()


def test_two_hosts_read_disjoint_shares_that_are_the_whole(data_dir):
    source = make_stream(data_dir, **INCEPTION)
    whole = fed(source, [3, 5], 0, 2)["images"]
    first = np.zeros((2, 8), bool)
    first[:, :4] = True
    shares = [fed(source, [3, 5], 0, 2, here)["images"] for here in (first, ~first)]
    for share, missing in zip(shares, (~first, first), strict=True):
        assert not np.moveaxis(share, 1, 2)[missing].any()
    assert_same(shares[0] + shares[1], whole)


def test_a_distorted_image_has_a_generator_of_its_seed_step_and_place(data_dir):
    dataset = load_dataset("squares", data_dir, stream=True)
    source = make_stream(data_dir, **INCEPTION)
    images = fed(source, [3], 4, 1)["images"]
    index = make_parts(dataset)[2](jax.random.key(3), jnp.int32(4))["index"]
    for place in (0, 7):
        image = dataset.train_images.image(int(index[place]))
        expected = inception(image, 8, np.random.default_rng([3, 4, place]))
        np.testing.assert_array_equal(images[0, 0, place], expected)


def test_evaluation_reads_the_centre_of_each_image(data_dir):
    dataset = load_dataset("squares", data_dir, image_size=8, stream=True)
    source = make_stream(data_dir, **INCEPTION)
    arrays = dataset.test_images, dataset.test_labels
    read = source.read(arrays, {"index": np.array([4, 1])}, np.ones(2, bool))
    for image, label, n in zip(read["images"], read["labels"], (4, 1), strict=True):
        np.testing.assert_array_equal(image, central(dataset.test_images.image(n), 8))
        assert label == n % CLASSES


def test_labels_are_read_once_and_then_come_from_the_cache(data_dir, monkeypatch):
    from bnrepro.data import datasets

    first = load_dataset("squares", data_dir, stream=True)
    monkeypatch.setattr(datasets, "read_labels", None)
    again = load_dataset("squares", data_dir, stream=True)
    np.testing.assert_array_equal(again.train_labels, np.arange(TRAIN) % CLASSES)
    np.testing.assert_array_equal(again.test_labels, first.test_labels)
    assert again.sha256 == first.sha256


def test_other_images_with_the_same_labels_have_another_hash(tmp_path):
    hashes = []
    for name, damaged in (("one", []), ("same", []), ("other", [5])):
        write_set(tmp_path / name, damaged=damaged)
        hashes.append(load_dataset("squares", tmp_path / name, stream=True).sha256)
    one, same, other = hashes
    assert one == same != other


def test_validation_is_the_test_set_of_imagenet_whose_test_set_has_no_labels(tmp_path):
    path = write_set(tmp_path / "data", "imagenet2012/1.0.0") / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"].append({**info["splits"][1], "name": "test"})
    path.write_text(json.dumps(info))
    dataset = load_dataset("imagenet2012", tmp_path / "data", stream=True)
    assert (len(dataset.train_images), len(dataset.test_images)) == (TRAIN, TEST)


def test_a_shard_may_be_empty(data_dir):
    folder = data_dir / "squares" / "1.0.0"
    write_shard(folder / "squares-train.array_record-00001-of-00002", [])
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = [str(TRAIN // 2), "0"]
    path.write_text(json.dumps(info))
    assert len(load_dataset("squares", data_dir).train_images) == TRAIN // 2
    streamed = load_dataset("squares", data_dir, stream=True).train_images
    assert streamed.image(TRAIN // 2 - 1).size == (16, 16)


# Damage and mistakes


def test_a_damaged_image_is_named_once_and_the_next_of_its_label_takes_its_place(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("bnrepro.data.shards._RECORDS_AT_ONCE", 10)
    write_set(tmp_path / "data", damaged=[22])
    images = load_dataset("squares", tmp_path / "data", stream=True).train_images
    replaced = [np.asarray(images.image(22)) for _ in range(2)]
    # Labels are 0, 1, 2 in turn: after 22 comes, from the start, 1.
    assert_same(replaced, [np.asarray(images.image(1))] * 2)
    whole = load_dataset("squares", tmp_path / "data").train_images
    assert_same(whole[22], whole[1])
    streamed, resident = (record.message for record in caplog.records)
    assert "squares-train.array_record-00001-of-00002, record 10, is damaged" in streamed
    assert ", 1 of at most 1: " in streamed
    assert resident == streamed


def test_a_damaged_image_may_be_the_only_one_of_its_label_in_a_part_of_the_set(tmp_path):
    write_set(tmp_path / "data", damaged=[1])
    images = load_dataset("squares", tmp_path / "data", stream=True).train_images
    # Labels are 0, 1, 2 in turn: after 1 comes 4.
    assert_same(np.asarray(images[:3].image(1)), np.asarray(images.image(4)))


def test_more_than_one_damaged_image_in_a_thousand_are_an_error(tmp_path):
    write_set(tmp_path / "data", damaged=[22, 5])
    images = load_dataset("squares", tmp_path / "data", stream=True).train_images
    images.image(22)
    with pytest.raises(DatasetError, match=r"00000-of-00002, record 5, is damaged .*at most 1 dam"):
        images.image(5)
    with pytest.raises(DatasetError, match=r"00001-of-00002, record 10, is damaged .*at most 1 d"):
        load_dataset("squares", tmp_path / "data")


def test_an_image_that_there_is_no_memory_for_is_not_damaged(tmp_path, monkeypatch):
    write_set(tmp_path / "data")
    images = load_dataset("squares", tmp_path / "data", stream=True).train_images

    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr("bnrepro.data.shards._decode", out_of_memory)
    with pytest.raises(MemoryError):
        images.image(0)


def test_images_of_several_sizes_need_a_size(tmp_path):
    write_set(tmp_path / "data", sizes=((16, 12), (9, 20)))
    with pytest.raises(DatasetError, match=r"images of squares/1\.0\.0 differ in size: set image_"):
        load_dataset("squares", tmp_path / "data", stream=True)
    with pytest.raises(DatasetError, match=r"images differ in size: set stream and image_size"):
        load_dataset("squares", tmp_path / "data", image_size=8)
    source = make_stream(tmp_path / "data", image_size=8)
    assert fed(source, [1], 0, 1)["images"].shape == (1, 1, 8, 8, 8, 3)
    # Without reading all of the larger split first.
    shard = "squares/1.0.0/squares-train.array_record-00000-of-00002"
    write_shard(tmp_path / "data" / shard, [(b"no image", CLASSES)] * (TRAIN // 2))
    with pytest.raises(DatasetError, match="images differ in size"):
        load_dataset("squares", tmp_path / "data")


def test_a_set_may_have_more_files_than_a_process_may_usually_open(monkeypatch):
    """The limits are those of many systems, and of one whose own is as low."""
    limits, asked = [(1_024, 4_096), (1_024, 1_024)], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits.pop(0))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: asked.append(limit))
    files = [("none", 1)] * 1_100
    source = array_record_data_source, "ArrayRecordDataSource"
    monkeypatch.setattr(*source, lambda paths: None)
    Shards(files, np.zeros(1_100, np.int32), (8, 8, 3))
    assert asked == [(2_124, 4_096)]
    with pytest.raises(DatasetError, match=r"needs 2,124 open files: raise `ulimit -n` from 1,024"):
        Shards(files, np.zeros(1_100, np.int32), (8, 8, 3))
