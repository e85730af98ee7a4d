import functools
import hashlib
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bnrepro.data.datasets import DatasetError, load_dataset
from tests.small_shards import TRAIN, encoded, write_set, write_shard

REAL_DATA = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "nowhere"))
TRAIN_SHARD = "squares-train.array_record-00000-of-00002"

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def folder(data_dir):
    """Of the set itself."""
    return data_dir / "squares" / "1.0.0"


# Names, and where they are looked for


@pytest.mark.parametrize("name", ["", "../mnist", "mnist/..", "mnist:3", "mnist:3.*.*", "m n"])
def test_a_malformed_name_is_an_error_that_shows_the_right_form(name):
    with pytest.raises(DatasetError, match=r"not the name of a data set.* name\[/config\]\[:v"):
        load_dataset(name)


def test_data_dir_comes_before_the_environment_and_that_before_the_default(tmp_path, monkeypatch):
    write_set(tmp_path / "home" / "tensorflow_datasets", "squares/9.0.0")
    write_set(tmp_path / "environment", "squares/5.0.0")
    write_set(tmp_path / "data", "squares/3.0.1")
    assert load_dataset("squares").name == "squares/9.0.0"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    assert load_dataset("squares").name == "squares/5.0.0"
    assert load_dataset("squares", tmp_path / "data").name == "squares/3.0.1"
    with pytest.raises(DatasetError, match="is not in"):  # it is the only one
        load_dataset("squares:9.0.0", tmp_path / "data")


def test_a_folder_of_nobody_is_an_error(data_dir, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody_here/cache")
    for folder, wrong in (("~nobody_here/data", "data"), (data_dir, "cache")):
        with pytest.raises(DatasetError, match=f"^~nobody_here/{wrong} cannot be found: Could not"):
            load_dataset("squares", folder)


def test_the_highest_version_is_taken_by_number_where_none_is_named(data_dir):
    write_set(data_dir, "squares/1.0.10")
    write_set(data_dir, "squares/1.0.9")
    (data_dir / "squares" / "4.0.0").mkdir()
    assert load_dataset("squares", data_dir).name == "squares/1.0.10"
    assert load_dataset("squares:1.0.9", data_dir).name == "squares/1.0.9"


def test_the_only_config_is_taken_but_one_of_several_must_be_named(tmp_path):
    write_set(tmp_path, "squares/red/1.0.0")
    assert load_dataset("squares", tmp_path).name == "squares/red/1.0.0"
    write_set(tmp_path, "squares/blue/1.0.0")
    with pytest.raises(DatasetError, match=r"any of squares/blue:1\.0\.0, squares/red:1\.0\.0"):
        load_dataset("squares", tmp_path)
    assert load_dataset("squares/blue", tmp_path).name == "squares/blue/1.0.0"


def test_a_set_that_is_nowhere_is_an_error_with_the_folders_the_way_and_the_known_sets(
    data_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    write_set(data_dir, "triangles/red/1.0.0")
    with pytest.raises(DatasetError) as error:
        load_dataset("circles")
    message = str(error.value)
    for folder in (data_dir, tmp_path / "home" / "tensorflow_datasets"):
        assert str(folder) in message
    assert "python -m scripts.prepare_data circles" in message
    assert "squares:1.0.0, triangles/red:1.0.0" in message


@pytest.mark.parametrize("name", ["mnist:1.0.0", "mnist/config", "fashion_mnist"])
def test_only_tfds_current_mnist_is_downloaded_or_stood_in_for(server, name):
    with pytest.raises(DatasetError, match="is not in"):
        load_dataset(name)
    assert not server[1]


# What is read


def test_a_prepared_set_is_known_by_the_hash_of_its_bytes(data_dir):
    dataset = load_dataset("squares", data_dir)
    labels = dataset.train_labels.tobytes() + dataset.test_labels.tobytes()
    images = dataset.train_images.tobytes() + dataset.test_images.tobytes()
    assert dataset.sha256 == hashlib.sha256(labels + images).hexdigest()


def test_images_are_averaged_down_to_a_size_that_divides_theirs(data_dir):
    whole, small = (load_dataset("squares", data_dir, image_size=size) for size in (0, 4))
    blocks = whole.test_images.astype(np.float64).reshape(len(whole.test_images), 4, 4, 4, 4, 3)
    assert small.test_images.dtype == np.uint8
    assert np.abs(small.test_images - blocks.mean((2, 4))).max() <= 0.5
    assert small.train_images.shape == (TRAIN, 4, 4, 3)
    with pytest.raises(DatasetError, match=r"divide the 16 x 16 pixels of squares/1.0.0, got 6\.$"):
        load_dataset("squares", data_dir, image_size=6)


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


def flip_a_bit(path, after):
    content = bytearray(path.read_bytes())
    content[content.index(after) + 100] ^= 1
    path.write_bytes(content)


NOT_WHOLE = "missing, cut short, or not an"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: os.truncate(shard, shard.stat().st_size - 1), NOT_WHOLE),
        (lambda shard: shard.write_text("version https://git-lfs.github.com/spec/v1\n"), NOT_WHOLE),
        (lambda shard: flip_a_bit(shard, b"JFIF"), "damaged"),
    ],
    ids=["a byte short", "text", "a bit flipped"],
)
def test_a_shard_that_is_not_whole_is_named(folder, damage, message):
    damage(folder / TRAIN_SHARD)
    with pytest.raises(DatasetError, match=f"{TRAIN_SHARD} is {message}"):
        load_dataset("squares", folder.parents[1])


@pytest.mark.parametrize("file", [TRAIN_SHARD, "features.json"])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("squares/1.0.0", "tfds build --file_format=array_record squares:1.0.0"),
        ("tiny_imagenet/100/1.0.0", "python -m scripts.prepare_data tiny_imagenet/100:1.0.0"),
    ],
)
def test_where_a_file_is_missing_the_set_is_to_be_prepared_again(tmp_path, name, command, file):
    folder = write_set(tmp_path / "my data", name)
    path = folder / file.replace("squares", name.split("/")[0])
    path.unlink()
    with pytest.raises(DatasetError) as error:
        load_dataset(name.rpartition("/")[0], tmp_path / "my data")
    message = str(error.value)
    assert message.startswith(f"{path} is missing")
    assert message.endswith(
        f": move {folder} away and run `{command} --data_dir='{tmp_path}/my data'`."
    )


def test_a_shard_with_another_number_of_examples_than_described_is_named(folder):
    shutil.copy(folder / TRAIN_SHARD.replace("train", "validation"), folder / TRAIN_SHARD)
    with pytest.raises(DatasetError, match=f"{TRAIN_SHARD} holds 3 examples, but .* says 12"):
        load_dataset("squares", folder.parents[1])


png = functools.partial(encoded, form="PNG")


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (b"no image", 0, "cannot identify image file"),
        (png(np.zeros((8, 16), np.uint8)), 0, "it has 8 x 16 pixels, not 16 x 16"),
        (png(np.zeros((16, 16), np.uint16)), 0, "it has more than 8 bits"),
        (png(np.zeros((16, 16), np.uint8)), 3, r"label 3 is not in \[0, 3\)"),
    ],
    ids=["no image", "another size", "16 bits", "label"],
)
def test_examples_unlike_the_others_are_an_error_that_names_their_shard(
    folder, image, label, message
):
    examples = [(png(np.full((16, 16, 3), n, np.uint8)), 0) for n in range(10)]
    write_shard(folder / TRAIN_SHARD, [*examples, (image, label), (image, label)])
    with pytest.raises(DatasetError, match=f"{TRAIN_SHARD}.* is damaged.*{message}"):
        load_dataset("squares", folder.parents[1])


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("dataset_info.json", lambda text: "[" * 100_000),
        ("dataset_info.json", lambda text: "{}"),
        ("dataset_info.json", lambda text: text.replace('"squares"', '"circles"')),
        ("dataset_info.json", lambda text: text.replace('"12"', '"0"')),
        ("dataset_info.json", lambda text: text.replace("{DATASET}", "{DATA}")),
        ("dataset_info.json", lambda text: text.replace("array_record", "tfrecord")),
        ("features.json", lambda text: "{}"),
        ("features.json", lambda text: text.replace('"jpeg"', '"png"').replace('"3"', '"4"')),
        # TFDS keeps them as PNGs of four channels, the bytes of each number.
        (
            "features.json",
            lambda text: text.replace('"jpeg"', '"png"').replace('"uint8"', '"float32"'),
        ),
        ("features.json", lambda text: text.replace('"image": {', '"picture": {', 1)),
    ],
)
def test_a_description_that_is_not_one_is_named(folder, file, change):
    path = folder / file
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(DatasetError, match=file):
        load_dataset("squares", folder.parents[1])


def test_a_set_without_images_to_test_on_is_told_what_it_lacks(folder):
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"validation"', '"unlabelled"'))
    with pytest.raises(DatasetError, match="in a split named train and in one named test or valid"):
        load_dataset("squares", folder.parents[1])


# The cache


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "bnrepro" / "squares-1.0.0.npz"


def assert_same(one, other):
    for field in ("name", "class_names", "sha256"):
        assert getattr(one, field) == getattr(other, field)
    for array in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(one, array), getattr(other, array))
        assert getattr(one, array).dtype == getattr(other, array).dtype


def test_the_second_time_a_set_comes_from_the_cache_without_importing_tfds(data_dir):
    first = load_dataset("squares", data_dir)
    assert_same(load_dataset("squares", data_dir), first)
    script = (
        "import sys\nfrom bnrepro.data.datasets import load_dataset\n"
        f"assert load_dataset('squares', {str(data_dir)!r}).train_images.shape[1:] == (16, 16, 3)\n"
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_set_that_changed_is_read_anew_and_takes_the_place_of_its_cache(folder, cache):
    before = load_dataset("squares", folder.parents[1])
    (folder / "label.labels.txt").write_text("\n".join(f"class {n}" for n in range(3)))
    after = load_dataset("squares", folder.parents[1])
    assert (before.class_names[0], after.class_names[0]) == ("0", "class 0")
    assert list(cache.parent.iterdir()) == [cache]


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: os.truncate(cache, cache.stat().st_size // 2),
        lambda cache: np.savez(cache, something=np.arange(3)),
        # Which would run code when unpickled, if there were any.
        lambda cache: np.savez(cache, fingerprint=np.array([{}], object)),
        lambda cache: flip_a_bit(cache, b"train_images"),
    ],
    ids=["half", "foreign", "pickled", "a bit flipped"],
)
def test_a_damaged_cache_is_made_anew_with_a_line_in_the_log(data_dir, cache, damage, caplog):
    first = load_dataset("squares", data_dir)
    size = cache.stat().st_size
    damage(cache)
    with caplog.at_level(logging.INFO):
        assert_same(load_dataset("squares", data_dir), first)
    assert f"{cache} is damaged" in caplog.text
    assert cache.stat().st_size == size


def test_a_cache_that_cannot_be_finished_leaves_nothing(data_dir, cache, monkeypatch, caplog):
    def fill_the_disk(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    assert load_dataset("squares", data_dir).name == "squares/1.0.0"
    assert "No space left" in caplog.text
    assert not list(cache.parent.iterdir())


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


def test_where_the_download_cannot_be_put_the_digits_stand_in(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    assert load_dataset("mnist").stand_in


def test_the_digits_are_all_of_them_once_and_always_the_same_fifth_of_each_is_for_testing(
    no_network,
):
    from sklearn.datasets import load_digits

    dataset = load_dataset("mnist")
    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert dataset.class_names == tuple("0123456789")
    restored = sorted(np.round(image / 255 * 16).astype(int).tobytes() for image in images)
    assert restored == sorted(image.astype(int).tobytes() for image in load_digits().images)
    train, test = (np.bincount(labels) for labels in (dataset.train_labels, dataset.test_labels))
    np.testing.assert_array_equal(test, (train + test) // 5)
    assert_same(load_dataset("mnist"), dataset)


# The real set


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "mnist/3.0.1").is_dir(), reason="$TFDS_DATA_DIR has no MNIST")
def test_the_real_mnist_is_whole():
    dataset = load_dataset("mnist", REAL_DATA)
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
