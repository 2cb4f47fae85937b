"""The table of MNIST, and the real files where HANDGRAD_DATA points at them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from handgrad.datasets import PUBLISHED, mnist
from handgrad.datasets.published import find
from handgrad.datasets.verifying import verify

BASE = os.environ.get("HANDGRAD_DATA")
FOUND = find(mnist.MNIST, PUBLISHED, BASE)[0] if BASE and os.path.isdir(BASE) else None

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_table_is_of_the_published_form():
    for published in PUBLISHED:
        assert [file.shape for file in published.files] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
        assert len(published.classes) == 10 and len(set(published.classes)) == 10
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in published.mirrors)
        assert not any("lecun" in mirror for mirror in published.mirrors)
        for file in published.files:
            assert len(bytes.fromhex(file.sha256)) == len(bytes.fromhex(file.content_sha256)) == 32
    files = [file for published in PUBLISHED for file in published.files]
    for value in ("sha256", "content_sha256", "head_crc32", "bytes"):
        assert len({getattr(file, value) for file in files}) == 8
    assert {file.name for file in PUBLISHED[0].files} == {file.name for file in PUBLISHED[1].files}


def test_load_reads_the_table(tmp_path, monkeypatch, digits):
    monkeypatch.setattr(mnist, "MNIST", digits.published)
    train, test = mnist.load(digits.put(tmp_path / "data"))
    assert (len(train), len(test)) == (20, 8)


@pytest.mark.mnist
@pytest.mark.skipif(not FOUND or FOUND.missing, reason="HANDGRAD_DATA does not point at the MNIST files")
def test_the_real_files():
    train, test = mnist.load(BASE, download=False)
    assert train.images.shape == (60000, 1, 28, 28) and test.images.shape == (10000, 1, 28, 28)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9] and test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.class_counts().tolist() == TRAIN_COUNTS and test.class_counts().tolist() == TEST_COUNTS
    levels = np.arange(256) / 255
    share = np.bincount(train.images.ravel(), minlength=256) / train.images.size
    mean = share @ levels
    assert mean == pytest.approx(0.13066, abs=5e-6)
    assert np.sqrt(share @ (levels - mean) ** 2) == pytest.approx(0.30811, abs=5e-6)
    assert all(check.state == "ok" for check in verify(FOUND, PUBLISHED))
