"""Mean squared error: kernel, literal code, finite differences, PyTorch and the notes' numbers agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import mean_squared_error as derivation
from handgrad.engine import MeanSquaredError
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)
loss = MeanSquaredError()


def random_batch(shape, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=shape)


@given(SHAPES, st.integers(0, 99))
def test_kernel_is_the_literal_code(close, shape, seed):
    p, t = random_batch(shape, seed)
    L, dL_dp = loss(p, t)
    close(L, derivation.forward(p.astype(object), t.astype(object)), 1e-12)
    close(dL_dp, derivation.backward(p.astype(object), t.astype(object)), 1e-10)


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(shape, seed):
    """A residual is off by eps/2, its square and the quotient by 2 eps; the sum is taken in float64."""
    p, t = (array.astype(np.float32) for array in random_batch(shape, seed))
    (L, dL_dp), (exact, expected) = loss(p, t), loss(p.astype(np.float64), t)
    eps = np.finfo(np.float32).eps
    assert dL_dp.dtype == np.float32
    assert abs(L - exact) <= 4 * eps * exact
    assert (np.abs(dL_dp - expected) <= 4 * eps * np.abs(expected)).all()


def test_finite_differences(close):
    p, t = random_batch((4, 5), 0)
    quotients, h = np.empty(p.shape), 1e-6
    for place in np.ndindex(*p.shape):
        step = np.zeros(p.shape)
        step[place] = h
        quotients[place] = (loss(p + step, t)[0] - loss(p - step, t)[0]) / (2 * h)
    close(loss(p, t)[1], quotients, 1e-7)  # rounding 1e-16 / h = 1e-10 against gradients of about 0.1


def test_knob_of_the_notes(close):
    L, dL_dp = loss([[0.6]], [[0.8]])  # S3: input .3 times the weight 2, target .8
    close(L, 0.04, 1e-14)
    close(dL_dp, [[-0.4]], 1e-14)  # S0: 2/n (p - l)


def test_mean_over_all_elements():
    L, dL_dp = loss([[1, 2], [3, 4]], [[0, 2], [3, 8]])
    assert L == (1 + 16) / 4
    assert dL_dp.tolist() == [[0.5, 0], [0, -2]]


def test_zero_only_where_prediction_and_target_are_equal(rng):
    p = rng.normal(size=(20, 3))
    L, dL_dp = loss(p, p)
    assert L == 0 and not dL_dp.any()


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
    close(summed, (residual**2).sum() / 3, 1e-12)
    close(np.moveaxis(dL_dp, 1, 2).reshape(32, 3)[:20], 2 * residual / (23 * 3), 1e-12)
    assert not dL_dp[1, :, 4:].any()


def test_nan_in_one_sample_spoils_its_own_gradient_alone():
    p = np.ones((20, 3))
    p[17, 1] = np.nan
    L, dL_dp = loss(p, np.zeros((20, 3)))
    assert math.isnan(L) and np.argwhere(np.isnan(dL_dp)).tolist() == [[17, 1]]


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99))
def test_pytorch_agrees(close, shape, seed):
    torch = pytest.importorskip("torch")
    p, t = random_batch(shape, seed)
    prediction = torch.tensor(p, requires_grad=True)
    expected = torch.nn.functional.mse_loss(prediction, torch.tensor(t))
    expected.backward()
    L, dL_dp = loss(p, t)
    close(L, expected.item(), 1e-12)
    close(dL_dp, prediction.grad.numpy(), 1e-12)


@pytest.mark.parametrize(
    ("p", "t", "message"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), "MeanSquaredError: target: got shape (3, 5), expected (3, 4)"),
        (np.zeros((3, 1)), np.zeros(3), "MeanSquaredError: target: got shape (3,), expected (3, 1)"),
        (np.zeros(3), np.zeros(3), "MeanSquaredError: got an output of shape (3,), expected (N, ...) with N > 0"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "MeanSquaredError: got an output of shape (0, 3), expected (N, ...)"),
    ],
)
def test_shapes_are_checked(p, t, message):
    with pytest.raises(ShapeError) as caught:
        loss(p, t)
    assert str(caught.value).startswith(message)
