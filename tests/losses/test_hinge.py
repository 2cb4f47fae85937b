"""Hinge loss: kernels, literal code, finite differences, PyTorch and numbers by hand agree, at the kink as well."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import hinge as derivation
from handgrad.engine import Dense, Hinge, Input, Network
from handgrad.engine.checks import ConfigurationError, ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9))
MARGINS = st.sampled_from([0.5, 1.0, 3.0])
BOTH = pytest.mark.parametrize("K", [1, 4])


def random_batch(shape, seed, kinks=False):
    """Scores and the checked target; with kinks whole numbers, of which many keep a whole margin exactly."""
    rng = np.random.default_rng(seed)
    z = rng.integers(-3, 4, size=shape).astype(float) if kinks else 2 * rng.normal(size=shape)
    return z, (rng.integers(2, size=(shape[0], 1)) if shape[1] == 1 else rng.integers(shape[1], size=shape[0]))


@given(SHAPES, st.integers(0, 99), MARGINS, st.booleans())
def test_kernel_is_the_literal_code(close, shape, seed, margin, kinks):
    (z, target), loss = random_batch(shape, seed, kinks), Hinge(margin)
    L, dL_dz = loss(z, target)
    options = loss.literal_options()
    close(L, derivation.forward(z.astype(object), target, **options), 1e-12)
    close(dL_dz, derivation.backward(z.astype(object), target, **options), 1e-14)


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(shape, seed):
    """Scores are below 8, so a violation is off by 2 eps of 8, a sum of 9 by 9 times as much; gradients by 2 eps."""
    z, target = random_batch(shape, seed)
    z, loss = np.clip(z, -8, 8).astype(np.float32), Hinge()
    (L, dL_dz), (exact, expected) = loss(z, target), loss(z.astype(np.float64), target)
    eps = np.finfo(np.float32).eps
    assert dL_dz.dtype == np.float32 and isinstance(L, float)
    assert abs(L - exact) <= 20 * eps * 8
    assert (np.abs(dL_dz - expected) <= 2 * eps * np.abs(expected)).all()


@BOTH
def test_finite_differences(close, K):
    z, target = random_batch((5, K), 1)
    loss, h = Hinge(2.0), 1e-6
    assert (loss.decisions(z + 0.01, target) == loss.decisions(z - 0.01, target)).all(), "away from the kinks"
    quotients = np.empty(z.shape)
    for place in np.ndindex(*z.shape):
        step = np.zeros(z.shape)
        step[place] = h
        quotients[place] = (loss(z + step, target)[0] - loss(z - step, target)[0]) / (2 * h)
    assert loss(z, target)[1].any()
    close(loss(z, target)[1], quotients, 1e-8)  # rounding 1e-16 / h = 1e-10 against gradients of 0.05


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_several_classes_by_hand(dtype):
    z = np.array([[2.5, 3, 1, 6], [4, 3, 5, 0]], dtype=dtype)
    L, dL_dz = Hinge()(z, [1, 2])  # lacking: 1 - .5, and 1 + 3; then 1 - 1, exactly at the kink
    assert L == (0.5 + 4) / 8
    assert dL_dz.tolist() == [[0.125, -0.25, 0, 0.125], [0, 0, 0, 0]]
    L, dL_dz = Hinge(1.5)(z[1:], [2])
    assert L == 0.5 / 4 and dL_dz.tolist() == [[0.25, 0, -0.25, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_score_by_hand(dtype):
    z = np.array([[0.5], [-2], [1], [0]], dtype=dtype)
    L, dL_dz = Hinge()(z, [1, 0, 1, 0])  # lacking: .5, nothing, nothing (at the kink), 1
    assert L == (0.5 + 1) / 4
    assert dL_dz.tolist() == [[-0.25], [0], [0], [0.25]]
    L, dL_dz = Hinge()(z, [0, 1, 0, 1])
    assert L == (1.5 + 3 + 2 + 1) / 4
    assert dL_dz.tolist() == [[0.25], [-0.25], [0.25], [-0.25]]


@given(st.integers(1, 40), st.integers(0, 99), MARGINS)
def test_one_score_is_two_scores_of_half_the_loss(close, N, seed, margin):
    z, t = random_batch((N, 1), seed)
    (L, dL_dz), (half, two) = Hinge(margin)(z, t), Hinge(margin)(np.hstack([-z / 2, z / 2]), t[:, 0])
    close(L, 2 * half, 1e-14)
    close(dL_dz[:, 0], two[:, 1] - two[:, 0], 1e-14)  # dz1/dz = 1/2, dz0/dz = -1/2, and twice that


@given(SHAPES, st.integers(0, 99), st.floats(0.01, 100))
def test_scaling_scores_and_margin_scales_the_loss_and_not_the_gradient(close, shape, seed, factor):
    z, target = random_batch(shape, seed)
    (L, dL_dz), (scaled, same) = Hinge()(z, target), Hinge(factor)(factor * z, target)
    close(scaled, factor * L, 1e-12)
    np.testing.assert_array_equal(same, dL_dz)


@given(st.tuples(st.integers(1, 40), st.integers(2, 9)), st.integers(0, 99), st.integers(-50, 50))
def test_only_differences_of_scores_count(close, shape, seed, shift):
    z, labels = random_batch(shape, seed)
    (L, dL_dz), (moved, same) = Hinge()(z, labels), Hinge()(z + shift, labels)
    np.testing.assert_allclose(moved, L, rtol=0, atol=1e-13)  # z + shift is rounded at 50 · 1e-16
    np.testing.assert_array_equal(same, dL_dz)
    np.testing.assert_allclose(dL_dz.sum(axis=1), 0, atol=1e-16)
    assert (dL_dz[np.arange(len(z)), labels] <= 0).all()


@BOTH
def test_a_kept_margin_neither_costs_nor_learns(K):
    t = np.arange(20) % 2
    z = 1.5 * (2 * t - 1)[:, None] if K == 1 else 1.5 * np.eye(K)[t]
    L, dL_dz = Hinge(1.5)(z, t)  # at the kink
    assert L == 0 and not dL_dz.any()
    L, dL_dz = Hinge(1.5 + 1e-9)(z, t)
    assert 0 < L < 1e-8 and dL_dz.any(axis=1).all()


@BOTH
@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 99))
def test_a_batch_is_the_weighted_mean_of_its_parts(close, K, N, first, seed):
    z, target = random_batch((N, K), seed)
    first, loss = min(first, N - 1), Hinge()
    L, dL_dz = loss(z, target)
    parts = [(slice(None, first), first), (slice(first, None), N - first)]
    close(sum(n * loss(z[part], target[part])[0] for part, n in parts) / N, L, 1e-12)
    close(np.concatenate([n * loss(z[part], target[part])[1] for part, n in parts]) / N, dL_dz, 1e-12)


@BOTH
def test_lanes_without_a_sample_neither_cost_nor_learn(close, K):
    """In a network they hold whatever the layers make of zeros."""
    z, target = random_batch((20, K), 0)
    loss, lanes, dL_dz = Hinge(), np.full((2, K, 16), np.nan), np.full((2, K, 16), np.nan)
    lanes[0], lanes[1, :, :4] = z[:16].T, z[16:].T
    lanes[1, :, 4:7] = 5.0
    packed = loss.pack_target(loss.check_target(target, z.shape), 2, z.dtype)
    summed = loss.on_lanes(lanes, packed, 20, 23, dL_dz)  # 20 samples here, of 23 in the mini-batch
    L, expected = loss(z, target)
    close(summed, 20 * L, 1e-12)
    close(np.moveaxis(dL_dz, 1, 2).reshape(32, K)[:20], expected * 20 / 23, 1e-12)
    assert not dL_dz[1, :, 4:].any()


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_is_seen_in_the_loss_and_stays_in_its_sample(K, bad):
    t = np.zeros(20, dtype=int)
    z = np.zeros((20, K))
    z[17, -1] = bad  # of the wrong class, or the score of a negative sample
    L, dL_dz = Hinge()(z, t)
    assert math.isnan(L) if math.isnan(bad) else L == math.inf
    np.testing.assert_array_equal(dL_dz, Hinge()(np.zeros((20, K)), t)[1])


def test_every_way_to_say_the_same_target():
    z, labels = random_batch((5, 4), 0)
    L, dL_dz = Hinge()(z, labels)
    for target in (labels.tolist(), labels.astype(np.uint8), np.eye(4)[labels]):
        same, gradient = Hinge()(z, target)
        assert same == L
        np.testing.assert_array_equal(gradient, dL_dz)
    z, t = random_batch((5, 1), 0)
    L, dL_dz = Hinge()(z, t)
    for target in (t[:, 0].tolist(), t[:, 0].astype(np.uint8), t.astype(bool), t.astype(float)):
        same, gradient = Hinge()(z, target)
        assert same == L
        np.testing.assert_array_equal(gradient, dL_dz)


@BOTH
def test_a_checked_target_is_right_as_it_is(K):
    """The evaluation of a data set checks targets that the training has checked already."""
    checked = Hinge().check_target(np.array([0, 1, 1], dtype=np.uint8), (3, K))
    assert checked.ndim == (2 if K == 1 else 1)
    np.testing.assert_array_equal(Hinge().check_target(checked, (3, K)), checked)


def test_decisions_tell_which_margins_are_violated():
    z = np.array([[2.5, 3, 2, 6]])
    assert Hinge().decisions(z, np.array([1])).tolist() == [[True, False, False, True]]  # 2 keeps the margin exactly
    assert Hinge(0.25).decisions(z, np.array([1])).tolist() == [[False, False, False, True]]
    scores, t = np.array([[0.5], [-2], [1]]), np.array([[1.0], [0.0], [1.0]])
    assert Hinge().decisions(scores, t).tolist() == [[True], [False], [False]]


def test_a_linear_support_vector_machine_on_fixed_features():
    """Hinge loss and λ/2 Σ w² on five points, one far away: the widest street has the boundary x1 = 0 and the margins x1 = ±1."""
    x = np.array([[1.0, 3.0], [1.0, -1.0], [-1.0, 2.0], [-1.0, -4.0], [5.0, 0.0]])
    t, node, penalty = np.array([1, 1, 0, 0, 1]), Input((2,)), 0.1
    network = Network(node, Dense(1, name="svm")(node), dtype="float64", seed=0)
    W, b, loss = network.parameters["svm.W"], network.parameters["svm.b"], Hinge()
    for step in range(4000):
        L, dL_dz = loss(network.forward(x), t)
        network.backward(dL_dz)
        rate = 1 / (penalty * (step + 20))
        W -= rate * (network.gradients["svm.W"] + penalty * W)
        b -= rate * network.gradients["svm.b"]
    assert np.abs(W - [[1, 0]]).max() < 0.01 and abs(b[0]) < 0.01  # steps of 1/400 at the end
    assert L < 0.01 and dL_dz[4] == 0, "the far point is no support vector"


@pytest.mark.parity
@given(st.tuples(st.integers(1, 40), st.integers(2, 9)), st.integers(0, 99), MARGINS, st.booleans())
def test_pytorch_agrees_for_several_classes(close, shape, seed, margin, kinks):
    torch = pytest.importorskip("torch")
    z, labels = random_batch(shape, seed, kinks)
    scores = torch.tensor(z, requires_grad=True)
    expected = torch.nn.functional.multi_margin_loss(scores, torch.tensor(labels), margin=margin)
    expected.backward()
    L, dL_dz = Hinge(margin)(z, labels)
    close(L, expected.item(), 1e-12)
    close(dL_dz, scores.grad.numpy(), 1e-12)


@pytest.mark.parity
@given(st.integers(1, 40), st.integers(0, 99), MARGINS)
def test_pytorch_agrees_for_one_score(close, N, seed, margin):
    torch = pytest.importorskip("torch")
    z, t = random_batch((N, 1), seed)
    scores = torch.tensor(z, requires_grad=True)
    expected = torch.relu(margin - torch.tensor(2.0 * t - 1) * scores).mean()
    expected.backward()
    L, dL_dz = Hinge(margin)(z, t)
    close(L, expected.item(), 1e-12)
    close(dL_dz, scores.grad.numpy(), 1e-12)


@pytest.mark.parametrize(
    ("shape", "target", "message"),
    [
        ((3, 4), [0, 1, 4], "Hinge: labels: got 4, expected integers from 0 to 3"),
        ((3, 4), [0, 1], "Hinge: target: got shape (2,), expected (3,) or one-hot (3, 4)"),
        ((3, 1), [0, 1, -1], "Hinge: labels: got -1, expected 0 or 1"),
        ((3, 1), [0, 1], "Hinge: target: got shape (2,), expected (3,) or (3, 1)"),
        ((2, 3, 3), [0, 1], "Hinge: got an output of shape (2, 3, 3), expected (N, K), one value per class"),
        ((0, 3), [], "Hinge: got an output of shape (0, 3), expected (N, ...) with N > 0"),
    ],
)
def test_targets_are_checked(shape, target, message):
    with pytest.raises(ShapeError) as caught:
        Hinge()(np.zeros(shape), target)
    assert str(caught.value) == message


@pytest.mark.parametrize("margin", [0, -1.0, math.nan, math.inf, "wide", True, None])
def test_the_margin_is_checked(margin):
    with pytest.raises(ConfigurationError) as caught:
        Hinge(margin)
    assert str(caught.value) == f"Hinge: margin: got {margin!r}, expected a number above 0"
