"""Graphs: gradients of a fan-out add up, whatever the shape of the graph, and wrong graphs are refused."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import Add, Conv2D, Dense, Flatten, Input, Linear, MaxPool2D, Network, ReLU, Sigmoid, Tanh
from handgrad.engine.checks import ConfigurationError, ShapeError
from handgrad.engine.graph import topological_order

DOUBLE = {"dtype": "float64", "threads": 1}


def check_differences(close, network, arrays, h=1e-6):
    """Compare every gradient of Σ dL/dz z with finite differences; arrays and outputs are lists."""
    rng = np.random.default_rng(5)
    for parameter in network.parameters.values():
        parameter[...] = rng.normal(size=parameter.shape)
    dL_dz = [rng.normal(size=z.shape) for z in network.forward(arrays)]
    dL_dx = network.backward(dL_dz)
    gradients = {name: array.copy() for name, array in network.gradients.items()}

    def loss():
        return sum((g * z).sum() for g, z in zip(dL_dz, network.forward(arrays), strict=True))

    places = [(f"input {k}", x, dL_dx[k]) for k, x in enumerate(arrays)]
    places += [(name, parameter, gradients[name]) for name, parameter in network.parameters.items()]
    for name, array, gradient in places:
        quotients = np.empty(array.shape)
        for place in np.ndindex(*array.shape):
            before, losses = array[place], []
            for value in (before + h, before - h):
                array[place] = value
                losses.append(loss())
            array[place] = before
            quotients[place] = (losses[0] - losses[1]) / (2 * h)
        close(gradient, quotients, 1e-6, f"gradient of {name}")  # rounding: |L| 1e-16 / h, |L| near 100 at most


def test_a_node_added_to_itself_gets_twice_the_gradient():
    x = Input((3,))
    y = Linear()(x)
    network = Network(x, Add()(y, y), **DOUBLE)
    assert network.forward([[1, 2, 3]]).tolist() == [[2, 4, 6]]
    assert network.backward([[1, 10, 100]]).tolist() == [[2, 20, 200]]
    assert network.value_gradients["linear1"].tolist() == [[2, 20, 200]]
    assert network.value_gradients["add1"].tolist() == [[1, 10, 100]]


def test_an_input_added_to_itself_three_times():
    x = Input((2,))
    network = Network(x, Add()(x, x, x), **DOUBLE)
    assert network.forward([[1, 2]]).tolist() == [[3, 6]]
    assert network.backward([[1, 10]]).tolist() == [[3, 30]]


def test_a_second_backward_pass_starts_from_nothing(rng):
    x = Input((3,))
    y = Tanh()(Dense(4)(x))
    network = Network(x, Add()(y, y, Sigmoid()(y)), **DOUBLE)
    samples, dL_dz = rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
    network.forward(samples)
    first, gradients = network.backward(dL_dz), network.dL_dtheta.copy()
    np.testing.assert_array_equal(network.backward(dL_dz), first)
    np.testing.assert_array_equal(network.dL_dtheta, gradients)


def test_skip_connection_by_hand():
    """z = 3 x + x: dL/dx is 4 dL/dz, through f and past it."""
    x = Input((1,))
    network = Network(x, Add()(Dense(1, name="f")(x), x), **DOUBLE)
    network.parameters["f.W"] = [[3.0]]
    assert network.forward([[2.0]]).tolist() == [[8]]
    assert network.backward([[10.0]]).tolist() == [[40]]
    assert network.gradients["f.W"].tolist() == [[20]]


def test_diamond(close, rng):
    x = Input((3,))
    top = Tanh()(Dense(4)(x))
    z = Add()(Sigmoid()(Dense(5)(top)), Dense(5)(top))
    check_differences(close, Network([x], [z], **DOUBLE), [rng.normal(size=(3, 3))])


def test_diamond_of_diamonds(close, rng):
    x = Input((2,))
    node = x
    for _ in range(3):
        node = Add()(Tanh()(Dense(2)(node)), node, node)
    check_differences(close, Network([x], [node], **DOUBLE), [rng.normal(size=(2, 2))])


def test_residual_block_of_convolutions(close, rng):
    image = Input((2, 4, 4))
    inner = Conv2D(2, 3, padding="same")(Tanh()(Conv2D(3, 3, padding="same")(image)))
    z = Dense(2)(Flatten()(Sigmoid()(Add()(inner, image))))
    check_differences(close, Network([image], [z], **DOUBLE), [rng.normal(size=(2, 2, 4, 4))])


def test_a_node_that_is_both_an_output_and_read(close, rng):
    x = Input((3,))
    hidden = Tanh()(Dense(4)(x))
    z = Dense(2)(hidden)
    check_differences(close, Network([x], [hidden, z], **DOUBLE), [rng.normal(size=(3, 3))])


def test_two_inputs_of_different_shape(close, rng):
    image, features = Input((1, 3, 3)), Input((4,))
    z = Add()(Dense(3)(Flatten()(image)), Tanh()(Dense(3)(features)))
    network = Network([image, features], [z], **DOUBLE)
    assert [node.name for node in network.inputs] == ["input1", "input2"]
    check_differences(close, network, [rng.normal(size=(2, 1, 3, 3)), rng.normal(size=(2, 4))])


def test_two_inputs_and_two_outputs(close, rng):
    a, b = Input((3,)), Input((2,))
    shared = Tanh()(Add()(Dense(4)(a), Dense(4)(b)))
    network = Network([a, b], [Dense(2)(shared), Sigmoid()(Dense(1)(shared))], **DOUBLE)
    check_differences(close, network, [rng.normal(size=(17, 3)), rng.normal(size=(17, 2))])


def test_flatten_and_another_reader_share_a_node(close, rng):
    """A flatten only renames places; its gradient must not overwrite that of the other reader."""
    image = Input((1, 2, 2))
    a = Tanh()(Conv2D(2, 1)(image))
    flat, other = Flatten()(a), Flatten()(Sigmoid()(a))
    z = Add()(Dense(3)(flat), Dense(3)(other), Dense(3)(flat))
    check_differences(close, Network([image], [z, flat], **DOUBLE), [rng.normal(size=(2, 1, 2, 2))])


def test_flatten_directly_behind_an_input_that_is_also_an_output(close, rng):
    image = Input((1, 2, 2))
    flat = Flatten()(image)
    network = Network([image], [flat, Dense(2)(flat), image], **DOUBLE)
    check_differences(close, network, [rng.normal(size=(2, 1, 2, 2))])


def test_an_output_listed_twice_counts_twice():
    x = Input((2,))
    z = Linear()(x)
    network = Network(x, [z, z], **DOUBLE)
    network.forward([[1, 2]])
    assert network.backward([[[1, 10]], [[100, 1000]]]).tolist() == [[101, 1010]]


def test_an_input_can_be_the_output():
    x = Input((2,))
    network = Network(x, x, **DOUBLE)
    assert network.forward([[1, 2]]).tolist() == [[1, 2]]
    assert network.backward([[3, 4]]).tolist() == [[3, 4]]
    assert network.parameter_count == 0


def test_layers_that_no_output_needs_are_left_out():
    x = Input((2,))
    node = Dense(3)(x)
    Dense(100)(node)
    assert list(Network(x, node, threads=1).nodes) == ["input", "dense1"]


def test_a_very_deep_chain_needs_no_recursion():
    x = Input((1,))
    node = x
    for _ in range(3000):
        node = Linear()(node)
    order = topological_order([x], [node])
    assert len(order) == 3001 and order[0] is x and order[-1] is node


def test_topological_order_puts_sources_first():
    x, y = Input((2,)), Input((2,))
    a = ReLU()(x)
    b = Add()(a, y)
    order = topological_order([x, y], [Add()(b, a), b])
    place = {id(node): k for k, node in enumerate(order)}
    assert all(place[id(source)] < place[id(node)] for node in order for source in node.inputs)
    assert len(order) == len(place) == 5


def test_automatic_names_count_each_kind_and_avoid_given_ones():
    x = Input((1, 4, 4))
    node = MaxPool2D(2)(ReLU()(Conv2D(2, 1)(ReLU()(Conv2D(2, 1, name="conv1")(x)))))
    network = Network(x, node, threads=1)
    assert list(network.nodes) == ["input", "conv1", "relu1", "conv2", "relu2", "maxpool1"]
    assert str(network.nodes["conv2"].layer) == "Conv2D 'conv2'"


def test_duplicate_names_are_refused():
    x = Input((3,))
    with pytest.raises(ConfigurationError, match="^Network: two layers are called 'fc'; rename one of them"):
        Network(x, Dense(3, name="fc")(Dense(3, name="fc")(x)))
    with pytest.raises(ConfigurationError, match="two layers are called 'in'"):
        Network(x, Add()(Dense(3, name="in")(x), Linear(name="in")(x)))


def test_an_input_that_is_not_listed_is_refused():
    x, y = Input((3,)), Input((3,), name="extra")
    with pytest.raises(ConfigurationError, match="the outputs need <Input extra 3>, which is not among the inputs"):
        Network(x, Add()(x, y))


def test_an_input_that_nothing_reads_is_refused():
    x, y = Input((3,)), Input((4, 5, 6), name="extra")
    with pytest.raises(ConfigurationError, match="no output depends on the input <Input extra 4 x 5 x 6>; connect it"):
        Network([x, y], ReLU()(x))


def test_a_layer_used_twice_is_refused():
    x = Input((3,))
    layer = Dense(3, name="fc")
    node = layer(x)
    with pytest.raises(ConfigurationError, match="^Dense 'fc' is already in a graph; make a second layer: two places"):
        layer(node)


@pytest.mark.parametrize("shape", [(0,), (3, -1, 2), (2.0,), (True,), ("3",)])
def test_input_sizes_are_checked(shape):
    with pytest.raises(ConfigurationError, match=r"^Input: size \d: got .*, expected an integer of at least 1"):
        Input(shape)


def test_input_shapes():
    assert Input(5).shape == Input([5]).shape == (5,)
    assert Input((2, 3, 4)).size == 24
    assert repr(Input((2, 3), name="image")) == "<Input image 2 x 3>"
    with pytest.raises(ShapeError, match=r"^Input: got an empty shape, expected \(channels, rows, columns\)"):
        Input(())
