"""Mean absolute error: kernel, literal code, finite differences, PyTorch and the notes' number agree, at the kink too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import mean_absolute_error as derivation
from handgrad.engine import MeanAbsoluteError
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)
loss = MeanAbsoluteError()


def random_batch(shape, seed, kinks=False):
    rng = np.random.default_rng(seed)
    if kinks:  # a third of the predictions are exactly right
        return rng.integers(-1, 2, size=shape).astype(float), rng.integers(-1, 2, size=shape).astype(float)
    return rng.normal(size=shape), rng.normal(size=shape)


@given(SHAPES, st.integers(0, 99), st.booleans())
def test_kernel_is_the_literal_code(close, shape, seed, kinks):
    p, t = random_batch(shape, seed, kinks)
    L, dL_dp = loss(p, t)
    close(L, derivation.forward(p.astype(object), t.astype(object)), 1e-12)
    close(dL_dp, derivation.backward(p.astype(object), t.astype(object)), 1e-15)


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(shape, seed):
    """A residual is off by eps/2 and its quotient by eps; the sum is taken in float64. No sign is ever wrong."""
    p, t = (array.astype(np.float32) for array in random_batch(shape, seed))
    (L, dL_dp), (exact, expected) = loss(p, t), loss(p.astype(np.float64), t)
    eps = np.finfo(np.float32).eps
    assert dL_dp.dtype == np.float32
    assert abs(L - exact) <= 2 * eps * exact
    assert (np.abs(dL_dp - expected) <= 2 * eps * np.abs(expected)).all()


def test_finite_differences(close, rng):
    p, t = random_batch((4, 5), 0)
    p = np.where(np.abs(p - t) < 0.01, t + 1, p)  # away from the kink
    quotients, h = np.empty(p.shape), 1e-6
    for place in np.ndindex(*p.shape):
        step = np.zeros(p.shape)
        step[place] = h
        quotients[place] = (loss(p + step, t)[0] - loss(p - step, t)[0]) / (2 * h)
    close(loss(p, t)[1], quotients, 1e-7)  # rounding 1e-16 / h = 1e-10 against gradients of 0.05


def test_knob_of_the_notes(close):
    L, dL_dp = loss([[0.6]], [[0.8]])  # S3: input .3 times the weight 2, target .8
    close(L, 0.2, 1e-15)
    assert dL_dp.tolist() == [[-1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_by_hand_with_the_kink(dtype):
    L, dL_dp = loss(np.array([[1, 2], [3, 4]], dtype=dtype), [[0, 2], [3, 8]])
    assert L == (1 + 4) / 4
    assert dL_dp.tolist() == [[0.25, 0], [0, -0.25]]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40))
def test_the_best_constant_is_the_median(targets):
    t = np.array(targets, dtype=float)[:, None]
    best = loss(np.full(t.shape, np.median(t)), t)[0]
    for constant in (t.min(), t.mean(), t.max(), np.median(t) + 0.5, np.median(t) - 0.5):
        assert best <= loss(np.full(t.shape, constant), t)[0] + 1e-12  # sums of at most 40 numbers up to 100


@given(SHAPES, st.integers(0, 99), st.floats(0.01, 100))
def test_scaling_scales_the_loss_and_not_the_gradient(close, shape, seed, factor):
    p, t = random_batch(shape, seed)
    (L, dL_dp), (scaled, same) = loss(p, t), loss(factor * p, factor * t)
    close(scaled, factor * L, 1e-12)
    np.testing.assert_array_equal(same, dL_dp)
    swapped, opposite = loss(t, p)
    assert swapped == L
    np.testing.assert_array_equal(opposite, -dL_dp)


@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 99))
def test_a_batch_is_the_weighted_mean_of_its_parts(close, N, first, seed):
    p, t = random_batch((N, 3), seed)
    first = min(first, N - 1)
    L, dL_dp = loss(p, t)
    parts = [(slice(None, first), first), (slice(first, None), N - first)]
    close(sum(n * loss(p[part], t[part])[0] for part, n in parts) / N, L, 1e-12)
    close(np.concatenate([n * loss(p[part], t[part])[1] for part, n in parts]) / N, dL_dp, 1e-12)


def test_lanes_without_a_sample_neither_cost_nor_learn(close):
    """In a network they hold whatever the layers make of zeros."""
    rng = np.random.default_rng(0)
    p, t, dL_dp = rng.normal(size=(2, 3, 16)), rng.normal(size=(2, 3, 16)), np.full((2, 3, 16), np.nan)
    p[1, :, 7:] = np.nan
    summed = loss.on_lanes(p, t, 20, 23, dL_dp)  # 20 samples here, of 23 in the mini-batch
    residual = np.moveaxis(p - t, 1, 2).reshape(32, 3)[:20]
    close(summed, np.abs(residual).sum() / 3, 1e-12)
    close(np.moveaxis(dL_dp, 1, 2).reshape(32, 3)[:20], np.sign(residual) / (23 * 3), 1e-12)
    assert not dL_dp[1, :, 4:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_that_is_none_stays_in_its_place(dtype):
    p = np.ones((20, 3), dtype=dtype)
    p[17, 1] = np.nan
    L, dL_dp = loss(p, np.zeros((20, 3)))
    assert math.isnan(L) and np.argwhere(np.isnan(dL_dp)).tolist() == [[17, 1]]
    p[17, 1] = -np.inf
    L, dL_dp = loss(p, np.zeros((20, 3)))
    assert L == math.inf and dL_dp[17, 1] == -dL_dp[0, 0]


def test_decisions_tell_the_two_sides_of_the_kink():
    p, t = np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 2.0, 2.0]])
    assert loss.decisions(p, t).tolist() == [[False, False, True]]
    assert (loss.decisions(p + 1e-6, t) != loss.decisions(p - 1e-6, t)).tolist() == [[False, True, False]]
    assert loss.literal_options() == {}


def test_labels_count_as_one_hot_rows():
    p, labels = random_batch((5, 4), 0)[0], np.array([3, 0, 1, 1, 2])
    (L, dL_dp), (same, gradient) = loss(p, labels), loss(p, np.eye(4)[labels])
    assert L == same
    np.testing.assert_array_equal(dL_dp, gradient)


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.booleans())
def test_pytorch_agrees(close, shape, seed, kinks):
    torch = pytest.importorskip("torch")
    p, t = random_batch(shape, seed, kinks)
    prediction = torch.tensor(p, requires_grad=True)
    expected = torch.nn.functional.l1_loss(prediction, torch.tensor(t))
    expected.backward()
    L, dL_dp = loss(p, t)
    close(L, expected.item(), 1e-12)
    close(dL_dp, prediction.grad.numpy(), 1e-12)


@pytest.mark.parametrize(
    ("p", "t", "message"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), "MeanAbsoluteError: target: got shape (3, 5), expected (3, 4)"),
        (np.zeros((3, 1)), np.zeros(3), "MeanAbsoluteError: target: got shape (3,), expected (3, 1)"),
        (np.zeros((3, 2)), [0, 1, 2], "MeanAbsoluteError: labels: got 2, expected integers from 0 to 1"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "MeanAbsoluteError: got an output of shape (0, 3), expected (N, ...) with N > 0"),
    ],
)  # fmt: skip
def test_shapes_are_checked(p, t, message):
    with pytest.raises(ShapeError) as caught:
        loss(p, t)
    assert str(caught.value) == message
