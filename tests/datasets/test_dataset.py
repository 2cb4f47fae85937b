"""Data sets refuse arrays that do not fit, and the validation part is disjoint, stratified and reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handgrad.datasets.dataset import Dataset, split_validation
from handgrad.engine.checks import ConfigurationError, DataError


def of_labels(labels, classes=4):
    """Return a data set whose images carry their own number, to follow them through a split."""
    labels = np.asarray(labels, dtype=np.int64)
    images = np.zeros((len(labels), 1, 2, 1), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(len(labels)) // 256, np.arange(len(labels)) % 256
    return Dataset("test", images, labels, tuple("abcdefghij"[:classes]))


def numbers(dataset):
    """Return the numbers that `of_labels` wrote into the images."""
    return dataset.images[:, 0, 0, 0].astype(int) * 256 + dataset.images[:, 0, 1, 0]


def test_a_data_set_says_what_it_is():
    dataset = of_labels([0, 1, 1, 3])
    assert len(dataset) == 4 and dataset.sample_shape == (1, 2, 1)
    assert dataset.class_counts().tolist() == [1, 2, 0, 1]
    part = dataset.subset([3, 0])
    assert numbers(part).tolist() == [3, 0] and part.labels.tolist() == [3, 0]
    assert part.images.flags.c_contiguous and part.classes == dataset.classes
    assert not dataset.subset([])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 28, 28), np.uint8), [0, 1], r"got uint8 \(2, 28, 28\), expected C-contiguous uint8"),
        (np.zeros((2, 1, 3, 3), np.float32), [0, 1], "got float32"),
        (np.zeros((2, 3), np.float64), [0, 1], "got float64"),
        (np.zeros((3, 1, 3, 2), np.uint8).T, [0, 1], "not C-contiguous"),
        (np.array([[0], [np.nan]], np.float32), [0, 1], "NaN or infinity"),
        (np.zeros((2, 1), np.float32), [0.0, 1.0], r"labels: got float64 \(2,\), expected int64"),
        (np.zeros((2, 1), np.float32), [[0], [1]], r"labels: got int64 \(2, 1\)"),
        (np.zeros((2, 1), np.float32), [0, 1, 1], "number of labels: got 3, expected 2"),
        (np.zeros((2, 1), np.float32), [0, 2], "label of sample 1: got 2, expected 0 to 1; the labels are damaged"),
        (np.zeros((2, 1), np.float32), [-1, 0], "label of sample 0: got -1"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        Dataset("test", images, np.asarray(labels), ("a", "b"), source="here")
    assert str(caught.value).startswith("data set 'test' from here")


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6), fraction=st.floats(0, 0.999), seed=st.integers(0, 9)
)
def test_splits_are_disjoint_complete_and_stratified(counts, fraction, seed):
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(len(counts)), counts))
    whole = of_labels(labels, len(counts))
    size = int(fraction * len(whole))
    train, validation = split_validation(whole, size, seed)
    assert len(validation) == size
    assert sorted([*numbers(train), *numbers(validation)]) == list(range(len(whole)))
    for part in (train, validation):
        assert (np.diff(numbers(part)) > 0).all()  # the original order
        np.testing.assert_array_equal(part.labels, labels[numbers(part)])
    quota = size * np.array(counts) / max(1, len(whole))
    assert (np.abs(validation.class_counts() - quota) < 1).all()


def test_splits_depend_on_the_seed_alone():
    whole = of_labels(np.arange(40) % 4)
    first, again, other = (numbers(split_validation(whole, 8, seed)[1]).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first == [2, 3, 11, 13, 18, 20, 21, 32]  # pinned: a run with seed 0 must find its validation part again


@pytest.mark.parametrize("size", [-1, 40, 41, 2.0, True, None])
def test_impossible_sizes(size):
    with pytest.raises(ConfigurationError, match=r"validation part of 'test': got .* expected 0 to 39 samples"):
        split_validation(of_labels(np.arange(40) % 4), size, 0)


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_impossible_seeds(seed):
    with pytest.raises(ConfigurationError, match="seed: got"):
        split_validation(of_labels(np.arange(40) % 4), 4, seed)
