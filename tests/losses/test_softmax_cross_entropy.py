"""Softmax cross entropy: kernel, literal code, finite differences, PyTorch and the notes' numbers agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import softmax_cross_entropy as derivation
from handgrad.engine import SoftmaxCrossEntropy
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 12))
loss = SoftmaxCrossEntropy()


def random_batch(shape, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=shape), rng.integers(shape[1], size=shape[0])


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10, 300]))
def test_kernel_is_the_literal_code(close, shape, seed, spread):
    z, labels = random_batch(shape, seed, spread)
    L, dL_dz = loss(z, labels)
    close(L, derivation.forward(z.astype(object), labels), 1e-12)
    close(dL_dz, derivation.backward(z.astype(object), labels), 1e-10)


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(shape, seed):
    """z - m is off by eps/2 of at most 8, the exponentials and their sum by 2 and K eps; p - t is at most 1."""
    z, labels = random_batch(shape, seed)
    z = np.clip(z, -4, 4).astype(np.float32)
    (L, dL_dz), (exact, expected) = loss(z, labels), loss(z.astype(np.float64), labels)
    eps = np.finfo(np.float32).eps
    assert dL_dz.dtype == np.float32 and isinstance(L, float)
    assert abs(L - exact) <= (8 + shape[1]) * eps * 12  # each term is at most m + log K - z, below 12
    assert (np.abs(dL_dz - expected) * shape[0] <= (8 + shape[1]) * eps).all()


def test_finite_differences(close):
    z, labels = random_batch((4, 5), 0)
    quotients, h = np.empty(z.shape), 1e-6
    for place in np.ndindex(*z.shape):
        step = np.zeros(z.shape)
        step[place] = h
        quotients[place] = (loss(z + step, labels)[0] - loss(z - step, labels)[0]) / (2 * h)
    close(loss(z, labels)[1], quotients, 1e-7)  # rounding 1e-16 / h = 1e-10 against gradients of about 0.1


def test_dog_of_the_notes(close):
    first, dL_dz = loss(np.log([[0.2, 0.3, 0.5]]), [1])
    second, _ = loss(np.log([[0.3, 0.5, 0.2]]), [1])
    assert (round(first, 2), round(second, 2)) == (1.2, 0.69)
    close(dL_dz, [[0.2, -0.7, 0.5]], 1e-15)
    both, _ = loss(np.log([[0.2, 0.3, 0.5], [0.3, 0.5, 0.2]]), [1, 1])
    assert both == pytest.approx((first + second) / 2, rel=1e-15)  # the mean, not the sum


@pytest.mark.parametrize("K", [1, 2, 10])
def test_ignorance_costs_the_logarithm_of_the_number_of_classes(K):
    L, dL_dz = loss(np.full((3, K), 7.0), np.zeros(3, dtype=int))
    assert L == pytest.approx(math.log(K), abs=1e-15)
    np.testing.assert_allclose(dL_dz, (np.full((3, K), 1 / K) - np.eye(K)[[0, 0, 0]]) / 3, atol=1e-16)


@given(SHAPES, st.integers(0, 99), st.integers(1, 39))
def test_a_batch_is_the_weighted_mean_of_its_parts(close, shape, seed, first):
    z, labels = random_batch(shape, seed)
    N, first = len(z), min(first, len(z) - 1)
    L, dL_dz = loss(z, labels)
    parts = [(part, len(z[part])) for part in (slice(None, first), slice(first, None)) if len(z[part])]
    close(sum(n * loss(z[part], labels[part])[0] for part, n in parts) / N, L, 1e-12)
    close(np.concatenate([n * loss(z[part], labels[part])[1] for part, n in parts]) / N, dL_dz, 1e-12)


@given(SHAPES, st.integers(0, 99), st.floats(-500, 500))
def test_gradients_sum_to_0_and_a_shift_changes_nothing(shape, seed, shift):
    z, labels = random_batch(shape, seed)
    (L, dL_dz), (moved, _) = loss(z, labels), loss(z + shift, labels)
    np.testing.assert_allclose(dL_dz.sum(axis=1), 0, atol=1e-15)
    assert moved == pytest.approx(L, abs=1e-12)  # z + shift is rounded at 500 · 1e-16
    assert L >= 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_do_not_overflow(dtype):
    z = np.array([[1e4, -1e4, 0], [-1e30, 1e30, 0], [-np.inf, 0, 0]], dtype=dtype)
    L, dL_dz = loss(z[:1], [0])
    assert L == 0 and not dL_dz.any()
    L, dL_dz = loss(z[:1], [1])
    assert L == pytest.approx(2e4) and dL_dz.tolist() == [[1, -1, 0]]
    L, dL_dz = loss(z[1:2], [1])
    assert L == 0 and not dL_dz.any()
    L, dL_dz = loss(z[2:], [1])
    assert L == pytest.approx(math.log(2)) and dL_dz.tolist() == [[0, -0.5, 0.5]]


def test_lanes_without_a_sample_neither_cost_nor_learn(close):
    """In a network they hold whatever the layers make of zeros."""
    rng = np.random.default_rng(0)
    z, labels, dL_dz = rng.normal(size=(2, 3, 16)), rng.integers(3, size=(2, 16)), np.full((2, 3, 16), np.nan)
    z[1, :, 7:] = np.nan
    summed = loss.on_lanes(z, labels, 20, 23, dL_dz)  # 20 samples here, of 23 in the mini-batch
    samples = np.moveaxis(z, 1, 2).reshape(32, 3)[:20]
    L, expected = loss(samples, labels.reshape(-1)[:20])
    close(summed, 20 * L, 1e-12)
    close(np.moveaxis(dL_dz, 1, 2).reshape(32, 3)[:20], expected * 20 / 23, 1e-12)
    assert not dL_dz[1, :, 4:].any()


def test_nan_in_one_sample_spoils_its_own_gradient_alone():
    z = np.zeros((20, 3))
    z[17, 1] = np.nan
    L, dL_dz = loss(z, np.zeros(20, dtype=int))
    assert math.isnan(L)
    assert np.isnan(dL_dz[17]).any() and np.isfinite(np.delete(dL_dz, 17, axis=0)).all()


def test_every_way_to_say_the_same_target():
    z, labels = random_batch((5, 4), 0)
    L, dL_dz = loss(z, labels)
    one_hot = np.eye(4)[labels]
    for target in (labels.tolist(), labels.astype(np.uint8), labels.astype(float), one_hot, one_hot.astype(bool)):
        same, gradient = loss(z, target)
        assert same == L
        np.testing.assert_array_equal(gradient, dL_dz)


def test_integers_are_taken_as_float64():
    L, dL_dz = loss(np.array([[0, 0]]), [0])
    assert L == pytest.approx(math.log(2)) and dL_dz.dtype == np.float64


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99))
def test_pytorch_agrees(close, shape, seed):
    torch = pytest.importorskip("torch")
    z, labels = random_batch(shape, seed)
    logits = torch.tensor(z, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    expected.backward()
    L, dL_dz = loss(z, labels)
    np.testing.assert_allclose(L, expected.item(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(dL_dz, logits.grad.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("z", "target", "message"),
    [
        (np.zeros((3, 4)), [0, 1, 4], "SoftmaxCrossEntropy: labels: got 4, expected integers from 0 to 3"),
        (np.zeros((3, 4)), [0, -1, 2], "SoftmaxCrossEntropy: labels: got -1, expected integers from 0 to 3"),
        (np.zeros((3, 4)), [0, 1.5, 2], "SoftmaxCrossEntropy: labels: got 1.5, expected integers from 0 to 3"),
        (np.zeros((3, 4)), [0, np.nan, 2], "SoftmaxCrossEntropy: labels: got nan, expected integers from 0 to 3"),
        (np.zeros((3, 4)), [0, np.inf, 2], "SoftmaxCrossEntropy: labels: got inf, expected integers from 0 to 3"),
        (np.zeros((3, 4)), [0, 1], "SoftmaxCrossEntropy: target: got shape (2,), expected (3,) or one-hot (3, 4)"),
        (np.zeros((3, 4)), np.zeros((3, 5)), "SoftmaxCrossEntropy: target: got shape (3, 5), expected (3,) or"),
        (np.zeros((2, 3)), [[0, 1, 1], [1, 0, 0]], "SoftmaxCrossEntropy: target: got rows that are not one-hot"),
        (np.zeros((2, 3)), [[0, 0, 0], [1, 0, 0]], "SoftmaxCrossEntropy: target: got rows that are not one-hot"),
        (np.zeros((2, 3)), [[0, 0.5, 0.5], [1, 0, 0]], "SoftmaxCrossEntropy: target: got rows that are not one-hot"),
        (np.zeros((2, 3, 3)), [0, 1], "SoftmaxCrossEntropy: got an output of shape (2, 3, 3), expected (N, K)"),
        (np.zeros(3), [0], "SoftmaxCrossEntropy: got an output of shape (3,), expected (N, ...) with N > 0"),
        (np.zeros((0, 3)), [], "SoftmaxCrossEntropy: got an output of shape (0, 3), expected (N, ...) with N > 0"),
    ],
)
def test_targets_are_checked(z, target, message):
    with pytest.raises(ShapeError) as caught:
        loss(z, target)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e8), ("float64", 1e17)])
def test_logits_so_large_that_a_logarithm_would_drown_in_them(dtype, size):
    L, dL_dz = loss(np.array([[size, size], [size, -size]], dtype=dtype), np.array([0, 0]))
    assert abs(L - np.log(2) / 2) < 1e-6
    np.testing.assert_allclose(dL_dz, [[-0.25, 0.25], [0, 0]], atol=1e-7)
