"""Reshape: the same values in the same order and in the same memory, with other positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.derivations import reshape as derivation
from handgrad.engine import Add, Conv2D, Dense, Flatten, Input, Network, ReLU, Reshape
from handgrad.engine.checks import ConfigurationError, ShapeError


@st.composite
def configurations(draw):
    """Shape of a mini-batch, and a target shape of as many values, perhaps with -1 at one place."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    target = list(draw(st.permutations(sizes)))
    if len(target) > 1 and draw(st.booleans()):  # two sizes become one
        target[:2] = [target[0] * target[1]]
    if draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] = -1
    return (draw(st.integers(1, 40)), *sizes), tuple(target)


@example(((1, 6), (1, 2, 3)), 0)
@example(((17, 2, 3, 5), (-1,)), 0)
@example(((35, 1, 5, 3), (3, -1, 1)), 0)
@given(configurations(), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, configuration, seed):
    shape, target = configuration
    at_point(lambda: Reshape(target), np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(configurations(), st.sampled_from(["float32", "float64"]), st.sampled_from([1, 2]))
def test_it_is_the_reshape_of_numpy(at_point, configuration, dtype, threads):
    """Values are copies, so both are equal to the last bit, whatever the dtype and the number of threads."""
    shape, target = configuration
    x = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    point = at_point(lambda: Reshape(target), x, dtype=dtype, threads=threads)
    assert point.z.dtype == dtype
    np.testing.assert_array_equal(point.z, x.reshape(len(x), *target))
    np.testing.assert_array_equal(point.dL_dx[0], point.dL_dz.reshape(shape))


def test_finite_differences(at_point, rng):
    at_point(lambda: Reshape((3, -1)), rng.normal(size=(2, 2, 2, 3))).check_differences()


def test_rows_and_columns_are_not_exchanged(at_point):
    point = at_point(lambda: Reshape((3, 2)), [[[[1, 2, 3], [4, 5, 6]]]], dL_dz=[[[10, 20], [30, 40], [50, 60]]])
    assert point.z.tolist() == [[[1, 2], [3, 4], [5, 6]]]
    assert point.dL_dx[0].tolist() == [[[[10, 20, 30], [40, 50, 60]]]]


def test_it_undoes_a_flatten(rng):
    x, dL_dz = rng.normal(size=(2, 5, 2, 3, 4))
    image = Input((2, 3, 4))
    network = Network(image, Reshape((2, 3, 4))(Flatten()(image)), dtype="float64", threads=1)
    np.testing.assert_array_equal(network.forward(x), x)
    np.testing.assert_array_equal(network.backward(dL_dz), dL_dz)


def test_an_image_from_a_dense_layer_is_convolved_and_learned(at_point, rng):
    """784 values become 1 x 28 x 28, and the gradient finds its way back to the dense layer's rows."""
    x, dL_dz = rng.normal(size=(2, 3)), rng.normal(size=(2, 1, 1, 1))
    column = Input((3,))
    image = Reshape((1, 28, -1))(Dense(784)(column))
    network = Network(column, Conv2D(1, 28)(image), dtype="float64", threads=1)
    network.forward(x)
    dL_dx = network.backward(dL_dz)
    W, kernel = network.parameters["dense1.W"], network.parameters["conv1.W"].reshape(784)
    np.testing.assert_allclose(dL_dx, dL_dz[:, :, 0, 0] * (kernel @ W), rtol=1e-12)


def test_value_and_gradient_are_the_same_memory(rng):
    column = Input((18,))
    network = Network(column, Conv2D(4, 2)(Reshape((2, 3, 3))(ReLU()(column))), threads=1)
    network.backward(np.ones_like(network.forward(rng.normal(size=(5, 18)))))
    part = network.last_pass.active[0]
    assert np.shares_memory(part.values["reshape1"], part.values["relu1"])
    assert np.shares_memory(part.gradients["reshape1"], part.gradients["relu1"])
    np.testing.assert_array_equal(network.values["reshape1"], network.values["relu1"].reshape(5, 2, 3, 3))


def test_a_reshape_and_another_reader_share_a_node(close, rng):
    """x + reshape(reshape(x)): the gradient that comes through the view does not overwrite the other."""
    x, dL_dz = rng.normal(size=(2, 20, 2, 3))
    node = Input((2, 3))
    there_and_back = Reshape((2, 3))(Reshape((6,))(node))
    network = Network(node, Add()(node, there_and_back), dtype="float64", threads=1)
    close(network.forward(x), 2 * x, 1e-15)
    close(network.backward(dL_dz), 2 * dL_dz, 1e-15)


def test_a_batch_is_its_parts(at_point, rng):
    at_point(lambda: Reshape((-1, 4)), rng.normal(size=(35, 2, 4, 3))).check_parts(18)


def test_numbers_that_are_none_pass(at_point):
    x = np.zeros((17, 1, 2, 2))
    x[16, 0, 1, 0], x[16, 0, 1, 1] = np.nan, np.inf
    point = at_point(lambda: Reshape((4,)), x)
    assert np.argwhere(~np.isfinite(point.z)).tolist() == [[16, 2], [16, 3]]


@pytest.mark.parity
@given(configurations(), st.integers(0, 99))
def test_pytorch_agrees(at_point, configuration, seed):
    torch = pytest.importorskip("torch")
    shape, target = configuration
    point = at_point(lambda: Reshape(target), np.random.default_rng(seed).normal(size=shape))
    x = torch.tensor(point.x[0], requires_grad=True)
    z = x.reshape(len(x), *target)
    z.backward(torch.tensor(point.dL_dz))
    np.testing.assert_array_equal(point.z, z.detach().numpy())
    np.testing.assert_array_equal(point.dL_dx[0], x.grad.numpy())


@pytest.mark.parametrize("shape", [(), (0, 3), (2, -2), (-1, 3, -1), (2.0, 3), (True, 3), "12", None, 0, 1.5])
def test_the_shape_is_checked_when_the_layer_is_made(shape):
    with pytest.raises(ConfigurationError) as caught:
        Reshape(shape, name="r1")
    assert str(caught.value) == (
        f"Reshape 'r1': shape: got {shape!r}, expected integers of at least 1, one of which may be -1"
    )


@pytest.mark.parametrize(
    ("x_shape", "shape", "message"),
    [
        ((2, 3, 4), (5, 5), "got an input of 24 values (from 2 x 3 x 4), expected 25 for 5 x 5"),
        ((24,), (5, -1), "got an input of 24 values, expected a multiple of 5 for 5 x -1"),
        ((24,), (25, -1), "got an input of 24 values, expected a multiple of 25 for 25 x -1"),
        ((2, 12), 23, "got an input of 24 values (from 2 x 12), expected 23 for 23"),
    ],
)
def test_the_number_of_values_is_checked_when_the_graph_is_built(x_shape, shape, message):
    with pytest.raises(ShapeError) as caught:
        Reshape(shape, name="r1")(Input(x_shape))
    assert str(caught.value) == f"Reshape 'r1': {message}"
    with pytest.raises(ValueError, match=r"^reshape: 24 values do not fit the shape"):
        derivation.forward(np.zeros(x_shape, dtype=object), shape=(shape,) if isinstance(shape, int) else shape)


def test_shapes():
    assert Reshape((1, 28, 28))(Input((784,))).shape == (1, 28, 28)
    assert Reshape((-1,))(Input((40, 5, 5))).shape == (1000,)
    assert Reshape(-1)(Input((40, 5, 5))).shape == (1000,)
    assert Reshape([7, np.int64(7), -1])(Input((49,))).shape == (7, 7, 1)
    assert Reshape((5, -1)).settings() == {"shape": (5, -1)}
