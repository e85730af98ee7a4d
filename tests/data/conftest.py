"""A small MNIST: its files, and a loopback server that has them; and a set that is prepared."""

import contextlib
import gzip
import hashlib
import http.server
import socket
import threading

import numpy as np
import pytest

from scripts.launch_local import free_port
from tests.small_shards import write_set

NUM_TRAIN, NUM_TEST = 60, 20


@pytest.fixture
def isolated(monkeypatch, tmp_path):
    """No data set, cache or proxy of the user's, and no host but this one."""
    connect = socket.socket.connect

    def connect_on_loopback(self, address):
        assert address[0] == "127.0.0.1", f"a test reached for {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_on_loopback)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture(scope="session")
def pixels_and_labels():
    """{split: (images, labels)}; no two images are alike."""
    rng = np.random.default_rng(0)
    return {
        split: (
            rng.integers(0, 256, (size, 28, 28), dtype=np.uint8),
            np.arange(size, dtype=np.uint8) % 10,
        )
        for split, size in (("train", NUM_TRAIN), ("t10k", NUM_TEST))
    }


@pytest.fixture(scope="session")
def mnist_files(pixels_and_labels):
    """{file name: content} of the four files that MNIST consists of."""
    files = {}
    for split, (images, labels) in pixels_and_labels.items():
        files[f"{split}-images-idx3-ubyte.gz"] = gzip.compress(idx(images))
        files[f"{split}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels))
    return files


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@contextlib.contextmanager
def serving(files):
    """Serves {file name: content} on loopback; gives the URL and the list of what is asked for."""
    asked_for = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/")
            asked_for.append(name)
            self.send_response(200 if name in files else 404)
            self.end_headers()
            self.wfile.write(files.get(name, b""))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", asked_for
        server.shutdown()
        thread.join()


def registered(url, files):
    """What TFDS knows of {file name: content} at a URL."""
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.core.utils import Size

    return {
        url + name: checksums.UrlInfo(Size(len(content)), hashlib.sha256(content).hexdigest(), name)
        for name, content in files.items()
    }


def point_tfds_at(url, files, monkeypatch):
    """Makes TFDS's MNIST one of our size at that URL, with the checksums of those files."""
    from tensorflow_datasets.image_classification import mnist

    from bnrepro.data import prepare

    monkeypatch.setattr(prepare.Mnist, "URL", url)
    monkeypatch.setattr(prepare.Mnist, "url_infos", registered(url, files))
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", NUM_TRAIN)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", NUM_TEST)


@pytest.fixture
def server(isolated, mnist_files, monkeypatch):
    """Has the files of our MNIST; gives {file name: content} to alter, and what is asked for."""
    files = dict(mnist_files)
    with serving(files) as (url, asked_for):
        point_tfds_at(url, mnist_files, monkeypatch)
        yield files, asked_for


@pytest.fixture
def no_network(isolated, mnist_files, monkeypatch):
    point_tfds_at(f"http://127.0.0.1:{free_port()}/", mnist_files, monkeypatch)


@pytest.fixture
def data_dir(isolated, tmp_path):
    """A data folder that has the small set of squares, for one test to do with as it likes."""
    write_set(tmp_path / "data")
    return tmp_path / "data"
