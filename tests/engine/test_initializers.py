"""How parameters start: the right mean, variance and bounds, from the seed alone; what that does to signals."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.derivations import initializers as derivation
from handgrad.engine import (
    SGD,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Input,
    Linear,
    Network,
    ReLU,
    SimpleRNN,
    SoftmaxCrossEntropy,
    Tanh,
)
from handgrad.engine.initializers import he, small, xavier, zeros

SHAPE, FAN_IN, FAN_OUT = (400, 250), 250, 400


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [(he, 2 / FAN_IN), (xavier, 2 / (FAN_IN + FAN_OUT)), (small, 0.01**2)],
)
def test_mean_and_variance(initializer, variance):
    """The mean of 100,000 numbers has deviation sqrt(variance / 1e5), their variance at most sqrt(2 / 1e5) of it."""
    w = initializer(np.random.default_rng(0), SHAPE, FAN_IN, FAN_OUT)
    assert w.shape == SHAPE and w.dtype == np.float64
    assert abs(w.mean()) < 5 * np.sqrt(variance / 1e5)
    assert abs(w.var() / variance - 1) < 5 * np.sqrt(2 / 1e5)


def test_xavier_is_uniform_within_its_limit():
    w = xavier(np.random.default_rng(0), SHAPE, FAN_IN, FAN_OUT)
    limit = np.sqrt(6 / (FAN_IN + FAN_OUT))
    assert np.abs(w).max() <= limit and np.abs(w).max() > 0.999 * limit
    counts, _ = np.histogram(w, 10, (-limit, limit))
    assert np.abs(counts - 1e4).max() < 5 * np.sqrt(1e5 * 0.1 * 0.9)


def test_zeros():
    assert not zeros(np.random.default_rng(0), SHAPE, FAN_IN, FAN_OUT).any()


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in", "fan_out"),
    [
        (lambda i: Dense(300, initializer=i), (200,), 200, 300),
        (lambda i: Conv2D(60, (3, 5), groups=2, initializer=i), (40, 9, 9), 20 * 15, 30 * 15),
    ],
)
def test_layers_tell_their_fans(layer, shape, fan_in, fan_out):
    seen = []

    def spy(rng, shape, fan_in, fan_out):
        seen.append((fan_in, fan_out))
        return np.full(shape, 7.0)

    x = Input(shape)
    network = Network(x, layer(spy)(x), threads=1)
    assert seen == [(fan_in, fan_out)]
    W, b = network.parameters.values()
    assert (W == 7).all() and (b == 0).all()


@pytest.mark.parametrize(
    ("layer", "initializer"), [(Dense(3), he), (Conv2D(3, 3), he), (ConvTranspose2D(3, 3), he), (SimpleRNN(3), xavier)]
)
def test_layers_start_in_the_size_that_fits_what_follows_them(layer, initializer):
    assert layer.initializer is initializer  # ReLU, but for the layer that has a tanh of its own


def test_sizes_are_those_of_the_derivation():
    """The spread of normal numbers and the bound of uniform ones, by the literal code of the equations."""

    class Asked:
        def normal(self, mean, deviation, shape):
            return mean, deviation

        def uniform(self, low, high, shape):
            return low, high

    assert he(Asked(), SHAPE, FAN_IN, FAN_OUT) == (0, pytest.approx(derivation.he(FAN_IN, FAN_OUT), rel=1e-15))
    limit = pytest.approx(derivation.xavier(FAN_IN, FAN_OUT), rel=1e-15)
    low, high = xavier(Asked(), SHAPE, FAN_IN, FAN_OUT)
    assert -low == high == limit


def sizes(activation, initializer, layers=8, width=500):
    """Return the mean squares of the signal in front of each activation, and of the gradient at the same places."""
    x = Input((width,))
    node = x
    for _ in range(layers):
        node = activation()(Dense(width, initializer=initializer)(node))
    network = Network(x, node, threads=1)
    rng = np.random.default_rng(0)
    network.forward(rng.normal(size=(64, width)))
    network.backward(rng.normal(size=(64, width)))
    names = [f"dense{k}" for k in range(1, layers + 1)]
    return [np.array([(arrays[name].astype(np.float64) ** 2).mean() for name in names])
            for arrays in (network.values, network.value_gradients)]  # fmt: skip


def test_he_keeps_the_size_of_the_signal_through_many_relu_layers():
    """Behind a ReLU the mean square is that of the inputs, 1; in front of it twice that, 2, and it stays of this order.

    One layer multiplies it by 1 ± sqrt(5 / 500), as the squares of 500 halved normal numbers scatter; eight by up to a
    factor of 1 ± 0.3 in one standard deviation.
    """
    signal, gradient = sizes(ReLU, he)
    assert (signal > 1).all() and (signal < 4).all()
    assert (gradient > 0.5 / 4).all() and (gradient < 0.5 * 4).all()  # half of the last one's, 1, is switched off


def test_small_numbers_lose_the_signal_in_many_relu_layers():
    """Every layer leaves J v / 2 = 500 · 1e-4 / 2 = 1/40 of the mean square; a deviation of 0.1 per layer is ample."""
    signal, gradient = sizes(ReLU, small)
    factors = np.concatenate([signal[1:] / signal[:-1], gradient[:-1] / gradient[1:]])
    assert (np.abs(factors * 40 - 1) < 0.5).all()
    assert signal[-1] < 1e-11


def test_weights_of_twice_the_deviation_explode():
    """J v / 2 is then 4."""
    signal, _ = sizes(ReLU, lambda *arguments: 2 * he(*arguments))
    assert (np.abs(signal[1:] / signal[:-1] / 4 - 1) < 0.5).all() and signal[-1] > 1e4


def test_xavier_keeps_signal_and_gradient_through_linear_layers():
    """J v = I v = 1: without an activation function both stay, one layer times 1 ± sqrt(2 / 500)."""
    signal, gradient = sizes(Linear, xavier)
    for square in (signal, gradient):
        assert (square > 0.7).all() and (square < 1.4).all()


def test_xavier_keeps_signal_and_gradient_through_many_tanh_layers():
    """tanh shrinks what is not small, so the signal falls, but no faster than 1 / (2 layers); small numbers lose it.

    With J v = 1 the next mean square is E[tanh(z)²] for a normal z of the present one; 64,000 values scatter by 1 %,
    and as many times the layers as errors add up.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    expected = [1.0]
    for _ in range(7):
        expected.append(weights @ np.tanh(np.sqrt(expected[-1]) * nodes) ** 2 / weights.sum())
    signal, gradient = sizes(Tanh, xavier)
    np.testing.assert_allclose(signal, expected, rtol=0.1)
    assert signal[-1] > 1 / 16
    assert (gradient > 0.05).all() and (gradient < 1).all()
    signal, gradient = sizes(Tanh, small)
    assert signal[-1] < 1e-9 and gradient[0] < 1e-8


def trained(initializer, steps=30):
    """Train a Dense-tanh-Dense network on three classes; return its parameters before and after."""
    x = Input((4,))
    hidden = Tanh()(Dense(6, initializer=initializer, name="first")(x))
    network = Network(x, Dense(3, initializer=initializer, name="last")(hidden), dtype="float64", threads=1)
    before = {name: array.copy() for name, array in network.parameters.items()}
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(50, 4))
    labels = samples[:, :3].argmax(axis=1)
    loss, optimizer, losses = SoftmaxCrossEntropy(), SGD(0.5), []
    for _ in range(steps):
        L, dL_dz = loss(network.forward(samples), labels)
        network.backward(dL_dz)
        optimizer.step(network)
        losses.append(L)
    return before, {name: array.copy() for name, array in network.parameters.items()}, losses


def spread(parameters):
    """Return how far the hidden units differ in what they read and in what they give."""
    rows = np.concatenate([parameters["first.W"], parameters["first.b"][:, None], parameters["last.W"].T], axis=1)
    return np.abs(rows - rows[:1]).max()


def test_zeros_never_break_the_symmetry():
    """All hidden units stay the same; indeed only the biases of the last layer learn anything, (initializers.12)."""
    _, after, losses = trained(zeros)
    assert spread(after) == 0
    assert not after["first.W"].any() and not after["first.b"].any() and not after["last.W"].any()
    assert after["last.b"].any() and losses[-1] > 0.9


def test_equal_weights_learn_and_stay_equal():
    """Every unit changes, and all of them alike: a layer of six units that can no more than one."""
    before, after, losses = trained(lambda rng, shape, fan_in, fan_out: np.full(shape, 0.3))
    assert np.abs(after["first.W"] - before["first.W"]).max() > 0.1 and losses[-1] < losses[0]
    assert spread(after) < 1e-12


def test_random_numbers_break_the_symmetry():
    _, after, losses = trained(xavier)
    assert spread(after) > 0.1
    assert losses[-1] < 0.7 * trained(zeros)[2][-1]


def test_start_depends_on_seed_and_place_alone():
    def start(seed, dtype="float64"):
        x = Input((20,))
        return Network(x, Dense(3)(ReLU()(Dense(20)(x))), seed=seed, dtype=dtype, threads=1).state()

    one, same, other, single = start(0), start(0), start(1), start(0, "float32")
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
        np.testing.assert_array_equal(one[name].astype(np.float32), single[name])
    assert (one["dense1.W"] != other["dense1.W"]).all()
    assert (one["dense1.W"][:3] != one["dense2.W"]).all()
