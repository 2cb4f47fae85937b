"""Step: kernels, literal code, the derivative that is 0, and surrogates that say that they are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import step as derivation
from handgrad.engine import Dense, Input, Network, Step
from handgrad.engine.checks import ConfigurationError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)
SURROGATES = ("straight-through", "sigmoid", "triangle")
SLOPES = {
    "straight-through": np.ones_like,
    "sigmoid": lambda z: 1 / (2 + np.exp(z) + np.exp(-z)),  # σ (1 - σ), multiplied out
    "triangle": lambda z: np.clip(1 - np.abs(z), 0, None),
}


def test_every_surrogate_is_tested():
    assert derivation.SURROGATES == SURROGATES == tuple(SLOPES)


@given(SHAPES, st.integers(0, 99), st.booleans(), st.sampled_from([None, *SURROGATES]))
def test_kernel_is_the_literal_code(at_point, shape, seed, jumps, surrogate):
    rng = np.random.default_rng(seed)
    z = rng.integers(-1, 2, size=shape) if jumps else rng.normal(size=shape)
    at_point(lambda: Step(surrogate), z, seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99), st.sampled_from([None, *SURROGATES]))
def test_float32_is_float64(at_point, shape, seed, surrogate):
    """Values are exact; of the slopes the sigmoid's rounds most: exp (2 eps), sum, square, product and quotient."""
    z = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    single = at_point(lambda: Step(surrogate), z, dtype="float32")
    double = at_point(lambda: Step(surrogate), z, dL_dz=single.dL_dz)
    np.testing.assert_array_equal(single.z, double.z)
    limit = {None: 0, "straight-through": 0, "sigmoid": 10, "triangle": 2}[surrogate] * np.finfo(np.float32).eps
    assert single.dL_dx[0].dtype == np.float32
    assert (np.abs(single.dL_dx[0] - double.dL_dx[0]) <= limit * np.abs(single.dL_dz)).all()


def test_finite_differences_are_the_gradient_and_not_the_surrogates(at_point, rng):
    z = rng.uniform(0.1, 0.9, size=(3, 8)) * np.sign(rng.normal(size=(3, 8)))  # away from the jump
    at_point(Step, z).check_differences()
    for surrogate in SURROGATES:
        with pytest.raises(AssertionError, match="gradient of x0"):
            at_point(lambda surrogate=surrogate: Step(surrogate), z).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_hand(at_point, dtype):
    z, dL_da = [[-2, -0.25, 0, -0.0, 1e-30, -1e-30, 0.5, 1, 3]], [[8, 8, 8, 8, 8, 8, 8, 8, 8]]
    point = at_point(Step, z, dtype=dtype, dL_dz=dL_da)
    assert point.z.tolist() == [[0, 0, 1, 1, 1, 0, 1, 1, 1]], "0 and -0 fire"
    assert point.dL_dx[0].tolist() == [[0] * 9]
    through = at_point(lambda: Step("straight-through"), z, dtype=dtype, dL_dz=dL_da)
    assert through.dL_dx[0].tolist() == dL_da
    triangle = at_point(lambda: Step("triangle"), z, dtype=dtype, dL_dz=dL_da)
    assert triangle.dL_dx[0].tolist() == [[0, 6, 8, 8, 8, 8, 4, 0, 0]]


def test_sigmoid_slope_by_hand(at_point, close):
    z = [[0, math.log(3), -math.log(3), math.log(9)]]
    point = at_point(lambda: Step("sigmoid"), z, dL_dz=[[1, 1, 1, 1]])
    close(point.dL_dx[0], [[0.25, 0.1875, 0.1875, 0.09]], 1e-15)


@given(SHAPES, st.integers(0, 99), st.sampled_from(SURROGATES))
def test_a_surrogate_multiplies_by_its_slope_and_leaves_the_value_alone(at_point, close, shape, seed, surrogate):
    z = 2 * np.random.default_rng(seed).normal(size=shape)
    point, plain = at_point(lambda: Step(surrogate), z, seed=seed), at_point(Step, z, seed=seed)
    np.testing.assert_array_equal(point.z, plain.z)
    assert not plain.dL_dx[0].any()
    close(point.dL_dx[0], point.dL_dz * SLOPES[surrogate](z), 1e-14)


@given(st.integers(0, 99))
def test_mirrored_inputs_fire_where_the_others_do_not(at_point, seed):
    z = np.random.default_rng(seed).normal(size=(4, 6))
    one, other = at_point(lambda: Step("triangle"), z), at_point(lambda: Step("triangle"), -z)
    np.testing.assert_array_equal(one.z + other.z, np.ones_like(z))
    np.testing.assert_array_equal(one.dL_dx[0], other.dL_dx[0])  # the slopes are even


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("surrogate", [None, *SURROGATES])
def test_a_number_that_is_none_survives_in_its_place(at_point, dtype, surrogate):
    z = np.ones((20, 3))
    z[17] = [np.nan, np.inf, -np.inf]
    point = at_point(lambda: Step(surrogate), z, dtype=dtype)
    np.testing.assert_array_equal(point.z[17], [np.nan, 1, 0])
    np.testing.assert_array_equal(np.delete(point.z, 17, axis=0), np.ones((19, 3)))
    dL_dz = point.dL_dx[0]
    assert np.isfinite(np.delete(dL_dz, 17, axis=0)).all()
    assert np.isnan(dL_dz[17, 0]) == (surrogate in ("sigmoid", "triangle"))
    expected = point.dL_dz[17, 1:] if surrogate == "straight-through" else [0, 0]
    np.testing.assert_array_equal(dL_dz[17, 1:], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_gradient_is_0_even_for_an_upstream_gradient_that_is_no_number(at_point, bad):
    assert at_point(Step, [[-1.0, 0.0, 1.0]], dL_dz=[[bad, bad, bad]]).dL_dx[0].tolist() == [[0, 0, 0]]


def test_nothing_before_a_step_learns_unless_a_surrogate_is_named(rng):
    def gradient(surrogate):
        x = Input((4,))
        network = Network(x, Step(surrogate)(Dense(3, name="fc")(x)), dtype="float64", threads=1)
        network.forward(rng.normal(size=(5, 4)))
        network.backward(rng.normal(size=(5, 3)))
        return network.gradients["fc.W"].copy()

    assert not gradient(None).any()
    assert all(gradient(surrogate).any() for surrogate in SURROGATES)


def test_a_batch_is_its_parts(at_point, rng):
    at_point(lambda: Step("sigmoid"), rng.normal(size=(35, 2, 3, 3))).check_parts(18)


@pytest.mark.parametrize("surrogate", [None, *SURROGATES])
def test_two_threads_give_what_one_gives(at_point, rng, surrogate):
    z = rng.normal(size=(70, 5))
    one, two = (at_point(lambda: Step(surrogate), z, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])


def test_buffers_are_overwritten(at_point, rng):
    """A second pass through the same buffers leaves nothing of the first."""
    for surrogate in (None, *SURROGATES):
        z = rng.normal(size=(5, 3))
        point = at_point(lambda surrogate=surrogate: Step(surrogate), np.full((5, 3), np.nan))
        fresh = at_point(lambda surrogate=surrogate: Step(surrogate), z)
        np.testing.assert_array_equal(point.network.forward([z]), fresh.z)
        np.testing.assert_array_equal(point.network.backward(fresh.dL_dz)[0], fresh.dL_dx[0])


def test_decisions_say_who_fires(at_point):
    point = at_point(Step, [[-1.0, 0.0, 2.0, np.nan]])
    share = point.network.last_pass.active[0].shares[point.name]
    assert point.layer.decisions(share)[0, :, 0].tolist() == [False, True, True, False]


def test_the_layer_declares_its_surrogate():
    assert Step().settings() == {"surrogate": None} and not Step().is_surrogate
    for surrogate in SURROGATES:
        layer = Step(surrogate)
        assert layer.settings() == layer.literal_options() == {"surrogate": surrogate} and layer.is_surrogate
        assert "NOT the derivative" in " ".join(Step.__doc__.split())


@pytest.mark.parametrize("wrong", ["ste", "", "Sigmoid", True, 1, ["sigmoid"], np.array(["sigmoid"])])
def test_an_unknown_surrogate_is_refused(wrong):
    with pytest.raises(ConfigurationError) as caught:
        Step(wrong, name="fire")
    assert str(caught.value) == (
        f"Step 'fire': surrogate: got {wrong!r}, expected None or one of 'straight-through', 'sigmoid', 'triangle'"
    )
    with pytest.raises(ValueError, match="^step: got surrogate .*, expected None or one of"):
        derivation.backward(np.ones(1), np.ones(1), surrogate="ste")


def test_any_shape():
    assert Step()(Input((3, 4, 5))).shape == (3, 4, 5)


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.booleans())
def test_pytorch_agrees(at_point, close, shape, seed, jumps):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, 2, size=shape).astype(float) if jumps else rng.normal(size=shape)
    z = torch.tensor(values, requires_grad=True)
    value_at_0 = torch.tensor(1.0, dtype=torch.float64)
    point = at_point(Step, values)
    np.testing.assert_array_equal(point.z, torch.heaviside(z.detach(), value_at_0).numpy())

    hard = torch.heaviside(z.detach(), value_at_0)
    ramp = torch.where(z < 0, (1 + z) ** 2 / 2, 1 - (1 - z) ** 2 / 2)
    ramp = torch.where(z.detach().abs() < 1, ramp, hard)
    for surrogate, soft in {"straight-through": z * 1, "sigmoid": torch.sigmoid(z), "triangle": ramp}.items():
        point = at_point(lambda surrogate=surrogate: Step(surrogate), values, seed=seed)
        a = soft + (hard - soft).detach()  # the value of the step, the slope of its stand-in
        (dL_dz,) = torch.autograd.grad(a, z, torch.tensor(point.dL_dz), allow_unused=True)
        close(a.detach().numpy(), point.z, 1e-14)
        np.testing.assert_allclose(point.dL_dx[0], dL_dz.numpy(), rtol=0, atol=1e-12)
