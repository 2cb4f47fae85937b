"""How parameters start: the right mean, variance and bounds, from the seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import Conv2D, Dense, Input, Network, ReLU
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


def test_he_keeps_the_size_of_the_signal_through_many_relu_layers():
    x = Input((500,))
    node = x
    for _ in range(8):
        node = ReLU()(Dense(500)(node))
    network = Network(x, node, threads=1)
    network.forward(np.random.default_rng(0).normal(size=(64, 500)))
    last = (network.values["dense8"] ** 2).mean()  # after 8 layers still of order 2 (he: before the ReLU halves it)
    assert 1 < last < 4


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
