"""Data sets by their TFDS names, read as NumPy arrays and kept in a cache.

A prepared set (ArrayRecord files, as TFDS writes them) is looked for in `data_dir` or, if that is
not given, in `$TFDS_DATA_DIR` and TFDS's default folder. Nothing here needs TensorFlow, and reading
from the cache does not import TFDS either.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import shlex
import tempfile
import typing
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Int32

from bnrepro.data.shards import INFO, DatasetError, Shards, open_prepared, read_labels
from bnrepro.errors import first_line

_log = logging.getLogger(__name__)

_NAME = r"(?P<name>[A-Za-z]\w*)(/(?P<config>\w[\w.+-]*))?"
_VERSION = r"(?P<version>\d+\.\d+\.\d+)"
_TFDS_FOLDER = "~/tensorflow_datasets"
_LABELS = ("train_labels", "test_labels")
_ARRAYS = (*_LABELS, "train_images", "test_images")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled set of images: in memory and of one size, or left in shards.

    Attributes:
      name: as records and tables show it: "mnist/3.0.1", or "digits (scikit-learn 8x8, stand-in
        for mnist)".
      train_images, test_images: uint8 arrays (examples, height, width, channels), or `Shards`.
      train_labels, test_labels: indices into class_names.
      class_names: one for each label.
      stand_in: whether scikit-learn's digits stand in for MNIST.
      sha256: of the bytes of train_labels, test_labels, train_images and test_images as prepared,
        in hexadecimal; for shards, instead of the images, of the sizes of their files, which takes
        less time; "" for the stand-in.
      holdout_images: taken from the end of the training set, to choose settings by.
      holdout_labels: their labels.
    """

    name: str
    train_images: typing.Any
    train_labels: Int32[np.ndarray, "train"]
    test_images: typing.Any
    test_labels: Int32[np.ndarray, "test"]
    class_names: tuple[str, ...]
    stand_in: bool = False
    sha256: str = ""
    holdout_images: typing.Any = None
    holdout_labels: Int32[np.ndarray, "holdout"] | None = None

    def hold_out(self, count: int) -> "Dataset":
        """The set without its last `count` training images, which become the holdout."""
        if not count:
            return self
        return dataclasses.replace(
            self,
            train_images=self.train_images[:-count],
            train_labels=self.train_labels[:-count],
            holdout_images=self.train_images[-count:],
            holdout_labels=self.train_labels[-count:],
        )


class Reference(typing.NamedTuple):
    """The parts of TFDS's `name[/config][:version]`; None for those left out."""

    name: str
    config: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.name}{config}" + (f":{self.version}" if self.version else "")

    @property
    def full_name(self) -> str:
        """`name[/config]/version`: where TFDS puts the set in a data folder."""
        return "/".join(part for part in self if part)


# The names of the only set that is downloaded, or replaced by a stand-in, if it is not found.
MNIST = (Reference("mnist"), Reference("mnist", version="3.0.1"))


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    image_size: int = 0,
    stream: bool = False,
) -> Dataset:
    """Reads a data set into memory; downloads MNIST if it is not found and no folder was named.

    If MNIST cannot be downloaded either, scikit-learn's 8x8 digits stand in for it, and a warning
    says so.

    Args:
      name: `name[/config][:version]`, as TFDS writes it. By default, the highest version and the
        only config are taken.
      data_dir: the folder to search; None for `$TFDS_DATA_DIR`, then TFDS's default folder.
      image_size: height and width to which images are reduced by averaging equal blocks of pixels;
        0 to leave them as stored. A stream resizes them itself.
      stream: read only the labels, and leave the images in their shards.

    Returns:
      The set, with TFDS's split `test` as the test set, or `validation` if there is no `test` or,
      as in imagenet2012, none with labels. A stand-in is in memory in any case.

    Raises:
      DatasetError: a malformed name; a set that is not found, or is found in several configs; a
        damaged or foreign file, which the message names; a size that does not divide the images';
        a stream of images that differ in size, without a size.
    """
    dataset = _load(name, data_dir, stream)
    if isinstance(dataset.train_images, Shards):
        if not image_size and None in dataset.train_images.shape:
            raise DatasetError(f"The images of {dataset.name} differ in size: set image_size.")
        return dataset
    return _resized(dataset, image_size) if image_size else dataset


def _load(name: str, data_dir: str | os.PathLike[str] | None, stream: bool) -> Dataset:
    wanted = parse_name(name)
    folders = data_folders(data_dir)
    where = " or ".join(map(str, folders))
    found = find_prepared(wanted, folders)
    if found is None and wanted in MNIST and not data_dir:
        from bnrepro.data import prepare  # here, since it imports TFDS

        try:
            prepare.prepare(prepare.Mnist, folders[0])
        except OSError as error:
            _log.warning(
                "MNIST is not in %s and cannot be downloaded there (%s): scikit-learn's 8x8 digits "
                "stand in for it. For the real data, run `python -m scripts.prepare_data mnist` "
                "with a network, or set data_dir or TFDS_DATA_DIR to the folder that has it.",
                where,
                error,
            )
            return _digits()
        found = find_prepared(wanted, folders)
    if found is None:
        known = sorted({str(known) for folder in folders for known in _prepared(folder)})
        there = f" --data_dir={shlex.quote(str(data_dir))}" if data_dir else ""
        raise DatasetError(
            f"The data set {name!r} is not in {where}: prepare it there with `python -m "
            f"scripts.prepare_data {name}{there}` or TFDS's `tfds build {name} "
            f"--file_format=array_record{there}`, or set data_dir (or, without it, TFDS_DATA_DIR) "
            "to the folder that has it"
            + (f" (prepared there: {', '.join(known)})." if known else ".")
        )
    folder, full_name = found
    if stream:
        return _open_stream(folder, full_name)
    keys = (*_ARRAYS, "class_names", "sha256")
    arrays = _cached(folder, full_name, keys, lambda: _read_prepared(folder, full_name))
    class_names, sha256 = (arrays.pop(key).tolist() for key in ("class_names", "sha256"))
    return Dataset(full_name, **arrays, class_names=tuple(class_names), sha256=sha256)


def _read_prepared(folder: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a set, with its names of classes and `Dataset.sha256`."""
    prepared = open_prepared(folder, name)
    arrays = {"class_names": np.array(prepared.class_names)}
    # The smaller split first: where images differ in size, the other need not be read.
    for split, files in reversed(prepared.files.items()):
        labels, _ = read_labels(prepared, split)
        images = Shards(files, labels, prepared.shape).decoded()
        arrays |= {f"{split}_labels": labels, f"{split}_images": images}
    # Once, since it takes longer than to read the cache.
    return arrays | {"sha256": _hash(*(arrays[key] for key in _ARRAYS))}


def _hash(*arrays: np.ndarray) -> np.ndarray:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    return np.array(digest.hexdigest())


def _open_stream(folder: pathlib.Path, name: str) -> Dataset:
    prepared = open_prepared(folder, name)

    def read() -> dict[str, np.ndarray]:
        splits = [read_labels(prepared, split) for split in prepared.files]
        labels, sizes = zip(*splits, strict=True)
        return dict(zip(_LABELS, labels, strict=True)) | {"sha256": _hash(*labels, *sizes)}

    labels = _cached(folder, f"{name}-labels", (*_LABELS, "sha256"), read)
    sha256 = labels.pop("sha256").item()
    images: dict[str, typing.Any] = {
        f"{split}_images": Shards(files, labels[f"{split}_labels"], prepared.shape)
        for split, files in prepared.files.items()
    }
    return Dataset(name, **images, **labels, class_names=prepared.class_names, sha256=sha256)


def _resized(dataset: Dataset, size: int) -> Dataset:
    height, width = dataset.train_images.shape[1:3]
    check_divides(size, height, width, dataset.name)
    down, across = height // size, width // size

    def pooled(images: np.ndarray) -> np.ndarray:
        blocks = images.reshape(-1, size, down, size, across, images.shape[-1])
        # In parts, since float32 takes four times the memory.
        means = (part.mean((2, 4), np.float32) for part in np.array_split(blocks, 64))
        return np.concatenate([np.rint(mean).astype(np.uint8) for mean in means])

    return dataclasses.replace(
        dataset,
        train_images=pooled(dataset.train_images),
        test_images=pooled(dataset.test_images),
    )


def check_divides(size: int, height: int, width: int, name: str) -> None:
    """Makes sure that the images of the set of that name can be averaged down to a size."""
    if height % size or width % size:
        raise DatasetError(
            f"image_size must divide the {height} x {width} pixels of {name}, got {size}."
        )


def parse_name(name: str) -> Reference:
    """Takes TFDS's `name[/config][:version]` apart; anything else is a DatasetError."""
    match = re.fullmatch(f"{_NAME}(:{_VERSION})?", name, re.ASCII)
    if match is None:
        raise DatasetError(
            f"{name!r} is not the name of a data set: TFDS's names are name[/config][:version], "
            "such as mnist, mnist:3.0.1 or tiny_imagenet/100."
        )
    return Reference(**match.groupdict())


def data_folders(data_dir: str | os.PathLike[str] | None) -> list[pathlib.Path]:
    """The folders that may hold prepared sets: only `data_dir`, if given, or TFDS's in order.

    Raises:
      DatasetError: one is below a home directory that cannot be found.
    """
    candidates = (data_dir,) if data_dir else (os.environ.get("TFDS_DATA_DIR"), _TFDS_FOLDER)
    named = dict.fromkeys(folder for folder in candidates if folder)
    return [_expanded(folder) for folder in named]


def _expanded(folder: str | os.PathLike[str]) -> pathlib.Path:
    try:
        return pathlib.Path(folder).expanduser()
    except RuntimeError as error:  # there is no such user
        raise DatasetError(f"{folder} cannot be found: {first_line(error)}.") from error


def find_prepared(
    wanted: Reference, folders: list[pathlib.Path]
) -> tuple[pathlib.Path, str] | None:
    """The folder and full name ("mnist/3.0.1") of the set a name means; None if no folder has it.

    Raises:
      DatasetError: the name does not say which config, and there are several.
    """
    for folder in folders:
        found = [
            prepared
            for prepared in _prepared(folder, wanted.name)
            if wanted.config in (None, prepared.config)
            and wanted.version in (None, prepared.version)
        ]
        if len({prepared.config for prepared in found}) > 1:
            choices = ", ".join(sorted(map(str, found)))
            raise DatasetError(f"{str(wanted)!r} may be any of {choices} in {folder}: choose one.")
        if found:
            newest = max(found, key=lambda each: [int(n) for n in str(each.version).split(".")])
            return folder / newest.full_name, newest.full_name
    return None


def _prepared(folder: pathlib.Path, name: str = "*") -> list[Reference]:
    """The sets in a data folder, or only those of one name."""
    infos = [path for depth in ("*", "*/*") for path in folder.glob(f"{name}/{depth}/{INFO}")]
    full_names = [info.parent.relative_to(folder).as_posix() for info in infos]
    matches = [re.fullmatch(f"{_NAME}/{_VERSION}", full_name, re.ASCII) for full_name in full_names]
    return [Reference(**match.groupdict()) for match in matches if match]


def _cached(
    folder: pathlib.Path,
    name: str,
    keys: Iterable[str],
    read: Callable[[], dict[str, np.ndarray]],
) -> dict[str, typing.Any]:
    """Arrays of the set in a folder, by these keys: what `read` returns, or returned before.

    A cache file is complete or absent at any moment, and has the names, sizes and modification
    times of the folder's files: hashing them would take longer.
    """
    files = (path for path in folder.rglob("*") if path.is_file())
    stats = {str(path.relative_to(folder)): path.stat() for path in files}
    fingerprint = json.dumps([(n, s.st_size, s.st_mtime_ns) for n, s in sorted(stats.items())])
    home = _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bnrepro"
    cache = home / f"{name.replace('/', '-')}.npz"
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as cached:
            if cached["fingerprint"] == fingerprint:
                return {key: cached[key] for key in keys}
            _log.info("%s is out of date: reading the data set again.", cache)
    except FileNotFoundError:
        pass
    except Exception as error:  # zipfile and NumPy raise many kinds on a damaged file
        _log.info("%s is damaged (%s): replacing it.", cache, first_line(error))
    arrays = read()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as beside:
            complete = pathlib.Path(beside, cache.name)
            np.savez(complete, fingerprint=fingerprint, **arrays)  # type: ignore[arg-type]
            complete.replace(cache)
    except OSError as error:
        _log.warning("%s cannot be cached: %s.", cache, error)
    return arrays


def _digits() -> Dataset:
    """scikit-learn's 8x8 digits; every fifth image of each class, in order, is for testing."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)  # from 0..16
    labels = digits.target.astype(np.int32)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[4::5]] = True
    return Dataset(
        name="digits (scikit-learn 8x8, stand-in for mnist)",
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(map(str, digits.target_names)),
        stand_in=True,
    )
