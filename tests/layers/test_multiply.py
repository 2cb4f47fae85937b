"""Multiply: the product of branches forward; backward each factor's gradient times all the others, zeros included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.engine import Add, Input, Multiply, Network
from handgrad.engine.checks import ConfigurationError, ShapeError
from handgrad.engine.layers.layer import Share

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)


def factors(seed, M, shape, zeros=False):
    """Random factors; with zeros, every third number or so is 0, so that one, two and all factors of some place are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(M, *shape))
    return np.where(rng.uniform(size=x.shape) < 0.4, 0, x) if zeros else x


@example((1, 1), 2, 0, False)
@example((17, 3), 3, 0, True)
@example((35, 1, 3, 3), 4, 0, True)
@given(SHAPES, st.integers(2, 4), st.integers(0, 99), st.booleans())
def test_kernel_is_the_literal_code(at_point, shape, M, seed, zeros):
    at_point(Multiply, *factors(seed, M, shape, zeros), seed=seed).check_literal()


@given(SHAPES, st.integers(2, 4), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, shape, M, seed):
    at_point(Multiply, *factors(seed, M, shape), seed=seed).check_single(terms=M)


@pytest.mark.parametrize("M", [2, 3, 4])
def test_finite_differences(at_point, M):
    at_point(Multiply, *factors(0, M, (2, 4))).check_differences()
    at_point(Multiply, *factors(0, M, (2, 9), zeros=True)).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_hand(at_point, dtype):
    point = at_point(Multiply, [[1, 2]], [[10, 20]], [[100, 200]], dtype=dtype, dL_dz=[[3, 4]])
    assert point.z.tolist() == [[1000, 8000]]
    assert [dL_dx.tolist() for dL_dx in point.dL_dx] == [[[3000, 16000]], [[300, 1600]], [[30, 160]]]


def test_none_one_two_and_three_factors_of_zero(at_point):
    point = at_point(Multiply, [[2, 0, 0, 0]], [[3, 3, 0, 0]], [[5, 5, 5, 0]], dL_dz=[[1, 1, 1, 1]])
    assert point.z.tolist() == [[30, 0, 0, 0]]
    assert [dL_dx.tolist() for dL_dx in point.dL_dx] == [[[15, 15, 0, 0]], [[10, 0, 0, 0]], [[6, 0, 0, 0]]]


def test_a_shut_gate_lets_nothing_through_and_gets_a_gradient(at_point):
    gate, f = [[1, 0.5, 0]], [[6, 6, 6]]
    point = at_point(Multiply, gate, f, dL_dz=[[10, 10, 10]])
    assert point.z.tolist() == [[6, 3, 0]]
    assert [dL_dx.tolist() for dL_dx in point.dL_dx] == [[[60, 60, 60]], [[10, 5, 0]]]


@pytest.mark.parametrize("M", [2, 3])
def test_one_node_several_times_is_a_power(close, rng, M):
    """d(x²) = 2 x dL/dz and d(x³) = 3 x² dL/dz, in x = 0 as well."""
    x, dL_dz = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    x[3, 2] = 0
    node = Input((5,))
    network = Network(node, Multiply()(*[node] * M), dtype="float64", threads=1)
    close(network.forward(x), x**M, 1e-15)
    close(network.backward(dL_dz), M * x ** (M - 1) * dL_dz, 1e-15)


def test_one_node_twice_beside_another(close, rng):
    x, y, dL_dz = rng.normal(size=(3, 20, 5))
    nodes = [Input((5,)), Input((5,))]
    network = Network(nodes, Multiply()(nodes[0], nodes[1], nodes[0]), dtype="float64", threads=1)
    close(network.forward([x, y]), x * x * y, 1e-15)
    dL_dx, dL_dy = network.backward(dL_dz)
    close(dL_dx, 2 * x * y * dL_dz, 1e-15)
    close(dL_dy, x * x * dL_dz, 1e-15)


@given(st.permutations(range(4)))
def test_order_does_not_matter(at_point, close, order):
    x, inverse = factors(0, 4, (3, 5)), np.argsort(order)
    one, other = at_point(Multiply, *x), at_point(Multiply, *x[list(order)])
    close(other.z, one.z, 1e-15)
    for m in range(4):
        close(other.dL_dx[inverse[m]], one.dL_dx[m], 1e-15)


def test_three_factors_are_two_times_two(close, rng):
    x, dL_dz = list(rng.normal(size=(3, 20, 5))), rng.normal(size=(20, 5))
    nodes, others = [Input((5,)) for _ in x], [Input((5,)) for _ in x]
    at_once = Network(nodes, Multiply()(*nodes), dtype="float64", threads=1)
    nested = Network(others, Multiply()(Multiply()(*others[:2]), others[2]), dtype="float64", threads=1)
    close(at_once.forward(x), nested.forward(x), 1e-15)
    for one, other in zip(at_once.backward(dL_dz), nested.backward(dL_dz), strict=True):
        close(one, other, 1e-15)


def test_a_product_of_sums_is_a_sum_of_products(close, rng):
    """(x + y) t = x t + y t, in value and in all three gradients."""
    x, dL_dz = list(rng.normal(size=(3, 20, 5))), rng.normal(size=(20, 5))
    (a, b, t), (c, d, u) = [Input((5,)) for _ in x], [Input((5,)) for _ in x]
    left = Network([a, b, t], Multiply()(Add()(a, b), t), dtype="float64", threads=1)
    right = Network([c, d, u], Add()(Multiply()(c, u), Multiply()(d, u)), dtype="float64", threads=1)
    close(left.forward(x), right.forward(x), 1e-15)
    for one, other in zip(left.backward(dL_dz), right.backward(dL_dz), strict=True):
        close(one, other, 1e-15)


@given(st.integers(2, 4), st.integers(0, 99))
def test_each_factor_times_its_gradient_is_the_same(at_point, close, M, seed):
    """x_m dL/dx_m = z dL/dz for all m (Euler's relation for a product)."""
    point = at_point(Multiply, *factors(seed, M, (5, 4)))
    for x, dL_dx in zip(point.x, point.dL_dx, strict=True):
        close(x * dL_dx, point.z * point.dL_dz, 1e-15)


def test_an_input_whose_gradient_nobody_needs_is_left_out(rng):
    x, z, dL_dz, dL_dx = tuple(rng.normal(size=(3, 2, 4, 16))), *rng.normal(size=(3, 2, 4, 16))
    upstream = dL_dz.copy()
    share = Share(x=x, z=z, dL_dz=dL_dz, dL_dx=(None, dL_dx, None))
    Multiply().forward(share)
    Multiply().backward(share)
    np.testing.assert_allclose(z, x[0] * x[1] * x[2], rtol=1e-15)
    np.testing.assert_allclose(dL_dx, dL_dz * x[0] * x[2], rtol=1e-15)
    np.testing.assert_array_equal(dL_dz, upstream)


def test_lanes_without_a_sample_have_no_gradient(at_point):
    point = at_point(Multiply, *factors(0, 3, (5, 4)))
    share = point.network.last_pass.active[0].shares[point.name]
    assert all((dL_dx[..., 5:] == 0).all() for dL_dx in share.dL_dx)


def test_a_second_pass_starts_from_nothing(at_point):
    point, fresh = at_point(Multiply, *factors(0, 3, (5, 4))), at_point(Multiply, *factors(1, 3, (5, 4)))
    np.testing.assert_array_equal(point.network.forward(fresh.x), fresh.z)
    for one, other in zip(point.network.backward(fresh.dL_dz), fresh.dL_dx, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_is_its_parts(at_point):
    at_point(Multiply, *factors(0, 3, (35, 3))).check_parts(18)


def test_two_threads_give_what_one_gives(at_point):
    x = factors(0, 3, (35, 3))
    one, two = at_point(Multiply, *x), at_point(Multiply, *x, threads=2)
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx, two.dL_dx)


def test_numbers_that_are_none_stay_in_their_place(at_point):
    x, y = np.ones((17, 4)), np.ones((17, 4))
    x[16] = [np.nan, np.inf, np.inf, -np.inf]
    y[16] = [1, 2, 0, 3]
    point = at_point(Multiply, x, y, dL_dz=np.ones((17, 4)))
    np.testing.assert_array_equal(point.z[16], [np.nan, np.inf, np.nan, -np.inf])
    np.testing.assert_array_equal(point.dL_dx[0][16], [1, 2, 0, 3])
    np.testing.assert_array_equal(point.dL_dx[1][16], [np.nan, np.inf, np.inf, -np.inf])
    assert (point.z[:16] == 1).all() and all((dL_dx[:16] == 1).all() for dL_dx in point.dL_dx)


@pytest.mark.parity
@given(SHAPES, st.integers(2, 4), st.integers(0, 99), st.booleans())
def test_pytorch_agrees(at_point, close, shape, M, seed, zeros):
    torch = pytest.importorskip("torch")
    point = at_point(Multiply, *factors(seed, M, shape, zeros))
    x = [torch.tensor(array, requires_grad=True) for array in point.x]
    z = x[0]
    for factor in x[1:]:
        z = z * factor
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-14)
    for mine, theirs in zip(point.dL_dx, x, strict=True):
        close(mine, theirs.grad.numpy(), 1e-14)


def test_errors_name_the_layer_and_the_shapes():
    with pytest.raises(ShapeError) as caught:
        Multiply(name="gate")(Input((3,)), Input((3,)), Input((4,)))
    assert str(caught.value) == "Multiply 'gate': got inputs of (3,) and (4,), expected inputs of one shape"
    with pytest.raises(ConfigurationError) as caught:
        Multiply(name="gate")(Input((3,)))
    assert str(caught.value) == "Multiply 'gate': got 1 inputs, expected two or more"


def test_shapes():
    assert Multiply()([Input((3, 4, 5)), Input((3, 4, 5))]).shape == (3, 4, 5)
