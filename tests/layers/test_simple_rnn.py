"""Recurrent layer: kernels, literal code, finite differences, PyTorch and numbers by hand agree, over many steps as well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.engine import Dense, Input, Network, Reshape, SimpleRNN, Tanh
from handgrad.engine.checks import ConfigurationError, ShapeError
from handgrad.engine.initializers import small

EPS = float(np.finfo(np.float32).eps)
LITERAL_WORK = 12_000  # multiplications that the literal loops may do in one example
OPTIONS = [{"activation": f, "return_sequences": s} for f in ("tanh", "sigmoid") for s in (False, True)]
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o['activation']}-{o['return_sequences']}")


@st.composite
def sizes(draw):
    """Units, features, steps and samples: one of each, and tiles and blocks that are not full."""
    U, F, T = draw(st.integers(1, 19)), draw(st.integers(1, 11)), draw(st.integers(1, 6))
    return U, F, T, draw(st.integers(1, max(1, min(40, LITERAL_WORK // (T * U * (F + U))))))


def make(U, options):
    return lambda: SimpleRNN(U, **options)


def parameters_of(rng, U, F, size=0.5):
    return {"W_x": size * rng.normal(size=(U, F)), "W_h": size * rng.normal(size=(U, U)), "b": rng.normal(size=U)}


@example((1, 1, 1, 1), OPTIONS[0], 0)
@example((9, 5, 3, 35), OPTIONS[3], 0)
@given(sizes(), st.sampled_from(OPTIONS), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, size, options, seed):
    U, F, T, N = size
    at_point(make(U, options), np.random.default_rng(seed).normal(size=(N, T, F)), seed=seed).check_literal()


@given(sizes(), st.sampled_from(OPTIONS), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, close, size, options, seed):
    """Sums of at most 30 products in 6 steps of slope at most 1, with weights that shrink an error: 1e3 EPS has room."""
    U, F, T, N = size
    rng = np.random.default_rng(seed)
    x, parameters = rng.normal(size=(N, T, F)).astype(np.float32), parameters_of(rng, U, F, 0.3)
    parameters = {name: array.astype(np.float32) for name, array in parameters.items()}
    single = at_point(make(U, options), x, dtype="float32", parameters=parameters)
    double = at_point(make(U, options), x, parameters=parameters, dL_dz=single.dL_dz)
    assert single.z.dtype == np.float32
    close(single.z, double.z, 1e3 * EPS, "value")
    for name, gradient in single.all_gradients().items():
        assert gradient.dtype == np.float32
        close(gradient, double.all_gradients()[name], 1e3 * EPS, name)


@EVERY_OPTION
@pytest.mark.parametrize(("U", "F", "T", "N"), [(1, 1, 1, 1), (3, 2, 4, 2), (9, 4, 2, 3)])
def test_finite_differences(at_point, rng, options, U, F, T, N):
    at_point(make(U, options), rng.normal(size=(N, T, F)), parameters=parameters_of(rng, U, F)).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_steps_by_hand(at_point, dtype):
    """The worked example of the derivation; every number is a power of two or a sum of two, so nothing is rounded."""
    parameters = {"W_x": [[1]], "W_h": [[-2]], "b": [-1]}
    point = at_point(make(1, {"activation": "sigmoid"}), [[[1], [2]]], dtype=dtype, parameters=parameters, dL_dz=[[1]])
    assert point.z.tolist() == [[0.5]]
    assert point.dL_dx[0].tolist() == [[[-0.125], [0.25]]]
    assert {name: array.item() for name, array in point.gradients.items()} == {"W_x": 0.375, "W_h": 0.125, "b": 0.125}


def test_the_last_state_is_the_last_of_all_states(at_point, close, rng):
    """And its gradient is that of all states with 0 for the earlier ones."""
    x, parameters, dL_da = rng.normal(size=(17, 5, 3)), parameters_of(rng, 7, 3), rng.normal(size=(17, 7))
    last = at_point(make(7, {}), x, parameters=parameters, dL_dz=dL_da)
    upstream = np.concatenate([np.zeros((17, 4, 7)), dL_da[:, None]], axis=1)
    sequence = at_point(make(7, {"return_sequences": True}), x, parameters=parameters, dL_dz=upstream)
    close(last.z, sequence.z[:, -1], 1e-15)
    for name, gradient in last.all_gradients().items():
        close(gradient, sequence.all_gradients()[name], 1e-15, name)


def test_what_comes_later_changes_no_earlier_state(at_point, rng):
    x, parameters = rng.normal(size=(3, 6, 2)), parameters_of(rng, 5, 2)
    before = at_point(make(5, {"return_sequences": True}), x, parameters=parameters)
    changed = x.copy()
    changed[:, 4] += 1
    after = at_point(make(5, {"return_sequences": True}), changed, parameters=parameters)
    np.testing.assert_array_equal(before.z[:, :4], after.z[:, :4])
    assert (before.z[:, 4:] != after.z[:, 4:]).all()
    dL_da = np.zeros(before.z.shape)
    dL_da[:, 2] = 1
    (dL_dx,) = at_point(make(5, {"return_sequences": True}), x, parameters=parameters, dL_dz=dL_da).dL_dx
    assert (dL_dx[:, :3] != 0).all() and not dL_dx[:, 3:].any()


def test_without_recurrent_weights_every_step_is_a_dense_layer(at_point, close, rng):
    """With W_h = 0 the steps are samples of a Dense with Tanh, all with the same weights; W_h has a gradient yet."""
    x, parameters = rng.normal(size=(5, 4, 3)), parameters_of(rng, 6, 3)
    parameters["W_h"][...] = 0
    rnn = at_point(make(6, {"return_sequences": True}), x, parameters=parameters)
    steps = Input((3,))
    network = Network(steps, Tanh()(Dense(6, name="fc")(steps)), dtype="float64", threads=1)
    network.parameters["fc.W"][...], network.parameters["fc.b"][...] = parameters["W_x"], parameters["b"]
    close(rnn.z, network.forward(x.reshape(20, 3)).reshape(5, 4, 6), 1e-12)
    close(rnn.dL_dx[0], network.backward(rnn.dL_dz.reshape(20, 6)).reshape(5, 4, 3), 1e-12)
    close(rnn.gradients["W_x"], network.gradients["fc.W"], 1e-12)
    close(rnn.gradients["b"], network.gradients["fc.b"], 1e-12)
    assert rnn.gradients["W_h"].all()


def test_a_sigmoid_unit_is_a_tanh_unit_of_other_weights(at_point, close, rng):
    """sigmoid(z) = 1/2 + tanh(z/2)/2: with W_x/2, W_h/4 and b/2 + W_h 1/4 the tanh states are twice the others minus 1.

    The first step differs, as a_0 = 0 is not 1/2 for both; its bias is moved into x, whose last feature is 1 there.
    """
    U, x = 4, rng.normal(size=(3, 5, 3))
    x[:, :, 2] = [1, 0, 0, 0, 0]
    p = parameters_of(rng, U, 3)
    shift = p["W_h"].sum(axis=1)
    q = {"W_x": p["W_x"] / 2, "W_h": p["W_h"] / 4, "b": p["b"] / 2 + shift / 4}
    q["W_x"][:, 2] -= shift / 4
    every = {"return_sequences": True}
    sigmoid = at_point(make(U, every | {"activation": "sigmoid"}), x, parameters=p)
    tanh = at_point(make(U, every), x, parameters=q, dL_dz=sigmoid.dL_dz / 2)
    close(sigmoid.z, (1 + tanh.z) / 2, 1e-12)
    close(sigmoid.gradients["b"], tanh.gradients["b"] / 2, 1e-12)
    close(sigmoid.dL_dx[0][:, :, :2], tanh.dL_dx[0][:, :, :2], 1e-12)


@pytest.mark.parametrize(("activation", "slope"), [("tanh", 1), ("sigmoid", 1 / 4)])
@pytest.mark.parametrize("w", [0.5, 1.0, 2.0, 3.0, 5.0])
def test_the_gradient_vanishes_or_explodes_as_the_product_of_the_slopes(at_point, close, rng, activation, slope, w):
    """W_h is w times a rotation and every z_t is 0, so each step back multiplies the gradient's length by w f'(0)."""
    U, T = 6, 30
    W_h = w * np.linalg.qr(rng.normal(size=(U, U)))[0]
    b = np.zeros(U) if activation == "tanh" else -W_h.sum(axis=1) / 2  # the states are 0 or 1/2
    x = np.zeros((2, T, U))
    x[:, 0] = -b  # as a_0 is 0 even for the sigmoid
    parameters = {"W_x": np.eye(U), "W_h": W_h, "b": b}
    point = at_point(make(U, {"activation": activation}), x, parameters=parameters)
    lengths = np.linalg.norm(point.dL_dx[0], axis=2)  # of δ_t, as W_x = 1
    expected = slope * (w * slope) ** np.arange(T - 1, -1, -1) * np.linalg.norm(point.dL_dz, axis=1)[:, None]
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)  # an error of z near 0 grows by w f' in each step
    growth = lengths[0, 0] / lengths[0, -1]
    assert (growth < 1e-8) if w * slope <= 0.5 else (growth > 1e2) if w * slope > 1 else growth < 1.1


def test_saturated_units_stop_an_exploding_gradient(at_point):
    x = np.full((1, 30, 1), 5.0)
    point = at_point(make(1, {}), x, parameters={"W_x": [[1.0]], "W_h": [[2.0]], "b": [0.0]}, dL_dz=[[1.0]])
    assert abs(point.dL_dx[0][0, 0, 0]) < 1e-100 < abs(point.dL_dx[0][0, -1, 0])


@EVERY_OPTION
@pytest.mark.parametrize("first", [1, 16, 18])
def test_gradients_of_a_batch_are_the_sums_over_its_parts(at_point, rng, options, first):
    at_point(make(5, options), rng.normal(size=(35, 3, 4))).check_parts(first)


@EVERY_OPTION
def test_two_threads_compute_what_one_does(at_point, close, rng, options):
    x, parameters = rng.normal(size=(35, 4, 3)), parameters_of(rng, 7, 3)
    one, two = (at_point(make(7, options), x, parameters=parameters, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])
    for name, gradient in one.gradients.items():
        close(two.gradients[name], gradient, 1e-12, name)


@EVERY_OPTION
def test_a_second_pass_overwrites_the_first(at_point, rng, options):
    """With another mini-batch in between, the same numbers come out again."""
    point = at_point(make(5, options), rng.normal(size=(20, 3, 2)))
    network, before = point.network, {name: array.copy() for name, array in point.all_gradients().items()}
    network.forward([100 * rng.normal(size=(20, 3, 2))])
    network.backward(rng.normal(size=point.dL_dz.shape))
    assert (network.gradients[f"{point.name}.W_h"] != before["W_h"]).any()
    np.testing.assert_array_equal(network.forward(point.x), point.z)
    np.testing.assert_array_equal(network.backward(point.dL_dz)[0], before["x0"])
    for name in ("W_x", "W_h", "b"):
        np.testing.assert_array_equal(network.gradients[f"{point.name}.{name}"], before[name])


@EVERY_OPTION
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_stays_in_its_sample(at_point, rng, options, bad):
    x = rng.normal(size=(20, 4, 3))
    x[17, 2, 1] = bad
    point = at_point(make(5, options), x)
    others = np.arange(20) != 17
    assert np.isfinite(point.z[others]).all() and np.isfinite(point.dL_dx[0][others]).all()
    if np.isnan(bad):
        states = point.z[17]
        assert np.isnan(states[2:] if options["return_sequences"] else states).all()
        assert not options["return_sequences"] or np.isfinite(states[:2]).all()
        assert np.isnan(point.dL_dx[0][17]).all()
        assert all(np.isnan(gradient).any() for gradient in point.gradients.values())
    else:
        assert np.isfinite(point.z[17]).all()  # an infinite sum saturates a unit
        assert np.isnan(point.gradients["W_x"][:, 1]).all()  # 0 · ∞
        assert np.isfinite(np.delete(point.gradients["W_x"], 1, axis=1)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_sums_saturate_without_overflow(at_point, dtype):
    x = np.array([[[1e4]], [[-1e4]]])
    parameters = {"W_x": [[1.0]], "W_h": [[0.0]], "b": [0.0]}
    for activation, states in (("tanh", [1, -1]), ("sigmoid", [1, 0])):
        point = at_point(make(1, {"activation": activation}), x, dtype=dtype, parameters=parameters)
        assert point.z[:, 0].tolist() == states
        assert not point.dL_dx[0].any()


def loops_of_torch(torch, x, W_x, W_h, b, activation):
    a, states = torch.zeros(len(x), len(b), dtype=x.dtype), []
    for t in range(x.shape[1]):
        a = getattr(torch, activation)(x[:, t] @ W_x.T + a @ W_h.T + b)
        states.append(a)
    return torch.stack(states, dim=1)


@pytest.mark.parity
@EVERY_OPTION
@pytest.mark.parametrize(("U", "F", "T", "N"), [(1, 1, 1, 1), (7, 5, 6, 17), (20, 9, 11, 35)])
def test_pytorch_agrees(at_point, close, rng, options, U, F, T, N):
    torch = pytest.importorskip("torch")
    point = at_point(make(U, options), rng.normal(size=(N, T, F)), parameters=parameters_of(rng, U, F))
    tensors = [torch.tensor(a, requires_grad=True) for a in (point.x[0], *point.parameters.values())]
    a = loops_of_torch(torch, *tensors, options["activation"])
    a = a if options["return_sequences"] else a[:, -1]
    a.backward(torch.tensor(point.dL_dz))
    close(point.z, a.detach().numpy(), 1e-12, "value")
    for (name, own), theirs in zip(point.all_gradients().items(), tensors, strict=True):
        close(own, theirs.grad.numpy(), 1e-11, name)


@pytest.mark.parity
@pytest.mark.parametrize("every", [False, True])
def test_rnn_of_pytorch_agrees(at_point, close, rng, every):
    """Its two biases add up to b, and each of them has the gradient of b."""
    torch = pytest.importorskip("torch")
    point = at_point(make(9, {"return_sequences": every}), rng.normal(size=(17, 6, 4)))
    W_x, W_h, b = (torch.tensor(array) for array in point.parameters.values())
    rnn = torch.nn.RNN(4, 9, batch_first=True, dtype=torch.float64)
    first = torch.tensor(rng.normal(size=9))
    rnn.load_state_dict({"weight_ih_l0": W_x, "weight_hh_l0": W_h, "bias_ih_l0": first, "bias_hh_l0": b - first})
    x = torch.tensor(point.x[0], requires_grad=True)
    states, last = rnn(x)
    a = states if every else last[0]
    a.backward(torch.tensor(point.dL_dz))
    close(point.z, a.detach().numpy(), 1e-12, "value")
    close(point.dL_dx[0], x.grad.numpy(), 1e-11, "dL_dx")
    theirs = (rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0)
    for (name, own), parameter in zip(point.gradients.items(), theirs, strict=True):
        close(own, parameter.grad.numpy(), 1e-11, name)
    close(point.gradients["b"], rnn.bias_hh_l0.grad.numpy(), 1e-11, "second bias")


def test_shapes_names_and_start():
    x = Input((28, 20))
    network = Network(x, SimpleRNN(64, name="rnn")(x), threads=1)
    shapes = {name: array.shape for name, array in network.parameters.items()}
    assert shapes == {"rnn.W_x": (64, 20), "rnn.W_h": (64, 64), "rnn.b": (64,)}
    limits = {name: np.sqrt(6 / (array.shape[1] + 64)) for name, array in network.parameters.items() if "W" in name}
    for name, limit in limits.items():  # Xavier's uniform numbers, each with its own fan-in
        assert 0.95 * limit < np.abs(network.parameters[name]).max() <= limit
    assert not network.parameters["rnn.b"].any()
    layer = network.nodes["rnn"].layer
    assert layer.multiply_adds((28, 20)) == 28 * 64 * 20 + 27 * 64 * 64
    assert layer.settings() == {"units": 64, "activation": "tanh", "return_sequences": False}
    assert SimpleRNN(64, return_sequences=True)(x).shape == (28, 64)
    assert np.abs(Network(x, SimpleRNN(64, initializer=small)(x), threads=1).theta).max() < 0.06


def test_the_initializer_hears_the_fans_of_each_product():
    heard = []

    def initializer(rng, shape, *fans):
        heard.append((shape, *fans))
        return np.ones(shape)

    x = Input((28, 20))
    Network(x, SimpleRNN(64, initializer=initializer)(x), threads=1)
    assert heard == [((64, 20), 20, 64), ((64, 64), 64, 64)]


def test_layers_of_recurrent_units_stand_on_one_another(at_point, rng):
    x = Input((5, 3))
    network = Network(x, SimpleRNN(4)(SimpleRNN(6, return_sequences=True)(x)), dtype="float64", threads=1)
    assert network.forward(rng.normal(size=(2, 5, 3))).shape == (2, 4)
    assert network.backward(np.ones((2, 4))).shape == (2, 5, 3)


def test_errors_name_the_layer_and_the_remedy():
    with pytest.raises(ConfigurationError, match=r"^SimpleRNN 'r': units: got 0, expected an integer of at least 1$"):
        SimpleRNN(0, name="r")
    with pytest.raises(
        ConfigurationError, match=r"^SimpleRNN 'r': activation: got 'relu', expected 'tanh' or 'sigmoid'$"
    ):
        SimpleRNN(3, activation="relu", name="r")
    with pytest.raises(ConfigurationError, match=r"^SimpleRNN: return_sequences: got 1, expected True or False$"):
        SimpleRNN(3, return_sequences=1)
    expected = "expected a sequence of T time steps x F features; put a Reshape"
    with pytest.raises(
        ShapeError, match=rf"^SimpleRNN 'r': got an input of 1 x 28 x 28, {expected}\(\(28, 28\)\) before it$"
    ):
        SimpleRNN(3, name="r")(Input((1, 28, 28)))
    for shape in ((784,), (3, 32, 32)):
        with pytest.raises(ShapeError, match=rf"^SimpleRNN: got an input of .*, {expected}\(\(T, F\)\) before it$"):
            SimpleRNN(3)(Input(shape))


def test_an_image_is_read_row_by_row_after_a_reshape(rng):
    image = Input((1, 28, 28))
    network = Network(image, SimpleRNN(8)(Reshape((28, 28))(image)), threads=1)
    assert network.forward(rng.normal(size=(3, 1, 28, 28))).shape == (3, 8)
