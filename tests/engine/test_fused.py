"""Layers that apply the activation behind them compute what the two layers compute one after the other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import conv2d as literal_conv
from handgrad.derivations import relu as literal_relu
from handgrad.derivations import sigmoid as literal_sigmoid
from handgrad.derivations import tanh as literal_tanh
from handgrad.engine import (
    Add,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Flatten,
    Input,
    LeakyReLU,
    MaxPool2D,
    Multiply,
    Network,
    ReLU,
    Reshape,
    Sigmoid,
    Tanh,
)
from handgrad.engine.layers.winograd import Tiling

ACTIVATIONS = {"relu": (ReLU, literal_relu), "tanh": (Tanh, literal_tanh), "sigmoid": (Sigmoid, literal_sigmoid)}


def passes(network, x, u):
    """Return gradients of the parameters, and output, without and with activations joined."""
    results = []
    for fused in (False, True):
        current = network.pass_for(len(x), fused=fused)
        current.allocate_gradients()
        for part in current.active:
            for arrays in (part.values, part.gradients):
                for array in arrays.values():
                    array[...] = np.nan
        current.load(network.inputs[0].name, x)
        current.load_seed(0, u)
        current.prepare(training=True, draw=0)
        for _ in range(2):  # the second time as a program
            current.load_seed(0, u)
            current.run(current.forward)
            current.run(current.backward)
        current.reduce_gradients()
        x_name = network.inputs[0].name
        results.append((current.value(network.outputs[0].name), network.dL_dtheta.copy(), current.gradient(x_name)))
    return results


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 36), st.integers(0, 99)
)
def test_the_joined_layers_are_the_literal_code(name, filters, channels, f, stride, samples, seed):
    activation, literal = ACTIVATIONS[name]
    rng = np.random.default_rng(seed)
    x = Input((channels, 4, 3))
    conv = Conv2D(filters, f, stride=stride, padding=1, name="conv")
    network = Network(x, Flatten()(activation()(conv(x))), seed=seed, threads=2, dtype="float64")
    network.parameters["conv.b"][...] = rng.normal(size=filters)
    images, u = rng.normal(size=(samples, channels, 4, 3)), rng.normal(size=(samples, network.outputs[0].size))
    _, (a, dL_dtheta, dL_dx) = passes(network, images, u)
    W, b, options = network.parameters["conv.W"], network.parameters["conv.b"], conv.literal_options()
    sums = [0, 0]
    for n in range(min(samples, 3)):
        z_n = literal_conv.forward(images[n], W, b, **options)
        np.testing.assert_allclose(a[n], np.ravel(literal.forward(z_n)).astype(float), rtol=1e-13, atol=1e-14)
        (dL_dz,) = literal.backward(u[n].reshape(np.shape(z_n)), z_n)
        gradients = literal_conv.backward(dL_dz, images[n], W, b, **options)
        np.testing.assert_allclose(dL_dx[n], np.array(gradients[0], float), rtol=1e-12, atol=1e-13)
        sums = [total + np.array(part, float) for total, part in zip(sums, gradients[1:], strict=True)]
    if samples <= 3:
        found = network.layer_arrays("conv", dL_dtheta)
        np.testing.assert_allclose(found["W"], sums[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found["b"], sums[1], rtol=1e-12, atol=1e-12)


def branched(x):
    """A network in which activations are read twice, by a sum and by a convolution."""
    first = ReLU(name="first")(Conv2D(6, 3, padding=1, name="conv1")(x))
    second = Tanh(name="second")(Conv2D(6, 3, padding=1, name="conv2")(first))
    return Dense(3)(Flatten()(MaxPool2D(2)(Add()(first, second))))


def normalized(x):
    """Between convolution and activation stands a normalization, which joins the activation."""
    first = ReLU(name="first")(BatchNorm(name="bn1")(Conv2D(5, 3, padding=1, name="conv1")(x)))
    second = Tanh(name="second")(BatchNorm(name="bn2")(Conv2D(5, 3, padding=1, name="conv2")(first)))
    return Dense(3)(Flatten()(MaxPool2D(2)(Add()(first, second))))


def dense(x):
    """Layers without images, more outputs than a tile has and fewer, and panels that all of them share."""
    first = ReLU(name="first")(Dense(43, name="dense1")(Flatten()(x)))
    second = Tanh(name="second")(Dense(7, name="dense2")(first))
    return Dense(3)(Sigmoid(name="third")(Dense(16, name="dense3")(second)))


def read_before_activation(x):
    """The convolution's own value goes to a sum as well, so nothing can be joined."""
    z = Conv2D(4, 3, name="conv1")(x)
    return Dense(3)(Flatten()(Add()(z, ReLU(name="first")(z))))


def at_the_end(x):
    """The activation is the output, whose upstream gradient belongs to the caller."""
    return Sigmoid(name="first")(Conv2D(4, 3, name="conv1")(x))


def other_activation(x):
    """The slope of this activation is no constant of a kernel."""
    return Dense(3)(Flatten()(LeakyReLU(0.2)(Conv2D(4, 3, name="conv1")(x))))


def pooled(pool):
    """Pooling goes back through the activation in front: windows apart, with pixels in none, overlapping, over a border."""

    def build(x):
        x = pool(2, name="apart")(ReLU(name="first")(Conv2D(5, 2, padding=1, name="conv1")(x)))
        x = pool(3, stride=1, name="overlapping")(
            Tanh(name="second")(BatchNorm(name="bn2")(Conv2D(5, 3, padding=1)(x)))
        )
        x = pool(2, padding=1, name="padded")(Sigmoid(name="third")(Conv2D(4, 2, padding=1, name="conv3")(x)))
        return Dense(3)(Flatten()(pool(2, name="alone")(Conv2D(4, 1, name="conv4")(x))))

    return build


def pooled_and_read(x):
    """Somebody else reads the activation, too, and sends a gradient that has not been through it."""
    a = ReLU(name="first")(Conv2D(5, 3, padding=1, name="conv1")(x))
    return Dense(3)(Concat()(Flatten()(MaxPool2D(2)(a)), Flatten()(a)))


@pytest.mark.parametrize(
    ("build", "joined"),
    [
        (pooled(MaxPool2D), {"conv1": "first", "bn2": "second", "conv3": "third"}),
        (pooled(AvgPool2D), {"conv1": "first", "bn2": "second", "conv3": "third"}),
        (pooled_and_read, {"conv1": "first"}),
        (branched, {"conv1": "first", "conv2": "second"}),
        (normalized, {"bn1": "first", "bn2": "second"}),
        (dense, {"dense1": "first", "dense2": "second", "dense3": "third"}),
        (read_before_activation, {}),
        (at_the_end, {}),
        (other_activation, {}),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks_are_the_same_with_and_without(build, joined, threads, dtype):
    rng = np.random.default_rng(1)
    x = Input((2, 8, 8))
    network = Network(x, build(x), seed=2, threads=threads, dtype=dtype)
    u = rng.normal(size=(37, *network.outputs[0].shape))
    apart, together = passes(network, rng.normal(size=(37, 2, 8, 8)), u)
    assert network.pass_for(37, fused=True).joined == joined
    assert network.pass_for(37).joined == {}
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance * np.abs(one).max())


@pytest.mark.parametrize(
    ("build", "undone"),
    [
        (pooled(MaxPool2D), {"conv1": "apart", "bn2": "overlapping", "conv3": "padded"}),
        (pooled(AvgPool2D), {"conv1": "apart", "bn2": "overlapping", "conv3": "padded"}),
        (pooled_and_read, {}),
    ],
)
def test_who_goes_back_through_an_activation(build, undone):
    x = Input((2, 8, 8))
    current = Network(x, build(x), threads=1).pass_for(16, fused=True)
    shares = current.active[0].shares
    assert current.undone == undone
    assert {name: share.before.name for name, share in shares.items() if share.before is not None} == {
        behind: current.joined[name] for name, behind in undone.items()
    }
    assert {name for name, share in shares.items() if share.is_undone} == set(undone)


def two_inputs_and_outputs():
    """Inputs of different depths, an output that is also read, views on both sides of a branch."""
    a, b = Input((2, 6, 6)), Input((72,))
    x = ReLU()(Conv2D(2, 3, padding=1)(a))
    y = Add()(x, Reshape((2, 6, 6))(Dense(72)(b)))
    z = Tanh()(Conv2D(3, 3, padding=1)(y))
    first = Dense(4)(Concat()(Flatten()(z), Flatten()(x), b))
    return [a, b], [first, Multiply()(y, x), Dense(2)(first)]


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_whose_memory_serves_others_are_the_same(threads):
    rng, results = np.random.default_rng(5), []
    inputs, outputs = two_inputs_and_outputs()
    network = Network(inputs, outputs, seed=4, threads=threads, dtype="float64")
    x = [rng.normal(size=(35, *node.shape)) for node in network.inputs]
    u = [rng.normal(size=(35, *node.shape)) for node in network.outputs]
    for fused in (False, True):
        current = network.pass_for(35, fused=fused)
        current.allocate_gradients()
        for node, array in zip(network.inputs, x, strict=True):
            current.load(node.name, array)
        current.prepare(training=True, draw=0)
        for _ in range(2):
            for part in current.active:
                for array in part.gradients.values():
                    array[...] = np.nan
            for position, array in enumerate(u):
                current.load_seed(position, array)
            current.run(current.forward)
            current.run(current.backward)
            current.reduce_gradients()
        dL_dx = [current.gradient(node.name) for node in network.inputs]
        results.append([network.dL_dtheta.copy(), *dL_dx])
        memories = {array.ctypes.data for array in current.active[0].gradients.values()}
        results[-1].append(len(memories))
    for one, other in zip(results[0][:-1], results[1][:-1], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)
    assert results[1][-1] < results[0][-1]


def test_joined_nodes_share_their_arrays():
    x = Input((2, 8, 8))
    network = Network(x, branched(x), threads=1)
    current = network.pass_for(16, fused=True)
    current.allocate_gradients()
    (part,) = current.active
    for conv, activation in current.joined.items():
        assert part.values[conv] is part.values[activation]
        assert part.gradients[conv] is part.gradients[activation]
    assert [name for name, _ in current.steps if name in ("first", "second")] == []


def test_what_a_sum_sends_to_its_first_input_is_its_own_gradient(rng):
    """Who gets it may go back through an activation in place; the others have copies from before."""
    x = Input((2, 4, 4))
    branches = [activation()(Conv2D(3, 1)(x)) for activation in (Tanh, Sigmoid, ReLU)]
    total = Add(name="total")(*branches, branches[0])
    network = Network(x, Dense(2)(Flatten()(Tanh()(total))), threads=1, dtype="float64")
    plain, fused = passes(network, rng.normal(size=(5, 2, 4, 4)), rng.normal(size=(5, 2)))
    for expected, found in zip(plain, fused, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    (part,) = network.pass_for(5, fused=True).active
    sent = [part.edges["total", position] for position in range(4)]
    assert np.shares_memory(sent[0], part.gradients["total"])
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(sent, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_stays_one(bad):
    """NaN and infinities go through the joined activation as through the layer, and stay in their sample."""
    x = Input((1, 5, 5))
    network = Network(x, Dense(2)(Flatten()(ReLU()(Conv2D(3, 3)(x)))), threads=1)
    images = np.random.default_rng(0).normal(size=(20, 1, 5, 5))
    images[7, 0, 2, 2] = bad
    current = network.pass_for(20, fused=True)
    current.load(network.inputs[0].name, images)
    current.prepare(training=False, draw=0)
    current.run(current.forward)
    np.testing.assert_array_equal(current.value(network.outputs[0].name), network.forward(images))


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_passing_holds_nothing_from_one_pass_to_the_next(monkeypatch, threads):
    """Layers take turns with this memory, so whatever one leaves there must not matter to another."""
    monkeypatch.setattr(Tiling, "is_faster", True)  # although tiles hang over the image on two sides
    rng, x = np.random.default_rng(7), Input((9, 9, 7))
    small = ReLU()(Conv2D(3, 5, padding=2, name="direct")(x))
    wide = Conv2D(11, 3, padding=1, name="tiled")(ReLU()(Conv2D(12, 3, padding=1, name="first")(x)))
    points = Conv2D(9, 1, name="points")(ConvTranspose2D(9, 3, padding=1, name="back")(x))
    network = Network(x, [small, wide, Dense(5)(Flatten()(points))], seed=1, threads=threads, dtype="float64")
    values = rng.normal(size=(20, 9, 9, 7))
    seeds = [rng.normal(size=(20, *node.shape)) for node in network.outputs]
    results = []
    for is_spoiled in (False, True):
        current = network.pass_for(20, fused=True)
        current.allocate_gradients()
        current.load(network.inputs[0].name, values)
        current.prepare(training=True, draw=0)
        shares = [(network.nodes[name].layer, share) for part in current.active for name, share in part.shares.items()]
        passing = [(share.scratch | share.common).get(key) for layer, share in shares for key in type(layer).passing]
        passing = [array for array in passing if array is not None]
        for work in (current.forward, current.backward):
            for position, seed in enumerate(seeds):
                current.load_seed(position, seed)
            for array in passing if is_spoiled else ():
                array[...] = np.nan
            current.run(work)
        current.reduce_gradients()
        results.append([current.gradient(network.inputs[0].name), network.dL_dtheta.copy()])
    assert len({array.ctypes.data for array in passing}) < len(passing)  # they share
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(other, one)
