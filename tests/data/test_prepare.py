import io
import signal
import socket
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bnrepro.data import prepare
from bnrepro.data.datasets import DatasetError, load_dataset
from scripts import prepare_data
from tests.commands import code_of, refusal
from tests.data.conftest import registered, serving
from tests.small_shards import encoded

pytestmark = pytest.mark.usefixtures("isolated")


def by_pixels(images, labels):
    """Label by image, whatever the order: TFDS shuffles what it writes."""
    return {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_the_prepared_set_has_the_pixels_and_labels_of_the_downloaded_files_also_to_tfds(
    server, pixels_and_labels, tmp_path
):
    assert prepare.prepare(prepare.Mnist, tmp_path) == tmp_path / "mnist" / "3.0.1"
    dataset = load_dataset("mnist", tmp_path)
    train = by_pixels(dataset.train_images, dataset.train_labels)
    assert train == by_pixels(*pixels_and_labels["train"])
    assert by_pixels(dataset.test_images, dataset.test_labels) == by_pixels(
        *pixels_and_labels["t10k"]
    )
    assert len(train) == 60
    builder = tfds.builder("mnist", data_dir=tmp_path)
    assert builder.is_prepared()
    assert builder.as_data_source("test")[0]["image"].shape == (28, 28, 1)


def test_a_file_with_another_checksum_is_refused_and_nothing_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    files, _ = server
    files["t10k-labels-idx1-ubyte.gz"] = b"<html>"
    with pytest.raises(DatasetError, match=r"t10k-labels-idx1-ubyte\.gz.* has wrong checksum"):
        prepare.prepare(prepare.Mnist, tmp_path)
    assert not names(tmp_path)
    with pytest.raises(DatasetError, match="wrong checksum"):  # the digits must not hide it
        load_dataset("mnist")


def test_a_preparation_that_is_told_to_end_leaves_nothing(server, tmp_path, monkeypatch):
    def end(*args):
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(prepare, "_read_idx", end)
    try:
        with pytest.raises(SystemExit) as ended:
            prepare_data.main(["mnist", f"--data_dir={tmp_path}"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert not names(tmp_path)


def test_another_process_that_was_faster_is_no_error(server, tmp_path, monkeypatch):
    download = prepare._download

    def be_overtaken(url_infos, folder):
        download(url_infos, folder)
        monkeypatch.setattr(prepare, "_download", download)
        prepare.prepare(prepare.Mnist, tmp_path)

    monkeypatch.setattr(prepare, "_download", be_overtaken)
    assert (prepare.prepare(prepare.Mnist, tmp_path) / "dataset_info.json").exists()
    assert names(tmp_path) == ["mnist"]


def test_a_set_in_another_format_is_not_said_to_be_prepared(data_dir, capsys):
    info = data_dir / "squares" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    said = refusal(capsys, prepare_data.main, "squares", f"--data_dir={data_dir}")
    assert "describes tfrecord files, not ArrayRecord: prepare the set elsewhere" in said


def test_without_a_network_nothing_is_left_and_the_url_is_named(no_network, tmp_path):
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1.*idx\d-ubyte\.gz cannot be"):
        prepare.prepare(prepare.Mnist, tmp_path)
    assert not names(tmp_path)


def test_a_file_the_server_does_not_have_is_a_connection_error(server, tmp_path):
    files, _ = server
    files.clear()
    with pytest.raises(ConnectionError, match="HTTPError"):
        prepare.prepare(prepare.Mnist, tmp_path)


def test_a_host_that_stays_silent_is_a_connection_error(no_network, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/train-images-idx3-ubyte.gz"
        monkeypatch.setattr(prepare.Mnist, "url_infos", {url: None})
        monkeypatch.setattr(prepare, "_TIMEOUT", (0.1, 0.1))
        with pytest.raises(ConnectionError, match="Timeout"):
            prepare.prepare(prepare.Mnist, tmp_path)


def test_the_command_line_says_where_the_set_stands_and_whether_it_did_before(
    server, tmp_path, monkeypatch, capsys
):
    _, asked_for = server
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare_data.main(["mnist"])
    folder = tmp_path / "mnist" / "3.0.1"
    assert capsys.readouterr().out.endswith(f"mnist is prepared in {folder}\n")
    monkeypatch.delenv("TFDS_DATA_DIR")
    prepare_data.main(["mnist", f"--data_dir={tmp_path}"])
    assert capsys.readouterr().out == f"mnist was already prepared in {folder}\n"
    assert (len(asked_for), names(tmp_path)) == (4, ["mnist"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_set", "Dataset no_such_set not found"),
        ("tiny_imagenet", "choose tiny_imagenet/100 or tiny_imagenet/200"),
    ],
)
def test_an_unknown_name_is_one_sentence_and_exit_code_2(name, why, tmp_path, capsys):
    message = refusal(capsys, prepare_data.main, name, f"--data_dir={tmp_path}")
    assert message == f"{name} cannot be prepared: {why}\n"


def test_a_set_whose_archives_must_be_there_leaves_no_folders_where_they_are_not(tmp_path, capsys):
    (kept := tmp_path / "sets" / "kept").mkdir(parents=True)
    assert code_of(prepare_data.main, "imagenet2012", f"--data_dir={kept.parent}") == 2
    assert "downloads/manual does not exist or is empty" in capsys.readouterr().err
    assert names(kept.parent) == ["kept"]


def test_something_else_in_the_place_of_the_set_is_named(server, tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"mnist/3\.0\.1 has no dataset_info\.json"):
        prepare.prepare(prepare.Mnist, tmp_path)


def test_a_folder_that_cannot_be_written_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "file").touch()
    said = refusal(capsys, prepare_data.main, "mnist", f"--data_dir={tmp_path / 'file'}")
    assert said.startswith("mnist cannot be prepared: ") and str(tmp_path / "file") in said


@pytest.mark.parametrize("classes", [100, 200])
def test_tiny_imagenet_has_the_images_and_labels_of_its_archive_with_grey_ones_in_rgb(
    classes, tmp_path, monkeypatch
):
    rng, wnids = np.random.default_rng(0), [f"n{n:08}" for n in range(200)]
    pixels = {"RGB": rng.integers(0, 256, (64, 64, 3), np.uint8)}
    pixels["L"] = pixels["RGB"][..., 0]
    images = {mode: encoded(array) for mode, array in pixels.items()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        root = "tiny-imagenet-200"
        archive.writestr(f"{root}/wnids.txt", "\n".join(reversed(wnids)))  # in no order
        archive.writestr(f"{root}/train/{wnids[7]}/images/{wnids[7]}_0.JPEG", images["RGB"])
        archive.writestr(f"{root}/train/{wnids[9]}/images/{wnids[9]}_0.JPEG", images["L"])
        archive.writestr(f"{root}/train/{wnids[150]}/images/{wnids[150]}_0.JPEG", images["RGB"])
        archive.writestr(f"{root}/val/val_annotations.txt", f"val_0.JPEG\t{wnids[3]}\t0\t0\t9\t9\n")
        archive.writestr(f"{root}/val/images/val_0.JPEG", images["RGB"])
        archive.writestr(f"{root}/test/images/test_0.JPEG", images["RGB"])
    name, content = "tiny-imagenet-200.zip", content.getvalue()
    with serving({name: content}) as (url, _):
        monkeypatch.setattr(prepare.TinyImagenet, "URL", url + name)
        monkeypatch.setattr(prepare.TinyImagenet, "url_infos", registered(url, {name: content}))
        prepare_data.main([f"tiny_imagenet/{classes}", f"--data_dir={tmp_path}"])
    dataset = load_dataset(f"tiny_imagenet/{classes}", tmp_path)
    assert dataset.class_names == tuple(wnids[:classes])
    decoded = np.asarray(Image.open(io.BytesIO(images["RGB"])))
    np.testing.assert_array_equal(dataset.test_images, decoded[None])
    assert dataset.test_labels.tolist() == [3]
    by_label = dict(zip(dataset.train_labels.tolist(), dataset.train_images, strict=True))
    assert set(by_label) == ({7, 9} if classes == 100 else {7, 9, 150})
    np.testing.assert_array_equal(by_label[7], decoded)
    grey = np.asarray(Image.open(io.BytesIO(images["L"])))
    assert np.abs(by_label[9].astype(int) - grey[..., None].astype(int)).max() <= 8
