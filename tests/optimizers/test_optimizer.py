"""What all optimisers share: state by name, steps that are counted, and the messages."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import SGD, Adam, Dense, Input, Momentum, Network, ReLU
from handgrad.engine.checks import ConfigurationError, ShapeError

every_optimizer = pytest.mark.parametrize("make", [SGD, Momentum, Adam], ids=["sgd", "momentum", "adam"])


def small_network(dtype="float64", threads=1):
    x = Input((3,))
    network = Network(x, Dense(2)(ReLU()(Dense(20)(x))), dtype=dtype, threads=threads, seed=1)
    rng = np.random.default_rng(0)
    z = network.forward(rng.normal(size=(20, 3)))
    network.backward(rng.normal(size=z.shape))
    return network


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_is_update_of_every_parameter(make, dtype):
    one, other, by_step, by_name = small_network(dtype), small_network(dtype), make(), make()
    for _ in range(3):
        by_step.step(one)
        for name, parameter in other.parameters.items():
            by_name.update(name, parameter, other.gradients[name])
    for name in one.parameters:
        np.testing.assert_array_equal(one.parameters[name], other.parameters[name])
    assert by_step.steps == {"network": 3}
    assert by_name.steps == dict.fromkeys(one.parameters, 3)


@every_optimizer
def test_stretches_are_the_whole(make):
    """Workers update stretches that do not overlap; the bits are the same."""
    rng = np.random.default_rng(0)
    theta, whole, pieces = rng.normal(size=100), make(), make()
    copy = theta.copy()
    for _ in range(3):
        g = rng.normal(size=100)
        whole.update("w", theta, g)
        pieces.begin_step("w", copy)
        for start, stop in ((64, 100), (0, 7), (7, 64)):
            pieces.update_stretch("w", copy, g, slice(start, stop))
    np.testing.assert_array_equal(theta, copy)


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_update_is_in_place_in_any_shape(make, dtype):
    parameter, gradient = np.ones((2, 3, 4), dtype), np.ones((2, 3, 4), dtype)
    make().update("w", parameter, gradient)
    assert (parameter < 1).all() and parameter.dtype == dtype
    np.testing.assert_array_equal(gradient, 1)


@every_optimizer
def test_gradient_may_be_strided_or_of_another_dtype(make):
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(3, 4))
    one, other = np.ones((4, 3)), np.ones((4, 3))
    make().update("w", one, gradient.T)
    make().update("w", other, np.ascontiguousarray(gradient.T))
    np.testing.assert_array_equal(one, other)
    make().update("w", one, gradient.T.astype(np.float32))


@every_optimizer
def test_names_do_not_share_state(make):
    optimizer, alone = make(), make()
    a, b, c = np.ones(3), np.ones(3), np.ones(3)
    optimizer.update("a", a, np.full(3, 5.0))
    optimizer.update("b", b, np.full(3, -1.0))
    alone.update("c", c, np.full(3, -1.0))
    np.testing.assert_array_equal(b, c)


@every_optimizer
def test_learning_rate_may_change_between_steps(make):
    optimizer, theta = make(), np.zeros(1)
    optimizer.update("w", theta, np.ones(1))
    before = theta.copy()
    optimizer.learning_rate = 0.0
    optimizer.update("w", theta, np.ones(1))
    np.testing.assert_array_equal(theta, before)


@every_optimizer
def test_a_step_against_the_gradient_lowers_the_loss(make):
    optimizer, theta = make(learning_rate=0.01), np.array([3.0, -4.0])
    losses = []
    for _ in range(200):
        losses.append((theta**2).sum() / 2)
        optimizer.update("w", theta, theta.copy())
    assert losses[-1] < 0.5 * losses[0]


@every_optimizer
@pytest.mark.parametrize("bad", [0, -0.1, float("inf"), float("nan"), True, "0.1", None])
def test_learning_rate_is_checked(make, bad):
    with pytest.raises(ConfigurationError) as caught:
        make(learning_rate=bad)
    assert str(caught.value) == f"{make.__name__}: learning_rate: got {bad!r}, expected a positive number"


@every_optimizer
def test_shapes_are_checked(make):
    optimizer = make()
    with pytest.raises(ShapeError, match=rf"^{make.__name__}: gradient of 'w': got \(3,\), expected \(2,\)"):
        optimizer.update("w", np.zeros(2), np.zeros(3))
    with pytest.raises(ShapeError, match=f"^{make.__name__}: 'w': got a strided view, expected a C-contiguous array"):
        optimizer.update("w", np.zeros((4, 3)).T, np.zeros((3, 4)))
    assert optimizer.steps == {}


@pytest.mark.parametrize("make", [Momentum, Adam])
def test_a_name_keeps_its_size_and_dtype(make):
    optimizer = make()
    optimizer.update("w", np.zeros(2), np.zeros(2))
    with pytest.raises(ShapeError, match=f"^{make.__name__}: 'w': got 3 float64 parameters, expected 2 float64"):
        optimizer.update("w", np.zeros(3), np.zeros(3))
    with pytest.raises(ShapeError, match=f"^{make.__name__}: 'w': got 2 float32 parameters, expected 2 float64"):
        optimizer.update("w", np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert optimizer.steps == {"w": 1}


@every_optimizer
def test_nan_stays_in_its_element(make):
    theta = np.ones(20)
    gradient = np.ones(20)
    gradient[3] = np.nan
    make().update("w", theta, gradient)
    assert np.flatnonzero(np.isnan(theta)).tolist() == [3]


@every_optimizer
def test_settings_and_kind(make):
    optimizer = make()
    assert optimizer.kind == make.__name__.lower()
    assert optimizer.derivation.__name__.endswith(f".{optimizer.kind}")
    assert make(**optimizer.settings()).settings() == optimizer.settings()
    assert optimizer.settings()["learning_rate"] == optimizer.learning_rate


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (SGD, {"learning_rate": 0.01}),
        (Momentum, {"learning_rate": 0.01, "momentum": 0.9}),
        (Adam, {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    ],
)
def test_defaults(make, settings):
    assert make().settings() == settings
