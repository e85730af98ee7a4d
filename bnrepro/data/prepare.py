"""MNIST and Tiny ImageNet as TFDS prepares them, without TensorFlow."""

import gzip
import io
import os
import pathlib
import tempfile
import types
import typing
import zipfile
from collections.abc import Iterator

import numpy as np
import requests
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image
from tensorflow_datasets.core.download import checksums, download_manager
from tensorflow_datasets.core.utils import Size
from tensorflow_datasets.image_classification import mnist

from bnrepro.data.datasets import DatasetError
from bnrepro.errors import first_line

_TIMEOUT = (5, 30)  # seconds: to connect, and between two packets


class Mnist(mnist.MNIST, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's builder, without TensorFlow for its two steps of unpacking and PNG encoding."""

    name = "mnist"
    url_infos = mnist.MNIST.url_infos  # TFDS's registered sizes and checksums

    def _split_generators(self, dl_manager: typing.Any) -> typing.Any:
        without_unpacking = types.SimpleNamespace(download_and_extract=dl_manager.download)
        return super()._split_generators(without_unpacking)

    def _generate_examples(
        self, num_examples: int, data_path: os.PathLike[str], label_path: os.PathLike[str]
    ) -> Iterator[tuple[int, dict[str, typing.Any]]]:
        images = _read_idx(data_path, (num_examples, *mnist.MNIST_IMAGE_SHAPE[:2]))
        labels = _read_idx(label_path, (num_examples,))
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, format="PNG")
            yield index, {"image": encoded.getvalue(), "label": int(label)}


class TinyImagenet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Tiny ImageNet: all 200 classes, or the first 100 by WordNet id.

    Its labelled validation images are the test set. Source: http://cs231n.stanford.edu/tiny-imagenet-200.zip.
    """

    name = "tiny_imagenet"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: typing.ClassVar = [tfds.core.BuilderConfig(name=n) for n in ("100", "200")]
    URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    url_infos: typing.ClassVar = {
        URL: checksums.UrlInfo(
            size=Size(248_100_043),
            checksum="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            filename="tiny-imagenet-200.zip",
        )
    }

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=int(self.builder_config.name)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: typing.Any) -> typing.Any:
        archive = zipfile.ZipFile(dl_manager.download(self.URL))
        ids = archive.read("tiny-imagenet-200/wnids.txt").decode().split()
        label = self.info.features["label"]
        label.names = sorted(ids)[: label.num_classes]
        return {split: self._generate_examples(archive, split) for split in ("train", "validation")}

    def _generate_examples(
        self, archive: zipfile.ZipFile, split: str
    ) -> Iterator[tuple[str, dict[str, typing.Any]]]:
        folder = f"tiny-imagenet-200/{'train' if split == 'train' else 'val'}"
        known, label_of = set(self.info.features["label"].names), {}
        if split == "validation":
            lines = archive.read(f"{folder}/val_annotations.txt").decode().splitlines()
            label_of = dict(line.split("\t")[:2] for line in lines)
        for path in archive.namelist():
            if path.startswith(folder) and path.endswith(".JPEG"):
                file = path.rsplit("/", 1)[1]
                # The images of a class to train on are called after it.
                label = label_of.get(file, file.split("_")[0])
                if label in known:
                    yield file, {"image": _rgb(archive.read(path)), "label": label}


def _rgb(encoded: bytes) -> bytes:
    """The same JPEG, or a grey one written again in RGB, without visible loss."""
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode == "RGB":
            return encoded
        again = io.BytesIO()
        image.convert("RGB").save(again, format="JPEG", quality=95, subsampling=0)
    return again.getvalue()


def prepare(
    builder_class: type[tfds.core.DatasetBuilder],
    data_dir: str | os.PathLike[str],
    config: str | None = None,
) -> pathlib.Path:
    """Downloads a set and writes it as TFDS does; does nothing if it is already there.

    The set appears when it is complete; a failed attempt leaves nothing behind.

    Args:
      builder_class: writes the set; its files are those of its `url_infos`.
      data_dir: the folder for data sets, created if needed.
      config: the name of one of its configs, if it has any.

    Returns:
      The folder of the set in data_dir, such as `mnist/3.0.1`.

    Raises:
      DatasetError: a downloaded file does not match TFDS's checksum, or something else is where
        the set should be.
      OSError: the download failed, or data_dir cannot be written.
    """
    data_dir = pathlib.Path(data_dir).expanduser()
    folder = data_dir / builder_class.name / (config or "") / str(builder_class.VERSION)
    if (folder / "dataset_info.json").exists():
        return folder
    if folder.exists():
        raise DatasetError(f"{folder} has no dataset_info.json: move it away to prepare the set.")
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=data_dir) as workdir:
        _download(builder_class.url_infos, pathlib.Path(workdir))
        builder = builder_class(config=config, data_dir=workdir)
        try:
            builder.download_and_prepare(
                download_dir=workdir,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=workdir, force_checksums_validation=True, try_download_gcs=False
                ),
                file_format="array_record",
            )
        except download_manager.NonMatchingChecksumError as error:
            raise DatasetError(
                f"The download does not match TFDS's checksums: {first_line(error)}."
            ) from error
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            pathlib.Path(builder.data_dir).rename(folder)
        except OSError:
            if not (folder / "dataset_info.json").exists():  # another process was not faster
                raise
    return folder


def _download(url_infos: typing.Any, folder: pathlib.Path) -> None:
    """Downloads files to where TFDS looks for manually downloaded files.

    TFDS's own downloader has no timeout and tries an unresponsive host for 200 s.
    """
    for url, registered in url_infos.items():
        try:
            response = requests.get(url, timeout=_TIMEOUT)
            response.raise_for_status()
        except requests.RequestException as error:
            raise ConnectionError(f"{url} cannot be downloaded: {type(error).__name__}") from error
        (folder / registered.filename).write_bytes(response.content)


def _read_idx(path: os.PathLike[str], shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """The bytes of a gzipped IDX file, the format of MNIST's four files, verified by checksums."""
    content = gzip.decompress(pathlib.Path(path).read_bytes())
    # The header has four bytes for the type and number of axes, and four for each length.
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
