"""Concat: channels one after another forward, the gradient cut apart backward."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.engine import Concat, Conv2D, Dense, Input, Network
from handgrad.engine.checks import ConfigurationError, ShapeError
from handgrad.engine.layers.layer import Share

DEPTHS = st.lists(st.integers(1, 4), min_size=2, max_size=4)
PIXELS = st.just(()) | st.tuples(st.integers(1, 4), st.integers(1, 4))  # flat inputs, or rows and columns


def arrays(seed, N, depths, pixels):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(N, C, *pixels)) for C in depths]


@example(0, 1, [1, 1], (1, 1))
@example(0, 17, [2, 1, 3], (3, 5))
@example(0, 35, [3, 2], ())
@given(st.integers(0, 99), st.integers(1, 40), DEPTHS, PIXELS)
def test_kernel_is_the_literal_code(at_point, seed, N, depths, pixels):
    at_point(Concat, *arrays(seed, N, depths, pixels), seed=seed).check_literal()


@given(st.integers(0, 99), st.integers(1, 40), DEPTHS, PIXELS, st.sampled_from(["float32", "float64"]))
def test_it_is_the_concatenation_of_numpy(at_point, seed, N, depths, pixels, dtype):
    """Values are copies, so both are equal to the last bit, whatever the dtype."""
    x = [array.astype(dtype) for array in arrays(seed, N, depths, pixels)]
    point = at_point(Concat, *x, dtype=dtype)
    assert point.z.dtype == dtype
    np.testing.assert_array_equal(point.z, np.concatenate(x, axis=1))
    np.testing.assert_array_equal(np.concatenate(point.dL_dx, axis=1), point.dL_dz)


def test_finite_differences(at_point):
    at_point(Concat, *arrays(0, 2, [2, 1, 3], (2, 2))).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_hand(at_point, dtype):
    upstream = [[[[10, 20]], [[30, 40]], [[50, 60]]]]
    point = at_point(Concat, [[[[1, 2]], [[3, 4]]]], [[[[5, 6]]]], dtype=dtype, dL_dz=upstream)
    assert point.z.tolist() == [[[[1, 2]], [[3, 4]], [[5, 6]]]]
    assert [dL_dx.tolist() for dL_dx in point.dL_dx] == [[[[[10, 20]], [[30, 40]]]], [[[[50, 60]]]]]


def test_joining_twice_is_joining_once(rng):
    x = [rng.normal(size=(20, C, 3, 3)) for C in (2, 1, 4)]
    dL_dz = rng.normal(size=(20, 7, 3, 3))
    nodes, others = [Input(a.shape[1:]) for a in x], [Input(a.shape[1:]) for a in x]
    once = Network(nodes, Concat()(*nodes), dtype="float64", threads=1)
    twice = Network(others, Concat()(Concat()(*others[:2]), others[2]), dtype="float64", threads=1)
    np.testing.assert_array_equal(once.forward(x), twice.forward(x))
    for one, other in zip(once.backward(dL_dz), twice.backward(dL_dz), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_node_twice_is_doubled_and_collects_both_gradients(close, rng):
    x, dL_dz = rng.normal(size=(20, 2, 3, 3)), rng.normal(size=(20, 4, 3, 3))
    image = Input((2, 3, 3))
    network = Network(image, Concat()(image, image), dtype="float64", threads=1)
    np.testing.assert_array_equal(network.forward(x), np.concatenate([x, x], axis=1))
    close(network.backward(dL_dz), dL_dz[:, :2] + dL_dz[:, 2:], 1e-15)


def test_a_dense_layer_on_joined_features_is_the_sum_of_dense_layers(close, rng):
    """W [x_1; x_2] = W_1 x_1 + W_2 x_2, where W_1 and W_2 are the columns of W."""
    x, dL_dz = [rng.normal(size=(20, 3)), rng.normal(size=(20, 5))], rng.normal(size=(20, 4))
    nodes = [Input((3,)), Input((5,))]
    network = Network(nodes, Dense(4)(Concat()(*nodes)), dtype="float64", threads=1)
    W = network.parameters["dense1.W"]
    close(network.forward(x), x[0] @ W[:, :3].T + x[1] @ W[:, 3:].T, 1e-13)
    for dL_dx, part in zip(network.backward(dL_dz), (W[:, :3], W[:, 3:]), strict=True):
        close(dL_dx, dL_dz @ part, 1e-13)


def test_an_inception_module_has_the_depth_of_all_branches_and_learns_in_each(close, rng):
    x, dL_dz = rng.normal(size=(5, 2, 6, 6)), rng.normal(size=(5, 6, 6, 6))
    image = Input((2, 6, 6))
    branches = [Conv2D(O, f, padding="same")(image) for O, f in ((1, 1), (2, 3), (3, 5))]
    network = Network(image, Concat()(*branches), dtype="float64", threads=1)
    assert network.forward(x).shape == (5, 6, 6, 6)
    network.backward(dL_dz)
    for name, channels in (("conv1.b", slice(0, 1)), ("conv2.b", slice(1, 3)), ("conv3.b", slice(3, 6))):
        close(network.gradients[name], dL_dz[:, channels].sum(axis=(0, 2, 3)), 1e-13)


def test_an_input_whose_gradient_nobody_needs_is_left_out(rng):
    x = tuple(rng.normal(size=(2, C, 3, 3, 16)) for C in (1, 2, 3))
    z, dL_dz, dL_dx = np.empty((2, 6, 3, 3, 16)), rng.normal(size=(2, 6, 3, 3, 16)), np.empty((2, 3, 3, 3, 16))
    share = Share(x=x, z=z, dL_dz=dL_dz, dL_dx=(None, None, dL_dx))
    Concat().forward(share)
    Concat().backward(share)
    np.testing.assert_array_equal(z, np.concatenate(x, axis=1))
    np.testing.assert_array_equal(dL_dx, dL_dz[:, 3:])


def test_a_second_pass_starts_from_nothing(at_point):
    point, fresh = [at_point(Concat, *arrays(seed, 5, [2, 3], (2, 3))) for seed in (0, 1)]
    np.testing.assert_array_equal(point.network.forward(fresh.x), fresh.z)
    for one, other in zip(point.network.backward(fresh.dL_dz + 1), fresh.dL_dx, strict=True):
        np.testing.assert_array_equal(one, other + 1)


def test_a_batch_is_its_parts(at_point):
    at_point(Concat, *arrays(0, 35, [2, 3], (2, 3))).check_parts(18)


def test_two_threads_give_what_one_gives(at_point):
    x = arrays(0, 35, [2, 3], (2, 3))
    one, two = at_point(Concat, *x), at_point(Concat, *x, threads=2)
    np.testing.assert_array_equal(one.z, two.z)
    for single, double in zip(one.dL_dx, two.dL_dx, strict=True):
        np.testing.assert_array_equal(single, double)


def test_numbers_that_are_none_stay_in_their_place(at_point):
    x, y = np.zeros((17, 3)), np.zeros((17, 2))
    x[16, 1], y[16, 0] = np.nan, np.inf
    assert np.argwhere(~np.isfinite(at_point(Concat, x, y).z)).tolist() == [[16, 1], [16, 3]]


def test_inputs_can_be_a_list():
    x, y = Input((3,)), Input((4,))
    node = Concat()([x, y])
    assert node.inputs == (x, y) and node.shape == (7,)


@pytest.mark.parity
@given(st.integers(0, 99), st.integers(1, 40), DEPTHS, PIXELS)
def test_pytorch_agrees(at_point, seed, N, depths, pixels):
    torch = pytest.importorskip("torch")
    point = at_point(Concat, *arrays(seed, N, depths, pixels))
    x = [torch.tensor(array, requires_grad=True) for array in point.x]
    z = torch.cat(x, dim=1)
    z.backward(torch.tensor(point.dL_dz))
    np.testing.assert_array_equal(point.z, z.detach().numpy())
    for mine, theirs in zip(point.dL_dx, x, strict=True):
        np.testing.assert_array_equal(mine, theirs.grad.numpy())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            ((2, 8, 8), (3, 8, 8), (2, 8, 4)),
            "got inputs of 2 x 8 x 8 and 2 x 8 x 4, expected the same rows and columns",
        ),
        (((2, 8, 8), (2, 4, 8)), "got inputs of 2 x 8 x 8 and 2 x 4 x 8, expected the same rows and columns"),
        (
            ((5,), (2, 8, 8)),
            "got inputs of 5 and 2 x 8 x 8, expected all images or all flat; put a Flatten before the images",
        ),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    with pytest.raises(ShapeError) as caught:
        Concat(name="depth")(*map(Input, shapes))
    assert str(caught.value) == f"Concat 'depth': {message}"


def test_one_input_is_not_enough():
    with pytest.raises(ConfigurationError) as caught:
        Concat(name="depth")(Input((3,)))
    assert str(caught.value) == "Concat 'depth': got 1 inputs, expected two or more"


def test_shapes():
    branches = [Input((C, 28, 28)) for C in (64, 128, 32, 32)]
    assert Concat()(*branches).shape == (256, 28, 28)  # GoogLeNet's first Inception module
    assert Concat()(Input((3,)), Input((4,))).shape == (7,)
