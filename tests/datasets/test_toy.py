"""The four points of exclusive or."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from handgrad.datasets import toy
from handgrad.engine.checks import ConfigurationError


def test_every_point_has_its_label():
    points = toy.xor(3)
    assert points.images.shape == (12, 2) and points.images.dtype == np.float32
    assert points.labels.dtype == np.int64 and points.classes == ("0", "1")
    np.testing.assert_array_equal(points.labels, points.images[:, 0].astype(bool) ^ points.images[:, 1].astype(bool))
    assert points.class_counts().tolist() == [6, 6]


def test_worked_examples():
    assert doctest.testmod(toy).failed == 0


@pytest.mark.parametrize("repeats", [0, 1.5, True])
def test_impossible_repeats(repeats):
    with pytest.raises(ConfigurationError, match="repeats"):
        toy.xor(repeats)
