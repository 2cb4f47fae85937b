"""Cross entropy of probabilities: kernel, literal code, finite differences, PyTorch and the notes' numbers agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import cross_entropy as derivation
from handgrad.engine import CrossEntropy, SoftmaxCrossEntropy
from handgrad.engine.checks import ConfigurationError, ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 12))
loss = CrossEntropy()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def random_batch(shape, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return softmax(spread * rng.normal(size=shape)), rng.integers(shape[1], size=shape[0])


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10, 1000]))
def test_kernel_is_the_literal_code(close, shape, seed, spread):
    p, labels = random_batch(shape, seed, spread)  # with the largest spread many p are exactly 0
    p[p < 1e-300] = 0
    L, dL_dp = loss(p, labels)
    close(L, derivation.forward(p.astype(object), labels), 1e-12)
    np.testing.assert_allclose(dL_dp, derivation.backward(p.astype(object), labels).astype(float), rtol=1e-14, atol=0)


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(shape, seed):
    """The logarithm is off by 2 eps of itself, as its argument is exact; 1/p and the quotient by eps/2 each."""
    p, labels = random_batch(shape, seed, 3)
    p = p.astype(np.float32)
    (L, dL_dp), (exact, expected) = loss(p, labels), loss(p.astype(np.float64), labels)
    eps = np.finfo(np.float32).eps
    assert dL_dp.dtype == np.float32 and isinstance(L, float)
    assert abs(L - exact) <= 2 * eps * exact
    assert (np.abs(dL_dp - expected) <= 2 * eps * np.abs(expected)).all()


def test_finite_differences(close):
    p, labels = random_batch((4, 5), 0)
    quotients, h = np.empty(p.shape), 1e-6
    for place in np.ndindex(*p.shape):
        step = np.zeros(p.shape)
        step[place] = h
        quotients[place] = (loss(p + step, labels)[0] - loss(p - step, labels)[0]) / (2 * h)
    close(loss(p, labels)[1], quotients, 1e-7)  # truncation h²/p² = 1e-9 for p above 0.03


def test_dog_of_the_notes(close):
    first, dL_dp = loss([[0.2, 0.3, 0.5]], [1])
    second, _ = loss([[0.3, 0.5, 0.2]], [1])
    assert (round(first, 2), round(second, 2)) == (1.2, 0.69)
    close(dL_dp, [[0, -1 / 0.3, 0]], 1e-15)  # S0: -l/p
    both, gradient = loss([[0.2, 0.3, 0.5], [0.3, 0.5, 0.2]], [1, 1])
    assert both == pytest.approx((first + second) / 2, rel=1e-15)  # the mean, not the sum
    close(gradient, [[0, -0.5 / 0.3, 0], [0, -1, 0]], 1e-15)


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 5]))
def test_through_the_softmax_it_is_softmax_cross_entropy(close, shape, seed, spread):
    """With the full Jacobian of the softmax the gradient is (p - t) / N."""
    rng = np.random.default_rng(seed)
    z, labels = spread * rng.normal(size=shape), rng.integers(shape[1], size=shape[0])
    p, (L, dL_dz) = softmax(z), SoftmaxCrossEntropy()(z, labels)
    apart, dL_dp = loss(p, labels)
    np.testing.assert_allclose(apart, L, rtol=0, atol=1e-12)
    jacobian = np.einsum("ni,ik->nik", p, np.eye(shape[1])) - np.einsum("ni,nk->nik", p, p)
    np.testing.assert_allclose(np.einsum("ni,nik->nk", dL_dp, jacobian), dL_dz, rtol=0, atol=1e-14)


def test_in_a_network_it_gives_the_gradients_of_softmax_cross_entropy(close, rng):
    from handgrad.engine import Dense, Input, Network, Softmax

    x, labels = rng.normal(size=(19, 5)), rng.integers(4, size=19)
    node = Input((5,))
    scores = Dense(4, name="fc")(node)
    apart, fused = (
        Network(node, Softmax()(scores), dtype="float64", seed=1),
        Network(node, scores, dtype="float64", seed=1),
    )
    dL_dx = apart.backward(loss(apart.forward(x), labels)[1])
    expected = fused.backward(SoftmaxCrossEntropy()(fused.forward(x), labels)[1])
    close(dL_dx, expected, 1e-12)
    for name in ("fc.W", "fc.b"):
        close(apart.gradients[name], fused.gradients[name], 1e-12)


@given(SHAPES, st.integers(0, 99), st.integers(1, 39))
def test_a_batch_is_the_weighted_mean_of_its_parts(close, shape, seed, first):
    p, labels = random_batch(shape, seed)
    N, first = len(p), min(first, len(p) - 1)
    L, dL_dp = loss(p, labels)
    parts = [(part, len(p[part])) for part in (slice(None, first), slice(first, None)) if len(p[part])]
    np.testing.assert_allclose(
        sum(n * loss(p[part], labels[part])[0] for part, n in parts) / N, L, atol=1e-14, rtol=1e-12
    )
    close(np.concatenate([n * loss(p[part], labels[part])[1] for part, n in parts]) / N, dL_dp, 1e-12)


@given(SHAPES, st.integers(0, 99))
def test_only_the_true_class_has_a_gradient_and_it_asks_for_more(shape, seed):
    p, labels = random_batch(shape, seed)
    L, dL_dp = loss(p, labels)
    true_class = np.eye(shape[1], dtype=bool)[labels]
    assert (dL_dp[true_class] < 0).all() and not dL_dp[~true_class].any()
    np.testing.assert_allclose((p * dL_dp).sum(), -1, rtol=1e-14)  # each sample: -p / (N p)
    assert L >= 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certainty_costs_nothing_and_the_impossible_100(dtype):
    L, dL_dp = loss(np.array([[1, 0]], dtype=dtype), [0])
    assert (L, dL_dp.tolist()) == (0, [[-1, 0]])
    for nothing in (0.0, -0.0):
        L, dL_dp = loss(np.array([[nothing, 1], [0.5, 0.5]], dtype=dtype), [0, 1])
        assert L == pytest.approx((100 + math.log(2)) / 2, rel=1e-7)
        assert dL_dp.tolist() == [[-np.dtype(dtype).type(1e12) / 2, 0], [0, -1]]


def test_nothing_else_is_clipped():
    L, dL_dp = loss([[1e-300, 1]], [0])
    assert L == pytest.approx(300 * math.log(10), rel=1e-14)
    assert dL_dp[0, 0] == pytest.approx(-1e300, rel=1e-14)
    L, dL_dp = loss(np.array([[1e-38, 1]], dtype=np.float32), [0])
    assert L == pytest.approx(38 * math.log(10), rel=1e-6)
    assert dL_dp[0, 0] == pytest.approx(-1e38, rel=1e-6)


@pytest.mark.parametrize(("dtype", "tiny"), [(np.float32, 1e-39), (np.float64, 1e-309)])
def test_where_the_inverse_overflows_the_gradient_stays_finite(dtype, tiny):
    """1e39 and 1e309 are beyond the largest number; an infinite gradient would become NaN in the softmax."""
    L, dL_dp = loss(np.array([[tiny, 1]], dtype=dtype), [0])
    assert L == pytest.approx(-math.log(tiny), rel=1e-6)  # a subnormal 1e-39 has 6 digits
    assert dL_dp.tolist() == [[-np.dtype(dtype).type(1e12), 0]]


def test_lanes_without_a_sample_neither_cost_nor_learn(close):
    """In a network they hold whatever the layers make of zeros."""
    rng = np.random.default_rng(0)
    p, labels, dL_dp = rng.uniform(size=(2, 3, 16)), rng.integers(3, size=(2, 16)), np.full((2, 3, 16), np.nan)
    p[1, :, 7:] = np.nan
    summed = loss.on_lanes(p, labels, 20, 23, dL_dp)  # 20 samples here, of 23 in the mini-batch
    samples = np.moveaxis(p, 1, 2).reshape(32, 3)[:20]
    L, expected = loss(samples, labels.reshape(-1)[:20])
    close(summed, 20 * L, 1e-12)
    close(np.moveaxis(dL_dp, 1, 2).reshape(32, 3)[:20], expected * 20 / 23, 1e-12)
    assert not dL_dp[1, :, 4:].any()


def test_nan_in_one_sample_spoils_its_own_gradient_alone():
    p = np.full((20, 3), 1 / 3)
    p[17, 0] = np.nan
    L, dL_dp = loss(p, np.zeros(20, dtype=int))
    assert math.isnan(L) and np.argwhere(np.isnan(dL_dp)).tolist() == [[17, 0]]


def test_every_way_to_say_the_same_target():
    p, labels = random_batch((5, 4), 0)
    L, dL_dp = loss(p, labels)
    one_hot = np.eye(4)[labels]
    for target in (labels.tolist(), labels.astype(np.uint8), labels.astype(float), one_hot, one_hot.astype(bool)):
        same, gradient = loss(p, target)
        assert same == L
        np.testing.assert_array_equal(gradient, dL_dp)


def test_decisions_tell_where_the_logarithm_ends():
    p = np.array([[0.0, 1.0]])
    assert loss.decisions(p, np.array([0])).tolist() == [[False, True]]
    assert loss.literal_options() == {}


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10]))
def test_pytorch_agrees(close, shape, seed, spread):
    torch = pytest.importorskip("torch")
    p, labels = random_batch(shape, seed, spread)
    probabilities = torch.tensor(p, requires_grad=True)
    expected = torch.nn.functional.nll_loss(torch.log(probabilities), torch.tensor(labels))
    expected.backward()
    L, dL_dp = loss(p, labels)
    np.testing.assert_allclose(L, expected.item(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(dL_dp, probabilities.grad.numpy(), rtol=1e-12, atol=0)


REMEDY = "; put a Softmax before this loss, or better use SoftmaxCrossEntropy without one"


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (-0.25, "-0.25"), (np.inf, "inf")])
def test_what_is_no_probability_is_refused(value, shown):
    p = np.full((3, 2), 0.5)
    p[2, 1] = value
    with pytest.raises(ConfigurationError) as caught:
        loss(p, [0, 0, 0])
    assert str(caught.value) == f"CrossEntropy: output: got {shown}, expected probabilities from 0 to 1{REMEDY}"


@pytest.mark.parametrize("value", [-1.0, 2.0])
def test_in_a_training_as_well_once_the_loss_betrays_it(value):
    """The kernel of a training looks at nothing; log(-1) is NaN, and -log(2) is negative."""
    z, labels = np.full((1, 2, 16), 0.5), np.zeros((1, 16), dtype=np.int64)
    z[0, 0, :3] = value
    with pytest.raises(ConfigurationError, match=f"^CrossEntropy: output: got {value:g}, expected probabilities"):
        loss.on_lanes(z, labels, 3, 3, np.empty_like(z))


@pytest.mark.parametrize(
    ("shape", "target", "message"),
    [
        ((3, 4), [0, 1, 4], "CrossEntropy: labels: got 4, expected integers from 0 to 3"),
        ((3, 4), [0, 1], "CrossEntropy: target: got shape (2,), expected (3,) or one-hot (3, 4)"),
        ((1, 2), [[0.5, 0.5]], "CrossEntropy: target: got rows that are not one-hot, expected one 1 and otherwise 0"),
        ((2, 3, 3), [0, 1], "CrossEntropy: got an output of shape (2, 3, 3), expected (N, K), one value per class"),
        ((0, 3), [], "CrossEntropy: got an output of shape (0, 3), expected (N, ...) with N > 0"),
    ],
)
def test_targets_are_checked(shape, target, message):
    with pytest.raises(ShapeError) as caught:
        loss(np.zeros(shape), target)
    assert str(caught.value) == message
