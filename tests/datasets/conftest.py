"""A web server of this machine, two small data sets in the form of MNIST, and an empty cache for every test."""

from __future__ import annotations

import gzip
import hashlib
import threading
import urllib.request
import zlib
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from handgrad.datasets.idx import idx_header
from handgrad.datasets.published import HEAD, IdxFile, Published

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The data cache of this test, not made yet; nothing of the user's is looked at."""
    monkeypatch.setenv("HANDGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDGRAD_DATA", raising=False)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
    return tmp_path / "cache" / "data"


@dataclass
class Sample:
    """A small data set: its table, the bytes of its files (compressed and plain), and the arrays in them."""

    published: Published
    compressed: dict[str, bytes]
    plain: dict[str, bytes]
    arrays: tuple[np.ndarray, ...]

    def put(self, folder, names=None, plain=False):
        """Write the files, or some of them, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.compressed.items():
            if names is None or name in names:
                stem = name.removesuffix(".gz")
                (folder / (stem if plain else name)).write_bytes(self.plain[stem] if plain else content)
        return folder

    def from_mirrors(self, *mirrors):
        """Return the table with other mirrors."""
        return replace(self.published, mirrors=mirrors)


def make_sample(name, title, folders, bare, seed, arrays=None):
    """Return a data set of 20 + 8 pictures of 4 x 3 pixels in 4 classes, or of the arrays given."""
    rng = np.random.default_rng(seed)
    if arrays is None:
        arrays = (
            rng.integers(0, 256, (20, 4, 3), dtype=np.uint8),
            np.arange(20, dtype=np.uint8) % 4,
            rng.integers(0, 256, (8, 4, 3), dtype=np.uint8),
            np.arange(8, dtype=np.uint8) % 4,
        )
        arrays[1][:] = rng.permutation(arrays[1])
        arrays[3][:] = rng.permutation(arrays[3])
    files, compressed, plain = [], {}, {}
    for stem, values in zip(STEMS, arrays, strict=True):
        header = idx_header(values.shape)
        content = header + values.tobytes()
        packed = gzip.compress(content, mtime=0)
        plain[stem], compressed[stem + ".gz"] = content, packed
        files.append(
            IdxFile(
                stem + ".gz",
                len(packed),
                hashlib.sha256(packed).hexdigest(),
                shape=values.shape,
                content_sha256=hashlib.sha256(content).hexdigest(),
                head_crc32=zlib.crc32(content[: len(header) + HEAD]),
            )
        )
    published = Published(name, title, tuple(files), tuple("abcd"), (), folders, bare)
    return Sample(published, compressed, plain, tuple(arrays))


@pytest.fixture
def digits():
    """Stands for MNIST."""
    return make_sample("mnist", "MNIST", ("mnist", "MNIST/raw"), True, seed=1)


@pytest.fixture
def clothes():
    """Stands for Fashion-MNIST."""
    return make_sample("fashion", "Fashion-MNIST", ("fashion-mnist", "FashionMNIST/raw"), False, seed=2)


@pytest.fixture
def known(digits, clothes):
    """Both tables."""
    return (digits.published, clothes.published)


@pytest.fixture
def make():
    """Make a data set of arrays of one's own."""
    return make_sample


@pytest.fixture
def server():
    """A web server: `routes` maps a path to bytes or to a function of the handler, `asked` collects the paths."""
    routes, asked, over = {}, [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer = routes.get(self.path)
            if answer is None:
                self.send_error(404)
            elif callable(answer):
                answer(self)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def handle(self):
            try:
                super().handle()
            except ConnectionError:  # the client gave up, as some tests want it to
                pass

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{http.server_port}", routes=routes, asked=asked, over=over)
        over.set()
        http.shutdown()
        thread.join()
