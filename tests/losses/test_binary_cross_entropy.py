"""Binary cross entropy, of probabilities and of logits: kernels, literal code, finite differences and PyTorch agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import binary_cross_entropy as derivation
from handgrad.engine import BinaryCrossEntropy, Dense, Input, Network, Sigmoid, SoftmaxCrossEntropy
from handgrad.engine.checks import ConfigurationError, ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)
of_p, of_z = BinaryCrossEntropy(), BinaryCrossEntropy(logits=True)
BOTH = pytest.mark.parametrize("loss", [of_p, of_z], ids=["probabilities", "logits"])


def sigmoid(z):
    return np.exp(np.minimum(z, 0)) / (1 + np.exp(-np.abs(z)))


def random_batch(loss, shape, seed, spread=1.0, soft=True):
    rng = np.random.default_rng(seed)
    z = spread * rng.normal(size=shape)
    t = rng.uniform(size=shape) if soft else rng.integers(2, size=shape).astype(float)
    return (z if loss is of_z else sigmoid(z)), t


@BOTH
@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10, 1000]), st.booleans())
def test_kernel_is_the_literal_code(loss, shape, seed, spread, soft):
    """The literal code rounds 1 + exp(-|z|) and 1 - p, at 1e-16; with the largest spread many p are exactly 0 or 1."""
    z, t = random_batch(loss, shape, seed, spread, soft)
    if loss is of_p:
        z[z < 1e-300] = 0
    L, dL_dz = loss(z, t)
    options = loss.literal_options()
    literal = derivation.forward(z.astype(object), t.astype(object), **options)
    np.testing.assert_allclose(L, float(literal), rtol=1e-12, atol=1e-15)
    expected = derivation.backward(z.astype(object), t.astype(object), **options).astype(float)
    np.testing.assert_allclose(dL_dz, expected, rtol=1e-13, atol=1e-16 / z.size)  # p - t cancels at 1e-16


@given(SHAPES, st.integers(0, 99))
def test_float32_probabilities_are_float64_but_for_rounding(shape, seed):
    """The arguments are exact; each logarithm is off by 2 eps, product, sum and quotient by eps/2 each."""
    p, t = (array.astype(np.float32) for array in random_batch(of_p, shape, seed, 3))
    p = np.clip(p, np.float32(1e-30), np.float32(1 - 1e-6))
    (L, dL_dp), (exact, expected) = of_p(p, t), of_p(p.astype(np.float64), t)
    eps = np.finfo(np.float32).eps
    assert dL_dp.dtype == np.float32 and isinstance(L, float)
    assert abs(L - exact) <= 5 * eps * exact
    residual = np.abs(p - t.astype(np.float64))
    bound = 4 * eps * (np.abs(expected) * (1 + eps / np.maximum(residual, eps)))  # p - t: eps/2 relative to itself
    assert (np.abs(dL_dp - expected) <= bound).all()


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 20]))
def test_float32_logits_are_float64_but_for_rounding(shape, seed, spread):
    """max(z, 0) and z t are off by eps of |z|, exp and log1p by 2 eps of at most 1; p by 4 eps of itself."""
    z, t = (array.astype(np.float32) for array in random_batch(of_z, shape, seed, spread))
    (L, dL_dz), (exact, expected) = of_z(z, t), of_z(z.astype(np.float64), t)
    eps = np.finfo(np.float32).eps
    assert dL_dz.dtype == np.float32 and isinstance(L, float)
    assert abs(L - exact) <= 4 * eps * (np.abs(z).mean() + 1)
    assert (np.abs(dL_dz - expected) * z.size <= 6 * eps).all()


@BOTH
def test_finite_differences(close, loss):
    z, t = random_batch(loss, (4, 5), 0)
    quotients, h = np.empty(z.shape), 1e-6
    for place in np.ndindex(*z.shape):
        step = np.zeros(z.shape)
        step[place] = h
        quotients[place] = (loss(z + step, t)[0] - loss(z - step, t)[0]) / (2 * h)
    close(loss(z, t)[1], quotients, 1e-7)  # rounding 1e-16 / h = 1e-10 against gradients of about 0.05


def test_by_hand(close):
    L, dL_dp = of_p([[0.8, 0.6]], [[1, 0]])
    close(L, -(math.log(0.8) + math.log(0.4)) / 2, 1e-15)
    close(dL_dp, [[-0.5 / 0.8, 0.5 / 0.4]], 1e-15)
    L, dL_dz = of_z(np.log([[4, 1.5]]), [[1, 0]])
    close(L, -(math.log(0.8) + math.log(0.4)) / 2, 1e-15)
    close(dL_dz, [[-0.1, 0.3]], 1e-15)


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 5]))
def test_logits_are_probabilities_through_the_sigmoid(close, shape, seed, spread):
    """p (1 - p), by which the gradients differ, is rounded at 1e-16 / (1 - p), and p - t at 1e-16."""
    z, t = random_batch(of_z, shape, seed, spread)
    z = np.clip(z, -8, 8)
    p = sigmoid(z)
    (L, dL_dz), (same, dL_dp) = of_z(z, t), of_p(p, t)
    close(same, L, 1e-12)
    np.testing.assert_allclose(dL_dp * p * (1 - p), dL_dz, rtol=1e-11, atol=1e-15)


def test_in_a_network_both_forms_give_the_same_gradients(close, rng):
    x, t = rng.normal(size=(19, 5)), rng.integers(2, size=19)
    node = Input((5,))
    score = Dense(1, name="fc")(node)
    apart, fused = (Network(node, end, dtype="float64", seed=1) for end in (Sigmoid()(score), score))
    dL_dx = apart.backward(of_p(apart.forward(x), t)[1])
    close(dL_dx, fused.backward(of_z(fused.forward(x), t)[1]), 1e-12)
    for name in ("fc.W", "fc.b"):
        close(apart.gradients[name], fused.gradients[name], 1e-12)


@given(st.integers(1, 40), st.integers(0, 99), st.sampled_from([1, 30]))
def test_one_logit_is_a_softmax_of_two_classes_one_of_them_with_0(close, N, seed, spread):
    rng = np.random.default_rng(seed)
    z, labels = spread * rng.normal(size=(N, 1)), rng.integers(2, size=N)
    (L, dL_dz), (same, two) = of_z(z, labels), SoftmaxCrossEntropy()(np.hstack([np.zeros((N, 1)), z]), labels)
    np.testing.assert_allclose(L, same, rtol=1e-12, atol=1e-15)  # the softmax's sum 1 + e is rounded
    np.testing.assert_allclose(dL_dz, two[:, 1:], rtol=0, atol=1e-15)


@BOTH
@given(SHAPES, st.integers(0, 99))
def test_yes_and_no_are_symmetric_and_no_loss_is_below_that_of_the_target(loss, shape, seed):
    z, t = random_batch(loss, shape, seed)
    (L, dL_dz), (mirrored, opposite) = loss(z, t), loss(-z if loss is of_z else 1 - z, 1 - t)
    np.testing.assert_allclose(mirrored, L, rtol=1e-13)
    np.testing.assert_allclose(opposite, -dL_dz, rtol=1e-12, atol=1e-15)  # 1 - p and 1 - t are rounded
    best, none = loss(np.log(t / (1 - t)) if loss is of_z else t, t)
    assert best <= L + 1e-15
    np.testing.assert_allclose(none, 0, atol=1e-15)


@BOTH
@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 99))
def test_a_batch_is_the_weighted_mean_of_its_parts(close, loss, N, first, seed):
    z, t = random_batch(loss, (N, 3), seed)
    first = min(first, N - 1)
    L, dL_dz = loss(z, t)
    parts = [(slice(None, first), first), (slice(first, None), N - first)]
    close(sum(n * loss(z[part], t[part])[0] for part, n in parts) / N, L, 1e-12)
    close(np.concatenate([n * loss(z[part], t[part])[1] for part, n in parts]) / N, dL_dz, 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floors_at_exactly_0_and_1(dtype):
    steep = float(dtype(1) / dtype(1e-12))  # near 1e12
    for p, t, L, dL_dp in [
        (0, 1, 100, -steep), (1, 0, 100, steep), (0, 0, 0, 0), (1, 1, 0, 0), (0, 0.25, 25, -steep / 4), (-0.0, 1, 100, -steep),
    ]:  # fmt: skip
        value, gradient = of_p(np.array([[p]], dtype=dtype), [[t]])
        assert value == L, (p, t)
        np.testing.assert_allclose(gradient, [[dL_dp]], rtol=1e-6)


def test_nothing_else_is_clipped():
    L, dL_dp = of_p([[1e-300, 1e-20]], [[1, 0]])
    assert L == pytest.approx(300 * math.log(10) / 2, rel=1e-14)
    np.testing.assert_allclose(dL_dp, [[-0.5e300, 0.5]], rtol=1e-14)
    assert of_p([[1e-20]], [[0]])[0] == pytest.approx(
        1e-20, rel=1e-14, abs=0
    )  # log1p: 1 - 1e-20 is 1 in floating point


@pytest.mark.parametrize(("dtype", "tiny"), [(np.float32, 1e-39), (np.float64, 1e-309)])
def test_where_the_inverse_overflows_the_gradient_stays_finite(dtype, tiny):
    L, dL_dp = of_p(np.array([[tiny]], dtype=dtype), [[1]])
    assert L == pytest.approx(-math.log(tiny), rel=1e-6)  # a subnormal 1e-39 has 6 digits
    np.testing.assert_allclose(dL_dp, [[-1e12]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_do_not_overflow(dtype):
    z = np.array([[1000, -1000], [1e30, -1e30]], dtype=dtype)
    L, dL_dz = of_z(z, [[1, 0], [1, 0]])
    assert L == 0 and not dL_dz.any()
    L, dL_dz = of_z(z[:1], [[0, 1]])
    assert L == 1000 and dL_dz.tolist() == [[0.5, -0.5]]
    assert of_z(np.array([[50]], dtype=dtype), [[1]])[0] == pytest.approx(
        math.exp(-50), rel=1e-6, abs=0
    )  # log1p keeps it


@BOTH
def test_lanes_without_a_sample_neither_cost_nor_learn(close, loss):
    """In a network they hold whatever the layers make of zeros."""
    rng = np.random.default_rng(0)
    z, t, dL_dz = rng.uniform(size=(2, 3, 16)), rng.uniform(size=(2, 3, 16)), np.full((2, 3, 16), np.nan)
    z[1, :, 7:] = np.nan
    summed = loss.on_lanes(z, t, 20, 23, dL_dz)  # 20 samples here, of 23 in the mini-batch
    samples, targets = (np.moveaxis(array, 1, 2).reshape(32, 3)[:20] for array in (z, t))
    L, expected = loss(samples, targets)
    close(summed, 20 * L, 1e-12)
    close(np.moveaxis(dL_dz, 1, 2).reshape(32, 3)[:20], expected * 20 / 23, 1e-12)
    assert not dL_dz[1, :, 4:].any()


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_in_one_sample_spoils_its_own_gradient_alone(loss, dtype):
    z = np.full((20, 3), 0.5, dtype=dtype)
    z[17, 1] = np.nan
    for t in (0, 1):
        L, dL_dz = loss(z, np.full((20, 3), t))
        assert math.isnan(L) and np.argwhere(np.isnan(dL_dz)).tolist() == [[17, 1]]


@BOTH
def test_every_way_to_say_the_same_target(loss):
    z, t = random_batch(loss, (5, 1), 0, soft=False)
    L, dL_dz = loss(z, t)
    labels = t[:, 0]
    for target in (labels.astype(int).tolist(), labels, labels.astype(bool), t.astype(np.uint8), t.astype(bool)):
        same, gradient = loss(z, target)
        assert same == L
        np.testing.assert_array_equal(gradient, dL_dz)
    z, labels = random_batch(loss, (5, 4), 0)[0], np.array([3, 0, 1, 1, 2])
    (L, dL_dz), (same, gradient) = loss(z, labels), loss(z, np.eye(4)[labels])
    assert L == same
    np.testing.assert_array_equal(dL_dz, gradient)


def test_a_checked_target_is_right_as_it_is():
    """The evaluation of a data set checks targets that the training has checked already."""
    checked = of_p.check_target([0, 1, 1], (3, 1))
    assert checked.tolist() == [[0], [1], [1]]
    np.testing.assert_array_equal(of_p.check_target(checked, (3, 1)), checked)


def test_decisions_tell_where_the_logarithms_end():
    p = np.array([[0.0, 0.5, 1.0]])
    assert of_p.decisions(p, p).tolist() == [[False, True, False]]
    assert of_z.decisions(p, p) is None


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 5]), st.booleans())
def test_pytorch_agrees(shape, seed, spread, soft):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    for loss, reference in (
        (of_p, functional.binary_cross_entropy),
        (of_z, functional.binary_cross_entropy_with_logits),
    ):
        z, t = random_batch(loss, shape, seed, spread, soft)
        output = torch.tensor(z, requires_grad=True)
        expected = reference(output, torch.tensor(t))
        expected.backward()
        L, dL_dz = loss(z, t)
        np.testing.assert_allclose(L, expected.item(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(dL_dz, output.grad.numpy(), rtol=1e-9, atol=1e-15)  # PyTorch computes 1 - p as well


@pytest.mark.parity
def test_pytorch_has_the_same_floors():
    torch = pytest.importorskip("torch")
    p, t = np.array([[0, 0, 0, 1, 1, 1.0]]), np.array([[0, 0.25, 1, 0, 0.25, 1]])
    output = torch.tensor(p, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy(output, torch.tensor(t))
    expected.backward()
    L, dL_dp = of_p(p, t)
    assert L == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(dL_dp, output.grad.numpy(), rtol=1e-8)  # PyTorch's 1e-12 is a float32 number


REMEDY = "; put a Sigmoid before this loss, or better use BinaryCrossEntropy(logits=True) without one"


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (-0.25, "-0.25"), (np.inf, "inf")])
def test_what_is_no_probability_is_refused(value, shown):
    p = np.full((3, 2), 0.5)
    p[2, 1] = value
    with pytest.raises(ConfigurationError) as caught:
        of_p(p, np.zeros((3, 2)))
    assert str(caught.value) == f"BinaryCrossEntropy: output: got {shown}, expected probabilities from 0 to 1{REMEDY}"


@pytest.mark.parametrize("value", [-1.0, 2.0])
@pytest.mark.parametrize("t", [0, 0.5, 1])
def test_in_a_training_as_well_once_the_loss_is_no_number(value, t):
    """The kernel of a training looks at nothing; log(-1) is NaN."""
    z = np.full((1, 2, 16), 0.5)
    z[0, 0, :3] = value
    with pytest.raises(ConfigurationError, match=f"^BinaryCrossEntropy: output: got {value:g}, expected probabilities"):
        of_p.on_lanes(z, np.full((1, 2, 16), t), 3, 3, np.empty_like(z))


@pytest.mark.parametrize(
    ("shape", "target", "message"),
    [
        ((1, 2), [[0, 1.5]], "target: got 1.5, expected values from 0 to 1 (1 for yes)"),
        ((1, 2), [[-1, 1]], "target: got -1, expected values from 0 to 1 (1 for yes)"),
        ((1, 2), [[np.nan, 1]], "target: got nan, expected values from 0 to 1 (1 for yes)"),
        ((3, 2), np.zeros((3, 1)), "target: got shape (3, 1), expected (3, 2)"),
        ((3, 2), [0, 1, 2], "labels: got 2, expected integers from 0 to 1"),
        ((3, 1), [0, 1, 2], "labels: got 2, expected 0 or 1"),
        ((3, 1), [0, 1, 0.5], "labels: got 0.5, expected 0 or 1"),
        ((3, 1), [0, 1], "target: got shape (2,), expected (3,) or (3, 1)"),
    ],
)  # fmt: skip
@BOTH
def test_targets_are_checked(loss, shape, target, message):
    with pytest.raises(ShapeError) as caught:
        loss(np.full(shape, 0.5), target)
    assert str(caught.value) == f"BinaryCrossEntropy: {message}"


def test_the_option_is_checked():
    with pytest.raises(ConfigurationError, match="^BinaryCrossEntropy: logits: got 'yes', expected True or False$"):
        BinaryCrossEntropy(logits="yes")
