"""Fashion-MNIST: told apart from MNIST, and the real files where HANDGRAD_DATA points at them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from handgrad.datasets import PUBLISHED, fashion, mnist
from handgrad.datasets.published import find
from handgrad.datasets.verifying import verify
from handgrad.engine.checks import DataError

BASE = os.environ.get("HANDGRAD_DATA")
FOUND = find(fashion.FASHION, PUBLISHED, BASE)[0] if BASE and os.path.isdir(BASE) else None
real = pytest.mark.skipif(not FOUND or FOUND.missing, reason="HANDGRAD_DATA does not point at the Fashion-MNIST files")


def test_load_reads_the_table(tmp_path, monkeypatch, digits, clothes):
    monkeypatch.setattr(fashion, "FASHION", clothes.published)
    monkeypatch.setattr(fashion, "MNIST", digits.published)
    clothes.put(tmp_path / "fashion-mnist")
    train, test = fashion.load(tmp_path)
    assert (len(train), len(test)) == (20, 8)
    digits.put(tmp_path / "fashion-mnist")
    with pytest.raises(DataError, match="got a file of MNIST"):
        fashion.load(tmp_path)


@real
def test_the_real_files():
    train, test = fashion.load(BASE, download=False)
    assert train.images.shape == (60000, 1, 28, 28) and test.images.shape == (10000, 1, 28, 28)
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0] and test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert train.class_counts().tolist() == [6000] * 10 and test.class_counts().tolist() == [1000] * 10
    levels = np.arange(256) / 255
    share = np.bincount(train.images.ravel(), minlength=256) / train.images.size
    mean = share @ levels
    assert mean == pytest.approx(0.28604, abs=5e-6)
    assert np.sqrt(share @ (levels - mean) ** 2) == pytest.approx(0.35302, abs=5e-6)
    assert all(check.state == "ok" for check in verify(FOUND, PUBLISHED))


@real
def test_the_real_files_are_not_taken_for_mnist(tmp_path):
    for path in FOUND.paths.values():
        shutil.copy(path, tmp_path)
    with pytest.raises(DataError, match="got a file of Fashion-MNIST, expected one of MNIST"):
        mnist.load(tmp_path)
