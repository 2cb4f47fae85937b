"""What a file is, is seen from its checksum and that of its content."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from handgrad.datasets import verifying
from handgrad.datasets.published import find
from handgrad.datasets.verifying import recognise, verify
from handgrad.engine.checks import DataError

IMAGES = "train-images-idx3-ubyte.gz"


def states(published, known, folder):
    """Return the state of every file."""
    found, _ = find(published, known, folder)
    return [check.state for check in verify(found, known)]


@pytest.mark.parametrize("plain", [False, True], ids=["gzip", "plain"])
def test_the_published_files_are_right_in_both_forms(tmp_path, digits, known, plain):
    digits.put(tmp_path, plain=plain)
    assert states(digits.published, known, tmp_path) == ["ok"] * 4


def test_everything_that_a_file_can_be_instead(tmp_path, digits, clothes, known):
    digits.put(tmp_path)
    path = tmp_path / IMAGES
    content = digits.plain[IMAGES.removesuffix(".gz")]
    damaged = bytearray(digits.compressed[IMAGES])
    damaged[60] ^= 255
    for instead, state in (
        (gzip.compress(content, 0), "ok, other compression"),
        (content, "ok"),
        (clothes.compressed[IMAGES], f"{IMAGES} of Fashion-MNIST"),
        (clothes.plain[IMAGES.removesuffix(".gz")], f"{IMAGES} of Fashion-MNIST"),
        (digits.compressed["t10k-images-idx3-ubyte.gz"], "t10k-images-idx3-ubyte.gz of MNIST"),
        (bytes(damaged), "differs"),
        (digits.compressed[IMAGES][:-1], "differs"),
        (content + b"x", "differs"),
        (gzip.compress(bytes(10_000_000)), "differs"),
        (b"", "differs"),
    ):
        path.write_bytes(instead)
        found, _ = find(digits.published, known, tmp_path)
        check = verify(found, known)[0]
        assert (check.state, check.right) == (state, state.startswith("ok"))
        assert check.path == path and check.sha256 == hashlib.sha256(instead).hexdigest()


def test_missing_files_are_named(tmp_path, digits, known):
    digits.put(tmp_path, [IMAGES])
    assert states(digits.published, known, tmp_path) == ["ok", "missing", "missing", "missing"]


def test_a_file_that_cannot_be_read(tmp_path, known, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(verifying, "open", refuse, raising=False)
    with pytest.raises(DataError, match="Permission denied"):
        recognise(tmp_path / "x", known)
