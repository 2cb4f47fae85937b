"""Every data set by its name, with the right parts, and without importing more than NumPy."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest

import handgrad.datasets
from handgrad.datasets import NAMES, fashion, load, mnist, mnist5k
from handgrad.datasets.dataset import Dataset
from handgrad.engine.checks import ConfigurationError


def parts(name, train, test):
    """Return training and test part of the sizes given, ten classes."""
    return tuple(
        Dataset(name, np.zeros((n, 1, 1, 1), np.uint8), np.arange(n) % 10, tuple("0123456789"), "here")
        for n in (train, test)
    )


@pytest.mark.parametrize(
    ("name", "module", "sizes", "default"),
    [("mnist", mnist, (60000, 10000), 5000), ("fashion", fashion, (60000, 10000), 5000)],
)
def test_names_lead_to_modules_and_options_are_passed_on(monkeypatch, name, module, sizes, default):
    seen = []

    def stand_in(folder=None, *, download=True, progress=None):
        seen.append((folder, download, progress))
        return parts(name, *sizes)

    monkeypatch.setattr(module, "load", stand_in)
    splits = load(name, folder="here", download=False, progress=print)
    assert seen == [("here", False, print)] and splits.source == "here"
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (sizes[0] - default, default, sizes[1])
    assert splits.validation.class_counts().tolist() == [default // 10] * 10


def test_the_validation_part_of_the_small_set(monkeypatch):
    monkeypatch.setattr(mnist5k, "load", lambda: parts("mnist-5k", 4500, 500))
    splits = load("mnist-5k")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4000, 500, 500)
    assert len(load("mnist-5k", validation=0).validation) == 0
    with pytest.raises(ConfigurationError, match="validation part of 'mnist-5k': got 4500"):
        load("mnist-5k", validation=4500)


def test_the_seed_chooses_the_validation_part(tmp_path, monkeypatch, digits):
    monkeypatch.setattr(mnist, "MNIST", digits.published)
    folder = digits.put(tmp_path / "data")
    first, again, other = (load("mnist", folder=folder, validation=8, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.validation.images, again.validation.images)
    assert not np.array_equal(first.validation.images, other.validation.images)
    np.testing.assert_array_equal(first.test.images, other.test.images)
    np.testing.assert_array_equal(first.test.images[:, 0], digits.arrays[2])


def test_toy_data():
    splits = load("toy:xor")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1000, 4, 4)
    assert splits.train.images.dtype == np.float32 and splits.source == "computed"
    with pytest.raises(ConfigurationError, match="toy:xor: got validation=2"):
        load("toy:xor", validation=2)


@pytest.mark.parametrize(("name", "near"), [("mnits", "mnist"), ("mnist5k", "mnist-5k"), ("xor", "toy:xor"), ("?", "")])
def test_unknown_names(name, near):
    with pytest.raises(ConfigurationError) as caught:
        load(name)
    text = str(caught.value)
    assert f"data set: got '{name}', expected one of {', '.join(NAMES)}" in text
    assert text.endswith(f"did you mean '{near}'?") == bool(near)


def test_worked_examples():
    assert doctest.testmod(handgrad.datasets).failed == 0


def test_only_numpy_is_imported():
    code = (
        "import sys, handgrad.datasets; import handgrad.datasets.installing; "
        "print(*{'numba', 'click', 'matplotlib', 'mlxtend', 'PIL', 'scipy'} & {m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "" and done.stderr == ""
