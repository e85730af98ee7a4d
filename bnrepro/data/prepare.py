"""MNIST as TFDS prepares it, without TensorFlow."""

import gzip
import io
import math
import os
import pathlib
import struct
import tempfile
import types
import typing
import zlib
from collections.abc import Iterator

import numpy as np
import requests
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image
from tensorflow_datasets.core.download import download_manager
from tensorflow_datasets.image_classification import mnist

from bnrepro.data.datasets import DatasetError, first_line

_TIMEOUT = (5, 30)  # seconds: to connect, and between two packets


class _Mnist(mnist.MNIST, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's builder, without TensorFlow for its two steps of unpacking and PNG encoding."""

    name = "mnist"
    url_infos = mnist.MNIST.url_infos  # TFDS's registered sizes and checksums

    def _split_generators(self, dl_manager: typing.Any) -> typing.Any:
        without_unpacking = types.SimpleNamespace(download_and_extract=dl_manager.download)
        return super()._split_generators(without_unpacking)

    def _generate_examples(
        self, num_examples: int, data_path: os.PathLike[str], label_path: os.PathLike[str]
    ) -> Iterator[tuple[int, dict[str, typing.Any]]]:
        images = read_idx(data_path, (num_examples, *mnist.MNIST_IMAGE_SHAPE[:2]))
        labels = read_idx(label_path, (num_examples,))
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, format="PNG")
            yield index, {"image": encoded.getvalue(), "label": int(label)}


def prepare_mnist(data_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Downloads MNIST and writes it as TFDS does; does nothing if it is already there.

    The set appears when it is complete; a failed attempt leaves nothing behind.

    Args:
      data_dir: the folder for data sets, created if needed.

    Returns:
      The folder of the set, `data_dir/mnist/3.0.1`.

    Raises:
      DatasetError: a downloaded file does not match TFDS's checksum, or something else is where
        the set should be.
      OSError: the download failed, or data_dir cannot be written.
    """
    data_dir = pathlib.Path(data_dir).expanduser()
    folder = data_dir / _Mnist.name / str(_Mnist.VERSION)
    if (folder / "dataset_info.json").exists():
        return folder
    if folder.exists():
        raise DatasetError(f"{folder} has no dataset_info.json: move it away to prepare the set.")
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=data_dir) as workdir:
        _download(pathlib.Path(workdir))
        builder = _Mnist(data_dir=workdir)
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
        folder.parent.mkdir(exist_ok=True)
        if not folder.exists():  # another process may have been faster
            pathlib.Path(builder.data_dir).rename(folder)
    return folder


def _download(folder: pathlib.Path) -> None:
    """Downloads the files of MNIST to where TFDS looks for manually downloaded files.

    TFDS's own downloader has no timeout and tries an unresponsive host for 200 s.
    """
    for url, registered in _Mnist.url_infos.items():
        try:
            response = requests.get(url, timeout=_TIMEOUT)
            response.raise_for_status()
        except requests.RequestException as error:
            raise ConnectionError(f"{url} cannot be downloaded: {type(error).__name__}") from error
        (folder / registered.filename).write_bytes(response.content)


def read_idx(path: os.PathLike[str], shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Reads a gzipped IDX file of bytes, the format of MNIST's four files.

    Raises:
      DatasetError: the file is damaged, or its array is not of that shape.
    """
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 0x08, len(shape), *shape)  # 0x08: uint8
    try:
        content = gzip.decompress(pathlib.Path(path).read_bytes())
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DatasetError(f"{path} is not a complete gzip file: {error}.") from error
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        raise DatasetError(f"{path} is not an IDX file of bytes in the shape {shape}.")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
