import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bnrepro.data.datasets import DatasetError, load_dataset
from tests.small_shards import encoded, write_shard

REAL_DATA = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "nowhere"))
TRAIN_SHARD = "mnist-train.array_record-00000-of-00001"

pytestmark = pytest.mark.usefixtures("isolated")


def copied(data_dir, full_name):
    """Makes our MNIST a set of another name, config or version."""
    name, *config, version = full_name.split("/")
    folder = shutil.copytree(data_dir / "mnist" / "3.0.1", data_dir / full_name)
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"name": name, "version": version, "configName": "/".join(config)}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for shard in folder.glob("mnist-*"):
        shard.rename(folder / shard.name.replace("mnist", name))
    return folder


# Names, and where they are looked for


@pytest.mark.parametrize("name", ["", "../mnist", "mnist/..", "mnist:3", "mnist:3.*.*", "m n"])
def test_a_malformed_name_is_an_error_that_shows_the_right_form(name):
    with pytest.raises(DatasetError, match=r"not the name of a data set.* name\[/config\]\[:v"):
        load_dataset(name)


def test_data_dir_comes_before_the_environment_and_that_before_the_default(
    data_dir, tmp_path, monkeypatch
):
    default = tmp_path / "home" / "tensorflow_datasets"
    environment = tmp_path / "environment"
    for folder, version in ((default, "9.0.0"), (environment, "5.0.0"), (data_dir, "3.0.1")):
        if folder != data_dir:
            shutil.move(copied(data_dir, f"mnist/{version}"), folder / "mnist" / version)
    assert load_dataset("mnist").name == "mnist/9.0.0"
    monkeypatch.setenv("TFDS_DATA_DIR", str(environment))
    assert load_dataset("mnist").name == "mnist/5.0.0"
    assert load_dataset("mnist", data_dir).name == "mnist/3.0.1"
    with pytest.raises(DatasetError, match="is not in"):  # it is the only one
        load_dataset("mnist:9.0.0", data_dir)


def test_a_folder_of_nobody_is_an_error():
    with pytest.raises(DatasetError, match=r"^~nobody_here/data cannot be found: Could not"):
        load_dataset("mnist", "~nobody_here/data")


def test_the_highest_version_is_taken_by_number_where_none_is_named(data_dir):
    copied(data_dir, "mnist/3.0.10")
    copied(data_dir, "mnist/3.0.9")
    (data_dir / "mnist" / "4.0.0").mkdir()
    assert load_dataset("mnist", data_dir).name == "mnist/3.0.10"
    assert load_dataset("mnist:3.0.9", data_dir).name == "mnist/3.0.9"


def test_the_only_config_is_taken_but_one_of_several_must_be_named(data_dir):
    copied(data_dir, "squares/red/1.0.0")
    assert load_dataset("squares", data_dir).name == "squares/red/1.0.0"
    copied(data_dir, "squares/blue/1.0.0")
    with pytest.raises(DatasetError, match=r"any of squares/blue:1\.0\.0, squares/red:1\.0\.0"):
        load_dataset("squares", data_dir)
    assert load_dataset("squares/blue", data_dir).name == "squares/blue/1.0.0"


def test_a_set_that_is_nowhere_is_an_error_with_the_folders_the_way_and_the_known_sets(
    data_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    copied(data_dir, "squares/red/1.0.0")
    with pytest.raises(DatasetError) as error:
        load_dataset("circles")
    message = str(error.value)
    for folder in (data_dir, tmp_path / "home" / "tensorflow_datasets"):
        assert str(folder) in message
    assert "python -m scripts.prepare_data circles" in message
    assert "mnist:3.0.1, squares/red:1.0.0" in message


@pytest.mark.parametrize("name", ["mnist:1.0.0", "mnist/config", "fashion_mnist"])
def test_only_tfds_current_mnist_is_downloaded_or_stood_in_for(server, name):
    with pytest.raises(DatasetError, match="is not in"):
        load_dataset(name)
    assert not server[1]


# What is read


def test_a_prepared_set_is_known_by_the_hash_of_its_bytes(data_dir):
    dataset = load_dataset("mnist", data_dir)
    labels = dataset.train_labels.tobytes() + dataset.test_labels.tobytes()
    images = dataset.train_images.tobytes() + dataset.test_images.tobytes()
    assert dataset.sha256 == hashlib.sha256(labels + images).hexdigest()


def test_images_are_averaged_down_to_a_size_that_divides_theirs(data_dir):
    whole, small = load_dataset("mnist", data_dir), load_dataset("mnist", data_dir, image_size=7)
    blocks = whole.test_images.astype(np.float64).reshape(len(whole.test_images), 7, 4, 7, 4, 1)
    assert small.test_images.dtype == np.uint8
    assert np.abs(small.test_images - blocks.mean((2, 4))).max() <= 0.5
    assert small.train_images.shape[1:] == (7, 7, 1)
    with pytest.raises(DatasetError, match=r"divide the 28 x 28 pixels of mnist/3.0.1, got 6\.$"):
        load_dataset("mnist", data_dir, image_size=6)


def test_mnist_is_downloaded_where_there_is_none(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    assert load_dataset("mnist:3.0.1").name == "mnist/3.0.1"
    assert (tmp_path / "environment" / "mnist" / "3.0.1").is_dir()
    assert len(server[1]) == 4


def test_a_folder_that_was_named_gets_neither_a_download_nor_a_stand_in(server, tmp_path):
    with pytest.raises(DatasetError, match="'mnist' is not in") as refused:
        load_dataset("mnist", tmp_path)
    # Without the folder, the set would be prepared in another one, which is not searched.
    assert f"scripts.prepare_data mnist --data_dir={tmp_path}`" in str(refused.value)
    assert not server[1]
    assert not (tmp_path / "mnist").exists()


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda shard: os.truncate(shard, shard.stat().st_size - 1),
        lambda shard: shard.write_text("version https://git-lfs.github.com/spec/v1\n"),
        lambda shard: shard.write_bytes(bytes(1_000_000)),
        lambda shard: shard.unlink(),
    ],
    ids=["a byte short", "text", "zeros", "missing"],
)
def test_a_shard_that_is_not_whole_is_named(data_dir, damage):
    shard = data_dir / "mnist" / "3.0.1" / TRAIN_SHARD
    damage(shard)
    with pytest.raises(DatasetError, match=f"{TRAIN_SHARD} is missing, cut short, or not an"):
        load_dataset("mnist", data_dir)


def test_a_shard_with_another_number_of_examples_than_described_is_named(data_dir):
    folder = data_dir / "mnist" / "3.0.1"
    shutil.copy(folder / TRAIN_SHARD.replace("train", "test"), folder / TRAIN_SHARD)
    with pytest.raises(DatasetError, match=f"{TRAIN_SHARD} holds 20 examples, but .* says 60"):
        load_dataset("mnist", data_dir)


def test_a_bit_that_flipped_in_a_shard_is_noticed_and_the_shard_named(data_dir):
    shard = data_dir / "mnist" / "3.0.1" / TRAIN_SHARD
    content = bytearray(shard.read_bytes())
    content[content.index(b"IDAT") + 100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match=f"{TRAIN_SHARD} is damaged"):
        load_dataset("mnist", data_dir)


png = functools.partial(encoded, form="PNG")


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (b"no image", 0, "cannot identify image file"),
        (png(np.zeros((14, 28), np.uint8)), 0, "it has 14 x 28 pixels, not 28 x 28"),
        (png(np.zeros((28, 28), np.uint16)), 0, "it has more than 8 bits"),
        (png(np.zeros((28, 28), np.uint8)), 10, r"label 10 is not in \[0, 10\)"),
    ],
    ids=["no image", "another size", "16 bits", "label"],
)
def test_an_example_unlike_the_others_is_an_error_that_names_its_shard(
    data_dir, image, label, message
):
    examples = [(png(np.full((28, 28), n, np.uint8)), n % 10) for n in range(59)]
    write_shard(data_dir / "mnist" / "3.0.1" / TRAIN_SHARD, [*examples, (image, label)])
    with pytest.raises(DatasetError, match=f"{TRAIN_SHARD} is damaged: .*({message})"):
        load_dataset("mnist", data_dir)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("dataset_info.json", lambda text: "[" * 100_000),
        ("dataset_info.json", lambda text: "{}"),
        ("dataset_info.json", lambda text: text.replace('"mnist"', '"kmnist"')),
        ("dataset_info.json", lambda text: text.replace('"train"', '"unlabelled"')),
        ("dataset_info.json", lambda text: text.replace('"test"', '"unlabelled"')),
        ("dataset_info.json", lambda text: text.replace('"60"', '"0"')),
        ("dataset_info.json", lambda text: text.replace("{DATASET}", "{DATA}")),
        ("dataset_info.json", lambda text: text.replace("array_record", "tfrecord")),
        ("features.json", lambda text: "{}"),
        ("features.json", lambda text: text.replace('"1"', '"4"')),
        # TFDS keeps them as PNGs of four channels, the bytes of each number.
        ("features.json", lambda text: text.replace('"uint8"', '"float32"')),
        ("features.json", lambda text: text.replace('"image": {', '"picture": {', 1)),
        ("features.json", None),
    ],
)
def test_a_description_that_is_not_one_is_named(data_dir, file, change):
    path = data_dir / "mnist" / "3.0.1" / file
    if change is None:
        path.unlink()
    else:
        changed = change(path.read_text())
        assert changed != path.read_text()
        path.write_text(changed)
    with pytest.raises(DatasetError, match=file):
        load_dataset("mnist", data_dir)


# The cache


def cache_files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "bnrepro").iterdir())


def assert_same(one, other):
    for field in ("name", "class_names", "sha256"):
        assert getattr(one, field) == getattr(other, field)
    for array in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(one, array), getattr(other, array))
        assert getattr(one, array).dtype == getattr(other, array).dtype


def test_the_second_time_a_set_comes_from_the_cache(data_dir, tmp_path):
    first = load_dataset("mnist", data_dir)
    assert_same(load_dataset("mnist", data_dir), first)
    assert cache_files(tmp_path) == ["mnist-3.0.1.npz"]


def test_a_cached_set_is_had_without_importing_tfds(data_dir):
    load_dataset("mnist", data_dir)
    script = (
        "import sys\nfrom bnrepro.data.datasets import load_dataset\n"
        f"assert load_dataset('mnist', {str(data_dir)!r}).train_images.shape == (60, 28, 28, 1)\n"
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_set_that_changed_is_read_anew_and_takes_the_place_of_its_cache(data_dir, tmp_path):
    before = load_dataset("mnist", data_dir)
    folder = data_dir / "mnist" / "3.0.1"
    (folder / "label.labels.txt").write_text("\n".join(f"digit {n}" for n in range(10)))
    after = load_dataset("mnist", data_dir)
    assert before.class_names[0] == "0"
    assert after.class_names[0] == "digit 0"
    assert cache_files(tmp_path) == ["mnist-3.0.1.npz"]


def flip_a_pixel(cache):
    content = bytearray(cache.read_bytes())
    content[content.index(b"train_images") + 5000] ^= 1
    cache.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: os.truncate(cache, cache.stat().st_size // 2),
        lambda cache: np.savez(cache, something=np.arange(3)),
        flip_a_pixel,
    ],
    ids=["half", "foreign", "a bit flipped"],
)
def test_a_damaged_cache_is_made_anew_with_a_line_in_the_log(data_dir, tmp_path, damage, caplog):
    first = load_dataset("mnist", data_dir)
    cache = tmp_path / "cache" / "bnrepro" / "mnist-3.0.1.npz"
    size = cache.stat().st_size
    damage(cache)
    with caplog.at_level(logging.INFO):
        assert_same(load_dataset("mnist", data_dir), first)
    assert f"{cache} is damaged" in caplog.text
    assert cache.stat().st_size == size


def test_a_cache_that_cannot_be_finished_leaves_nothing(data_dir, tmp_path, monkeypatch, caplog):
    def fill_the_disk(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    assert load_dataset("mnist", data_dir).name == "mnist/3.0.1"
    assert "No space left" in caplog.text
    assert cache_files(tmp_path) == []


# The stand-in


def test_without_data_and_network_the_digits_stand_in_and_a_warning_says_so(
    no_network, tmp_path, caplog, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    dataset = load_dataset("mnist")
    assert dataset.stand_in
    assert dataset.name == "digits (scikit-learn 8x8, stand-in for mnist)"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path) in record.getMessage()
    assert "python -m scripts.prepare_data mnist" in record.getMessage()


def test_the_digits_are_all_of_them_once_in_the_form_of_mnist(no_network):
    from sklearn.datasets import load_digits

    dataset = load_dataset("mnist")
    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert dataset.class_names == tuple("0123456789")
    restored = sorted(np.round(image / 255 * 16).astype(int).tobytes() for image in images)
    assert restored == sorted(image.astype(int).tobytes() for image in load_digits().images)


def test_a_fifth_of_each_digit_is_for_testing_and_always_the_same(no_network):
    dataset = load_dataset("mnist")
    train, test = (np.bincount(labels) for labels in (dataset.train_labels, dataset.test_labels))
    np.testing.assert_array_equal(test, (train + test) // 5)
    assert_same(load_dataset("mnist"), dataset)


# The real set


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "mnist/3.0.1").is_dir(), reason="$TFDS_DATA_DIR has no MNIST")
def test_the_real_mnist_is_whole():
    dataset = load_dataset("mnist", REAL_DATA)
    assert dataset.train_images.shape == (60000, 28, 28, 1)
    assert dataset.test_images.shape == (10000, 28, 28, 1)
    assert dataset.train_images.dtype == np.uint8
    assert (dataset.train_images.min(), dataset.train_images.max()) == (0, 255)
    np.testing.assert_array_equal(
        np.bincount(dataset.train_labels),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    np.testing.assert_array_equal(
        np.bincount(dataset.test_labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    # LeCun et al.'s well-known mean and deviation of the training pixels.
    assert dataset.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert dataset.train_images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_a_cache_that_runs_code_when_unpickled_is_not_unpickled(data_dir, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trap"),))

    load_dataset("mnist", data_dir)
    cache = tmp_path / "cache" / "bnrepro" / "mnist-3.0.1.npz"
    np.savez(cache, fingerprint=np.array([Trap()], object))
    load_dataset("mnist", data_dir)
    assert not (tmp_path / "trap").exists()


def test_where_the_download_cannot_be_put_the_digits_stand_in(
    server, tmp_path, caplog, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    assert load_dataset("mnist").stand_in
    assert str(tmp_path / "file") in caplog.text
