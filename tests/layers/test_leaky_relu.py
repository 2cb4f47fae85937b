"""Leaky ReLU: kernels, literal code, finite differences, the notes' function and numbers by hand agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Input, LeakyReLU, ReLU
from handgrad.engine.checks import ConfigurationError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)
ANY_SLOPE = st.floats(0, 0.99)


@given(SHAPES, st.integers(0, 99), st.booleans(), ANY_SLOPE)
def test_kernel_is_the_literal_code(at_point, shape, seed, kinks, slope):
    rng = np.random.default_rng(seed)
    z = rng.integers(-1, 2, size=shape) if kinks else rng.normal(size=shape)
    at_point(lambda: LeakyReLU(slope), z, seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99), st.floats(0.01, 0.99))
def test_float32_is_float64_but_for_rounding(at_point, shape, seed, slope):
    """The slope and a product are rounded, eps/2 each; numbers above 0 are copied."""
    z = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    single = at_point(lambda: LeakyReLU(slope), z, dtype="float32")
    double = at_point(lambda: LeakyReLU(slope), z, dL_dz=single.dL_dz)
    limit = np.where(z > 0, 0, 1.01 * np.finfo(np.float32).eps)
    assert single.z.dtype == single.dL_dx[0].dtype == np.float32
    assert (np.abs(single.z - double.z) <= limit * np.abs(double.z)).all()
    assert (np.abs(single.dL_dx[0] - double.dL_dx[0]) <= limit * np.abs(double.dL_dx[0])).all()


@pytest.mark.parametrize("slope", [0, 0.01, 0.3])
def test_finite_differences_away_from_the_kink(at_point, rng, slope):
    z = rng.normal(size=(3, 8))
    at_point(lambda: LeakyReLU(slope), np.where(np.abs(z) < 0.01, 1.0, z)).check_differences()


def test_the_function_of_the_notes(at_point, rng):
    """S3 writes f(x) = max(.01 x, x), and a function leaky_relu(x) that asks whether x < 0."""
    z = rng.normal(size=(20, 5))
    point = at_point(LeakyReLU, z)
    np.testing.assert_array_equal(point.z, np.maximum(0.01 * z, z))
    np.testing.assert_array_equal(point.z, np.where(z < 0, z * 0.01, z))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_hand(at_point, dtype):
    point = at_point(
        lambda: LeakyReLU(0.25), [[-2, 0, -0.0, 3, 1e-30, -1e-30]], dtype=dtype, dL_dz=[[4, 8, 8, 8, 8, 8]]
    )
    number = np.dtype(dtype).type
    assert point.z.tolist() == [[-0.5, 0, 0, 3, number(1e-30), number(0.25) * number(-1e-30)]]
    assert point.dL_dx[0].tolist() == [[1, 2, 2, 8, 8, 2]], "at the kink the slope of the left side"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_number_that_is_none_survives_in_its_place(at_point, dtype):
    z = np.ones((20, 3))
    z[17] = [np.nan, np.inf, -np.inf]
    point = at_point(lambda: LeakyReLU(0.5), z, dtype=dtype)
    np.testing.assert_array_equal(point.z[17], [np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(np.delete(point.z, 17, axis=0), np.ones((19, 3)))
    np.testing.assert_array_equal(point.dL_dx[0][17], point.dL_dz[17] * [0.5, 1, 0.5])


def test_nan_in_the_upstream_gradient_is_not_hidden(at_point):
    point = at_point(LeakyReLU, [[-1.0, 1.0, -1.0]], dL_dz=[[np.nan, np.nan, 1]])
    np.testing.assert_array_equal(point.dL_dx[0], [[np.nan, np.nan, 0.01]])


@given(st.floats(0.01, 100), ANY_SLOPE, st.integers(0, 99))
def test_scaling_the_input_scales_the_output(at_point, close, factor, slope, seed):
    z = np.random.default_rng(seed).normal(size=(3, 4))
    one, other = at_point(lambda: LeakyReLU(slope), z), at_point(lambda: LeakyReLU(slope), factor * z)
    close(other.z, factor * one.z, 1e-15)
    np.testing.assert_array_equal(one.dL_dx[0], other.dL_dx[0])


@given(SHAPES, st.integers(0, 99), ANY_SLOPE)
def test_it_is_a_mixture_of_a_relu_and_the_identity(at_point, close, shape, seed, slope):
    z = np.random.default_rng(seed).normal(size=shape)
    leaky, relu = at_point(lambda: LeakyReLU(slope), z), at_point(ReLU, z)
    close(leaky.z, (1 - slope) * relu.z + slope * z, 1e-15)
    close(leaky.dL_dx[0], (1 - slope) * relu.dL_dx[0] + slope * relu.dL_dz, 1e-15)


def test_slope_0_is_a_relu(at_point, rng):
    z = rng.normal(size=(17, 3))
    leaky, relu = at_point(lambda: LeakyReLU(0), z), at_point(ReLU, z)
    np.testing.assert_array_equal(leaky.z, relu.z)
    np.testing.assert_array_equal(leaky.dL_dx[0], relu.dL_dx[0])


def test_no_unit_is_dead(at_point):
    assert at_point(LeakyReLU, [[-5.0, -1e9]], dL_dz=[[1, 1]]).dL_dx[0].tolist() == [[0.01, 0.01]]


def test_a_batch_is_its_parts(at_point, rng):
    at_point(LeakyReLU, rng.normal(size=(35, 2, 3, 3))).check_parts(18)


def test_two_threads_give_what_one_gives(at_point, rng):
    z = rng.normal(size=(70, 5))
    one, two = (at_point(LeakyReLU, z, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])


def test_decisions_say_which_units_are_positive(at_point):
    point = at_point(LeakyReLU, [[-1.0, 0.0, 2.0]])
    share = point.network.last_pass.active[0].shares[point.name]
    assert point.layer.decisions(share)[0, :, 0].tolist() == [False, False, True]


def test_settings():
    assert LeakyReLU().settings() == LeakyReLU().literal_options() == {"slope": 0.01}
    assert LeakyReLU(np.float32(0.5)).settings() == {"slope": 0.5}


@pytest.mark.parametrize("wrong", [1, 1.5, -0.01, float("nan"), float("inf"), True, "0.1", None, 1j])
def test_a_slope_without_a_meaning_is_refused(wrong):
    with pytest.raises(ConfigurationError) as caught:
        LeakyReLU(wrong, name="leak")
    assert str(caught.value) == f"LeakyReLU 'leak': slope: got {wrong!r}, expected a number from 0 up to below 1"


def test_any_shape():
    assert LeakyReLU()(Input((3, 4, 5))).shape == (3, 4, 5)


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.booleans(), ANY_SLOPE)
def test_pytorch_agrees(at_point, shape, seed, kinks, slope):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, 2, size=shape).astype(float) if kinks else rng.normal(size=shape)
    point = at_point(lambda: LeakyReLU(slope), values, seed=seed)
    z = torch.tensor(values, requires_grad=True)
    a = torch.nn.functional.leaky_relu(z, slope)
    a.backward(torch.tensor(point.dL_dz))
    np.testing.assert_allclose(point.z, a.detach().numpy(), rtol=1e-15)
    np.testing.assert_allclose(point.dL_dx[0], z.grad.numpy(), rtol=1e-15)
