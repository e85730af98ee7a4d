"""Sets as TFDS writes them: their descriptions, their ArrayRecord files, and the examples there."""

import copy
import io
import logging
import pathlib
import resource
import shlex
import typing
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Int32, UInt8

from bnrepro.errors import UserError, first_line

if typing.TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

INFO = "dataset_info.json"
_FEATURES = "features.json"
# Sets whose split `test` has no labels.
_UNLABELLED_TEST = ("imagenet2012",)
_MODES: dict[int | None, str] = {1: "L", 3: "RGB"}
# Files that a process may have open besides those of a split.
_OTHER_FILES = 1_024
# One at a time takes about ten times as long.
_RECORDS_AT_ONCE = 1_000


class DatasetError(UserError):
    """A data set is unavailable or damaged."""


class Prepared(typing.NamedTuple):
    """A set that TFDS wrote, as its two JSON files describe it.

    Attributes:
      files: (path, number of examples) of each shard, in order, of the splits `train` and `test`.
      shape: height, width and channels of the images; None for those that differ between them.
      class_names: one for each label.
    """

    files: dict[str, list[tuple[str, int]]]
    shape: tuple[int | None, ...]
    class_names: tuple[str, ...]


def open_prepared(folder: pathlib.Path, name: str) -> Prepared:
    """Reads the description of the set in a folder, and makes sure that its shards are whole.

    Raises:
      DatasetError: a file is missing or damaged, or describes another set; the message names it.
    """
    import tensorflow_datasets as tfds  # here, since it takes a second, which a cached set saves

    if not (folder / _FEATURES).is_file():
        raise DatasetError(f"{folder / _FEATURES} is missing: {_how_to_prepare(folder, name)}.")
    try:
        info = tfds.builder_from_directory(folder).info
        shards = {
            split: [
                (str(path), length)
                for path, length in zip(files.filepaths, files.shard_lengths, strict=True)
                if length  # array_record takes it for a mistake to read nothing
            ]
            for split, files in info.splits.items()
        }
    except Exception as error:  # TFDS and protobuf raise many kinds
        raise DatasetError(
            f"{folder / INFO} and {_FEATURES} do not describe a set ({first_line(error)}): "
            f"{_how_to_prepare(folder, name)}."
        ) from error
    if info.full_name != name:
        raise DatasetError(f"{folder / INFO} describes {info.full_name}, not {name}.")
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DatasetError(
            f"{folder / INFO} describes {info.file_format.value} files, not ArrayRecord: "
            "prepare the set elsewhere, "
            f"with `python -m scripts.prepare_data {info.name} --data_dir=FOLDER`."
        )
    image, label = (dict(info.features).get(key) for key in ("image", "label"))
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise DatasetError(
            f"{folder / _FEATURES} must have an image (Image) and a label (ClassLabel), "
            f"but has {', '.join(info.features)}."
        )
    if image.shape[2] not in _MODES or image.np_dtype != np.uint8:
        raise DatasetError(
            f"{folder / _FEATURES} must have images of one channel or three in uint8, not of "
            f"{image.shape[2]} in {np.dtype(image.np_dtype)}."
        )
    labelled = "test" in shards and info.name not in _UNLABELLED_TEST
    splits = {"train": "train", "test": "test" if labelled else "validation"}
    for split in splits.values():
        if not shards.get(split):
            raise DatasetError(
                f"{folder / INFO} must have examples in a split named train and in one named test "
                f"or validation, but has none in {split}."
            )
        for shard, length in shards[split]:
            if fault := _fault(shard, length):
                raise DatasetError(f"{shard} {fault}: {_how_to_prepare(folder, name)}.")
    files = {split: shards[stored] for split, stored in splits.items()}
    return Prepared(files, tuple(image.shape), tuple(label.names))


def read_labels(
    prepared: Prepared, split: str
) -> tuple[Int32[np.ndarray, "n"], Int32[np.ndarray, "n"]]:
    """All labels, and the sizes of the images' files, in the order of the shards.

    Args:
      prepared: the set.
      split: `train` or `test`.

    Raises:
      DatasetError: a shard is damaged; the message names it.
    """
    files, num_classes = prepared.files[split], len(prepared.class_names)
    records = _record_source(files)
    labels: list[int] = []
    sizes: list[int] = []
    for path, length in files:
        places = range(len(labels), len(labels) + length)
        try:
            for encoded, label in map(_parse, records.__getitems__(places)):
                if not 0 <= label < num_classes:
                    raise ValueError(f"label {label} is not in [0, {num_classes})")
                labels.append(label)
                sizes.append(len(encoded))
        except MemoryError:  # not of the file
            raise
        except Exception as error:  # array_record, protobuf and TFDS raise a dozen kinds
            raise DatasetError(f"{path} is damaged: {first_line(error)}.") from error
    return np.array(labels, np.int32), np.array(sizes, np.int32)


class Shards:
    """The images of a split, left in its shards and decoded one at a time.

    A slice is a view of some of them. A damaged image is replaced by the next intact one of the
    same label, whoever asks for it and when, and reported once.

    Attributes:
      shape: height, width and channels; None for those that differ between images.

    Raises:
      DatasetError: the system lets this process open too few files.
    """

    def __init__(
        self,
        files: list[tuple[str, int]],
        labels: Int[np.ndarray, "n"],
        shape: tuple[int | None, ...],
    ):
        self.shape = shape
        # A view has the labels of the whole split: a damaged image is replaced by the same one in
        # all views.
        self._files, self._labels, self._numbers = files, labels, range(len(labels))
        self._records = _record_source(files)
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, part: slice) -> "Shards":
        view = copy.copy(self)
        view._numbers = self._numbers[part]
        return view

    def image(self, index: int) -> "Image.Image":
        """An image, in grey or RGB as the set's shape says.

        Raises:
          DatasetError: more than one image in a thousand is damaged, or all of this label.
        """
        number = self._numbers[index]
        for one in self._and_alike(number):
            try:
                return _decode(self._records[one], self.shape)
            except Exception as error:  # array_record, protobuf and PIL raise a dozen kinds
                self._report(one, error)
        raise DatasetError(f"{self._where(number)} and all others of its label are damaged.")

    def decoded(self) -> UInt8[np.ndarray, "n height width channels"]:
        """All images, in memory.

        Raises:
          DatasetError: they differ in size, or do not fit in memory; as `image`.
        """
        from bnrepro.data.augment import as_array  # here, since it imports Pillow

        first = as_array(self.image(0))  # gives a size that features.json leaves out
        try:
            pixels = np.empty((len(self), *first.shape), np.uint8)
        except MemoryError as error:
            message = "The images do not fit in memory: set stream and image_size."
            raise DatasetError(message) from error
        for start in range(0, len(self), _RECORDS_AT_ONCE):
            numbers = self._numbers[start : start + _RECORDS_AT_ONCE]
            for index, record in enumerate(self._records.__getitems__(numbers), start):
                try:
                    image = as_array(_decode(record, self.shape))
                except Exception:  # reported, and replaced, where single images are read
                    image = as_array(self.image(index))
                if image.shape != first.shape:
                    raise DatasetError("The images differ in size: set stream and image_size.")
                pixels[index] = image
        return pixels

    def _and_alike(self, number: int) -> Iterator[int]:
        """This number, then those of the others of its label, in turn."""
        yield number
        alike = np.flatnonzero(self._labels == self._labels[number])
        yield from np.roll(alike, -int(np.searchsorted(alike, number)))[1:].tolist()

    def _report(self, number: int, error: Exception) -> None:
        if isinstance(error, MemoryError):  # not of the image
            raise error
        if number in self._damaged:
            return
        self._damaged.add(number)
        where, why = self._where(number), first_line(error)
        most = max(1, sum(length for _, length in self._files) // 1000)
        if len(self._damaged) > most:
            raise DatasetError(
                f"{where} is damaged ({why}), which makes {len(self._damaged):,}; at most {most:,} "
                "damaged images are replaced: prepare the set again."
            ) from error
        count = f"{len(self._damaged):,} of at most {most:,}"
        _log.warning("%s is damaged (%s), %s: others of its label replace it.", where, why, count)

    def _where(self, number: int) -> str:
        ends = np.cumsum([length for _, length in self._files])
        shard = int(np.searchsorted(ends, number, side="right"))
        path, length = self._files[shard]
        return f"{path}, record {number - ends[shard] + length:,},"


def _allow_open_files(count: int) -> None:
    """Raises the process's own limit, often 1,024: each shard stays open, and ImageNet has more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise DatasetError(f"The set needs {count:,} open files: raise `ulimit -n` from {hard:,}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _record_source(files: list[tuple[str, int]]) -> typing.Any:
    """All records of some files by number, read when asked for."""
    from array_record.python import array_record_data_source

    _allow_open_files(len(files) + _OTHER_FILES)

    # TFDS could also parse and decode, but takes twice as long.
    return array_record_data_source.ArrayRecordDataSource([path for path, _ in files])


def _parse(record: bytes) -> tuple[bytes, int]:
    """The encoded image and the label of an example."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record).features.feature
    (encoded,) = example["image"].bytes_list.value
    (label,) = example["label"].int64_list.value
    return encoded, label


def _how_to_prepare(folder: pathlib.Path, full_name: str) -> str:
    """What to do about a set that is not whole."""
    name, *config, version = full_name.split("/")
    ours = name in ("mnist", "tiny_imagenet")
    command = "python -m scripts.prepare_data" if ours else "tfds build --file_format=array_record"
    data_dir = shlex.quote(str(folder.parents[1 + len(config)]))
    reference = f"{'/'.join([name, *config])}:{version}"
    return f"move {folder} away and run `{command} {reference} --data_dir={data_dir}`"


def _fault(path: str, length: int) -> str:
    """What is wrong with a shard, if anything."""
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(path)  # never raises
    if not reader.ok():
        return "is missing, cut short, or not an ArrayRecord file"
    if reader.num_records() != length:
        return f"holds {reader.num_records()} examples, but {INFO} says {length}"
    reader.close()
    return ""


def _decode(record: bytes, shape: tuple[int | None, ...]) -> "Image.Image":
    """The image of an example in grey or RGB, as the shape of its set says.

    Raises:
      Exception: of many kinds, if it is no image of that height and width, or not of 8 bits.
    """
    from PIL import Image

    height, width, channels = shape
    encoded, _ = _parse(record)
    with Image.open(io.BytesIO(encoded)) as opened:
        if opened.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits (mode {opened.mode})")
        image = opened.convert(_MODES[channels])
    if height not in (None, image.height) or width not in (None, image.width):
        raise ValueError(f"it has {image.height} x {image.width} pixels, not {height} x {width}")
    return image
