"""Loss of the perceptron: kernel, literal code and finite differences agree; with Step it learns by Rosenblatt's rule."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import perceptron as derivation
from handgrad.engine import SGD, Dense, Input, MeanSquaredError, Network, Perceptron, Step, Tanh
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)
AND, XOR = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0])
loss = Perceptron()


def random_batch(shape, seed, fires=True):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, size=shape).astype(float) if fires else rng.normal(size=shape), rng.integers(
        0, 2, size=shape
    )


@given(SHAPES, st.integers(0, 99), st.booleans())
def test_kernel_is_the_literal_code(close, shape, seed, fires):
    a, t = random_batch(shape, seed, fires)
    L, dL_da = loss(a, t)
    close(L, derivation.forward(a.astype(object), t.astype(object)), 1e-12)
    close(dL_da, derivation.backward(a.astype(object), t.astype(object)), 1e-12)


@given(SHAPES, st.integers(0, 99))
def test_it_counts_half_the_wrong_answers_of_a_sample(shape, seed):
    """Sums of ones and halves are exact, also in float32; the sum is divided by N in float64."""
    a, t = random_batch(shape, seed)
    for dtype in (np.float32, np.float64):
        L, dL_da = loss(a.astype(dtype), t)
        assert L == np.count_nonzero(a != t) / 2 / shape[0]
        assert dL_da.dtype == dtype
        np.testing.assert_array_equal(dL_da, (a - t).astype(dtype) / dtype(shape[0]))


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(shape, seed):
    """A residual is off by eps/2, its square and the quotient by 2 eps; the sum is taken in float64."""
    a, t = random_batch(shape, seed, fires=False)
    a = a.astype(np.float32)
    (L, dL_da), (exact, expected) = loss(a, t), loss(a.astype(np.float64), t)
    eps = np.finfo(np.float32).eps
    assert abs(L - exact) <= 4 * eps * exact
    assert (np.abs(dL_da - expected) <= 4 * eps * np.abs(expected)).all()


def test_finite_differences(close):
    a, t = random_batch((4, 5), 0)
    quotients, h = np.empty(a.shape), 1e-6
    for place in np.ndindex(*a.shape):
        change = np.zeros(a.shape)
        change[place] = h
        quotients[place] = (loss(a + change, t)[0] - loss(a - change, t)[0]) / (2 * h)
    np.testing.assert_allclose(loss(a, t)[1], quotients, rtol=0, atol=1e-9)  # rounding 1e-16 / h = 1e-10


def test_by_hand():
    L, dL_da = loss([[0, 1], [1, 1]], [[0, 0], [1, 0]])
    assert L == 2 / 4
    assert dL_da.tolist() == [[0, 0.5], [0, 0.5]]
    L, dL_da = loss([[0.0]], [[1]])
    assert (L, dL_da.tolist()) == (0.5, [[-1]])


def test_labels_are_one_hot_rows():
    a = np.array([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]])
    for labels in ([0, 2, 1], np.eye(3)[[0, 2, 1]]):
        L, dL_da = loss(a, np.array(labels))
        assert L == 2 / 6
        np.testing.assert_array_equal(dL_da, np.array([[0, 0, 0], [0, 1, 0], [0, -1, 0]]) / 3)


@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 99))
def test_a_batch_is_the_weighted_mean_of_its_parts(close, N, first, seed):
    a, t = random_batch((N, 3), seed)
    first = min(first, N - 1)
    L, dL_da = loss(a, t)
    parts = [(slice(None, first), first), (slice(first, None), N - first)]
    np.testing.assert_allclose(sum(n * loss(a[part], t[part])[0] for part, n in parts) / N, L, rtol=1e-14)
    joined = np.concatenate([n * loss(a[part], t[part])[1] for part, n in parts]) / N
    np.testing.assert_allclose(joined, dL_da, rtol=1e-14)


@given(SHAPES, st.integers(0, 99))
def test_the_mean_squared_error_differs_by_a_factor(close, shape, seed):
    """It divides by N K and does not halve."""
    a, t = random_batch(shape, seed, fires=False)
    half_K = math.prod(shape[1:]) / 2
    (L, dL_da), (other, gradient) = loss(a, t), MeanSquaredError()(a, t)
    close(L, half_K * other, 1e-12)
    close(dL_da, half_K * gradient, 1e-12)


def test_lanes_without_a_sample_neither_cost_nor_learn(close):
    """In a network they hold whatever the layers make of zeros: a step fires there if its bias is not negative."""
    rng = np.random.default_rng(0)
    a, t, dL_da = rng.normal(size=(2, 3, 16)), rng.normal(size=(2, 3, 16)), np.full((2, 3, 16), np.nan)
    a[1, :, 7:] = np.nan
    summed = loss.on_lanes(a, t, 20, 23, dL_da)  # 20 samples here, of 23 in the mini-batch
    residual = np.moveaxis(a - t, 1, 2).reshape(32, 3)[:20]
    close(summed, (residual**2).sum() / 2, 1e-12)
    close(np.moveaxis(dL_da, 1, 2).reshape(32, 3)[:20], residual / 23, 1e-12)
    assert not dL_da[1, :, 4:].any()


def test_nan_in_one_sample_spoils_its_own_gradient_alone():
    a = np.ones((20, 3))
    a[17, 1] = np.nan
    L, dL_da = loss(a, np.zeros((20, 3)))
    assert math.isnan(L) and np.argwhere(np.isnan(dL_da)).tolist() == [[17, 1]]


@pytest.mark.parametrize(
    ("a", "t", "message"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), "Perceptron: target: got shape (3, 5), expected (3, 4)"),
        (np.zeros((3, 1)), np.zeros(3), "Perceptron: target: got shape (3,), expected (3, 1)"),
        (np.zeros(3), np.zeros(3), "Perceptron: got an output of shape (3,), expected (N, ...) with N > 0"),
        (np.zeros((1, 2)), [[0, -1]], "Perceptron: target: got -1, expected 0 or 1"),
        (np.zeros((1, 2)), [[0, 0.5]], "Perceptron: target: got 0.5, expected 0 or 1"),
        (np.zeros((1, 2)), [[0, math.nan]], "Perceptron: target: got nan, expected 0 or 1"),
        (np.zeros((2, 3)), [0, 3], "Perceptron: labels: got 3, expected integers from 0 to 2"),
    ],
)
def test_targets_are_checked(a, t, message):
    with pytest.raises(ShapeError) as caught:
        loss(a, t)
    assert str(caught.value) == message


def neuron(inputs=2, surrogate="straight-through", threads=1):
    x = Input((inputs,))
    network = Network(x, Step(surrogate)(Dense(1, name="neuron")(x)), dtype="float64", threads=threads)
    network.parameters["neuron.W"] = np.zeros((1, inputs))
    return network


def learn(network, x, t, learning_rate=1.0):
    """Take one step of gradient descent and return how many answers were wrong before it."""
    optimizer = SGD(learning_rate)
    a = network.forward(x)
    L, dL_da = loss(a, t)
    network.backward(dL_da)
    optimizer.step(network)
    return round(2 * len(x) * L)


def errors_in_each_pass(targets, passes):
    network, counts = neuron(), []
    for _ in range(passes):
        counts.append(sum(learn(network, x[None], t[None, None]) for x, t in zip(CORNERS, targets)))
    return network, counts


@given(st.integers(1, 6), st.floats(0.01, 2), st.integers(0, 99))
def test_a_step_of_the_network_is_rosenblatts_rule(inputs, learning_rate, seed):
    rng = np.random.default_rng(seed)
    network, w, b = neuron(inputs), np.zeros(inputs), 0.0
    for _ in range(20):
        x, t = rng.normal(size=inputs), int(rng.integers(0, 2))
        learn(network, x[None], np.array([[t]]), learning_rate)
        w, b = derivation.update(w, b, x, t, learning_rate=learning_rate)
        np.testing.assert_allclose(network.parameters["neuron.W"][0], w.astype(float), rtol=0, atol=1e-13)
        np.testing.assert_allclose(network.parameters["neuron.b"][0], b, rtol=0, atol=1e-13)


def test_and_is_learned():
    network, counts = errors_in_each_pass(AND, 8)
    assert counts == [2, 3, 3, 2, 1, 0, 0, 0]
    assert network.parameters["neuron.W"].tolist() == [[2, 1]] and network.parameters["neuron.b"].tolist() == [-3]
    np.testing.assert_array_equal(network.forward(CORNERS)[:, 0], AND)


def test_of_all_functions_of_two_bits_only_xor_and_its_opposite_are_not_learned():
    """Two bits have 16 functions. A margin bounds the errors by 51 (see the derivation), so 60 passes are enough."""
    never = [t for t in product((0, 1), repeat=4) if errors_in_each_pass(np.array(t), 60)[1][-1] > 0]
    assert never == [(0, 1, 1, 0), (1, 0, 0, 1)]


def test_xor_is_never_learned():
    assert min(errors_in_each_pass(XOR, 300)[1]) > 0


def test_no_weights_at_all_give_xor():
    """Every point of a grid violates one of the four inequalities, as equation (perceptron.10) says."""
    grid = np.linspace(-2, 2, 41)
    w1, w2, b = np.meshgrid(grid, grid, grid)
    right = (b < 0) & (w2 + b >= 0) & (w1 + b >= 0) & (w1 + w2 + b < 0)
    assert not right.any()
    assert ((b < 0) & (w2 + b < 0) & (w1 + b < 0) & (w1 + w2 + b >= 0)).any(), "and for AND there are some"


def test_without_a_surrogate_nothing_is_learned():
    network = neuron(surrogate=None)
    for _ in range(10):
        assert learn(network, CORNERS, AND[:, None]) == 3
    assert not network.parameters["neuron.W"].any() and not network.parameters["neuron.b"].any()


@given(st.integers(0, 20))
def test_the_number_of_errors_keeps_to_the_bound_of_the_theorem(seed):
    """M ≤ (R / γ)², for points with a margin γ from a random line."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=3)
    u /= np.sqrt((u**2).sum())
    x = rng.normal(size=(200, 2))
    sums = x @ u[:2] + u[2]
    x, sums = x[np.abs(sums) > 0.1], sums[np.abs(sums) > 0.1]
    t, w, b, errors, clean = (sums > 0).astype(int), np.zeros(2), 0.0, 0, False
    bound = ((x**2).sum(axis=1) + 1).max() / np.abs(sums).min() ** 2
    while not clean:
        clean = True
        for x_n, t_n in zip(x, t):
            w_new, b_new = derivation.update(w, b, x_n, t_n, learning_rate=0.5)
            errors, clean = errors + (b_new != b), clean and b_new == b
            w, b = w_new, b_new
        assert errors <= bound
    assert ((x @ w.astype(float) + b >= 0) == t).all()


def test_a_network_with_a_hidden_layer_learns_xor():
    x = Input((2,))
    network = Network(x, Dense(1)(Tanh()(Dense(4)(x))), dtype="float64", threads=1, seed=0)
    squares, optimizer = MeanSquaredError(), SGD(0.3)
    for _ in range(500):
        _, dL_dz = squares(network.forward(CORNERS), XOR[:, None].astype(float))
        network.backward(dL_dz)
        optimizer.step(network)
    np.testing.assert_array_equal(network.forward(CORNERS)[:, 0] > 0.5, XOR == 1)


def test_two_threads_learn_what_one_learns(rng):
    x, t = rng.normal(size=(70, 2)), rng.integers(0, 2, size=(70, 1))
    one, two = neuron(threads=1), neuron(threads=2)
    for _ in range(5):
        assert learn(one, x, t) == learn(two, x, t)
        np.testing.assert_allclose(one.parameters["neuron.W"], two.parameters["neuron.W"], rtol=0, atol=1e-13)


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.booleans())
def test_pytorch_agrees(close, shape, seed, fires):
    torch = pytest.importorskip("torch")
    a, t = random_batch(shape, seed, fires)
    output = torch.tensor(a, requires_grad=True)
    expected = torch.nn.functional.mse_loss(output, torch.tensor(t, dtype=torch.float64), reduction="sum") / (
        2 * shape[0]
    )
    expected.backward()
    L, dL_da = loss(a, t)
    close(L, expected.item(), 1e-12)
    close(dL_da, output.grad.numpy(), 1e-12)
