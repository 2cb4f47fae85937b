"""Local response normalization: kernels, literal code, finite differences, PyTorch and numbers by hand agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.engine import Input, LocalResponseNorm
from handgrad.engine.checks import ConfigurationError, ShapeError

SINGLE = float(np.finfo(np.float32).eps)


@st.composite
def configurations(draw):
    """Options of a layer, and the shape of a mini-batch: at most 4,000 values."""
    options = {
        "size": draw(st.integers(1, 9)),
        "alpha": draw(st.sampled_from([0, 1e-4, 0.5, 3])),
        "beta": draw(st.sampled_from([0.75, 0.75, 0.5, 1, 0.3, 2.5])),
        "k": draw(st.sampled_from([0.25, 1, 2])),
    }
    C, H, W = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    N = draw(st.sampled_from([1, 17, 35]) | st.integers(1, 40))
    return options, (max(1, min(N, 4_000 // (C * H * W))), C, H, W)


PAPER = ({"size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2}, (17, 8, 3, 3))
EVEN = ({"size": 4, "alpha": 2, "beta": 0.6, "k": 0.5}, (3, 7, 1, 2))
MORE_THAN_ALL = ({"size": 9, "alpha": 1, "beta": 0.75, "k": 1}, (35, 3, 2, 1))
ONE_CHANNEL = ({"size": 6, "alpha": 1, "beta": 0.75, "k": 1}, (1, 1, 5, 5))


@example(PAPER, 0)
@example(EVEN, 0)
@example(MORE_THAN_ALL, 0)
@example(ONE_CHANNEL, 0)
@given(configurations(), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, configuration, seed):
    options, shape = configuration
    x = 2 * np.random.default_rng(seed).normal(size=shape)
    at_point(lambda: LocalResponseNorm(**options), x, seed=seed).check_literal()


def parts(options, x, dL_dz):
    """Return d, both terms of dL/dx by the definition, and the sum of the absolute values of all that is added up."""
    size, alpha, beta, k = options.values()
    channels = np.arange(x.shape[1])
    distance = channels - channels[:, None]
    holds = ((-(size // 2) <= distance) & (distance <= (size - 1) // 2)).astype(float)  # window of the row, channel
    d = k + alpha / size * np.einsum("ec,ncab->neab", holds, x**2)
    dL_dd = -beta * dL_dz * x * d ** (-beta - 1)
    direct, through = dL_dz * d**-beta, 2 * alpha / size * x * np.einsum("ec,neab->ncab", holds, dL_dd)
    sizes = np.abs(direct) + 2 * alpha / size * np.abs(x) * np.einsum("ec,neab->ncab", holds, np.abs(dL_dd))
    return d, direct + through, sizes


@example(PAPER, 0)
@given(configurations(), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, configuration, seed):
    """d is off by (size + 3) eps, α and k rounded among them, d^β by β times that, and by that of β log d: its own
    rounding and that of β, of the logarithm and of the exponential function; the gradient has two such factors.
    """
    options, shape = configuration
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    single = at_point(lambda: LocalResponseNorm(**options), x, dtype="float32", seed=seed)
    double = at_point(lambda: LocalResponseNorm(**options), x, dL_dz=single.dL_dz)
    d, gradient, sizes = parts(options, double.x[0], double.dL_dz)
    size, beta = options["size"], options["beta"]
    limit = (beta * (size + 3) + 3 * beta * np.abs(np.log(d)).max() + 4) * SINGLE
    assert single.z.dtype == single.dL_dx[0].dtype == np.float32
    assert (np.abs(single.z - double.z) <= limit * np.abs(double.z)).all()
    assert (np.abs(single.dL_dx[0] - gradient) <= (2 * limit + (2 * size + 10) * SINGLE) * sizes).all()


@given(configurations(), st.integers(0, 99))
def test_it_is_the_formula(at_point, close, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: LocalResponseNorm(**options), 3 * np.random.default_rng(seed).normal(size=shape))
    d, gradient, _ = parts(options, point.x[0], point.dL_dz)
    close(point.z, point.x[0] / d ** options["beta"], 1e-13)
    close(point.dL_dx[0], gradient, 1e-12)


@pytest.mark.parametrize("configuration", [EVEN, ({"size": 5, "alpha": 3, "beta": 0.75, "k": 1}, (2, 6, 2, 2))])
def test_finite_differences(at_point, rng, configuration):
    options, shape = configuration
    at_point(lambda: LocalResponseNorm(**options), rng.normal(size=shape)).check_differences()


def test_by_hand(at_point, close):
    """d = 1 + 1 + 4, 1 + 1 + 4 + 9 and 1 + 4 + 9; dL/dd of the first channel is -1/36."""
    x, dL_dz = np.array([1, 2, 3]).reshape(1, 3, 1, 1), np.array([1, 0, 0]).reshape(1, 3, 1, 1)
    point = at_point(lambda: LocalResponseNorm(3, alpha=3, beta=1, k=1), x, dL_dz=dL_dz)
    close(point.z[0, :, 0, 0], [1 / 6, 2 / 15, 3 / 14], 1e-15)
    close(point.dL_dx[0][0, :, 0, 0], [1 / 6 - 2 / 36, -4 / 36, 0], 1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_three_quarters_by_hand(at_point, dtype):
    """d = 15 + 1 = 16, and 16^(3/4) = 8."""
    point = at_point(lambda: LocalResponseNorm(1, alpha=1, k=15), np.ones((1, 1, 1, 1)), dtype=dtype, dL_dz=[[[[1]]]])
    assert point.z.item() == 1 / 8
    assert point.dL_dx[0].item() == pytest.approx(1 / 8 - 2 * 0.75 / 8 / 16, rel=4 * float(np.finfo(dtype).eps))


def test_numbers_of_the_paper(at_point, close, rng):
    """b_i = a_i / (k + α Σ a_j²)^β over j from max(0, i - n/2) to min(N - 1, i + n/2), α not divided by n."""
    k, n, alpha, beta, N = 2, 5, 1e-4, 0.75, 9
    a = 100 * rng.random((3, N, 2, 2))
    b = np.empty(a.shape)
    for i in range(N):
        squares = (a[:, max(0, i - n // 2) : min(N - 1, i + n // 2) + 1] ** 2).sum(axis=1)
        b[:, i] = a[:, i] / (k + alpha * squares) ** beta
    close(at_point(lambda: LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2), a).z, b, 1e-14)


def test_a_window_of_even_size_reaches_further_back(at_point):
    """One strong channel damps those whose windows hold it: with size 2 itself and the next."""
    x = np.ones((1, 6, 1, 1))
    x[0, 2] = 10
    ones = at_point(lambda: LocalResponseNorm(2, alpha=1, k=1), np.ones((1, 6, 1, 1)))
    strong = at_point(lambda: LocalResponseNorm(2, alpha=1, k=1), x)
    assert (strong.z != ones.z)[0, :, 0, 0].tolist() == [False, False, True, True, False, False]
    assert strong.z[0, 3] < ones.z[0, 3]
    assert ones.z[0, 0] > ones.z[0, 1]  # before the first channel there is nothing


@pytest.mark.parametrize("k", [1, 4])
def test_without_alpha_it_only_divides_by_a_number(at_point, close, rng, k):
    point = at_point(lambda: LocalResponseNorm(alpha=0, beta=0.5, k=k), rng.normal(size=(17, 4, 2, 2)))
    close(point.z, point.x[0] / math.sqrt(k), 1e-15)
    close(point.dL_dx[0], point.dL_dz / math.sqrt(k), 1e-15)


@given(configurations(), st.integers(0, 99), st.floats(0.1, 10))
def test_scaling_x_and_the_root_of_k_scales_z(at_point, close, configuration, seed, factor):
    """d(t x; t² k) = t² d(x; k), so z grows by t^(1 - 2β), and its derivative by t^(-2β)."""
    options, shape = configuration
    scaled = options | {"k": options["k"] * factor**2}
    x = np.random.default_rng(seed).normal(size=shape)
    one = at_point(lambda: LocalResponseNorm(**options), x)
    other = at_point(lambda: LocalResponseNorm(**scaled), factor * x, dL_dz=one.dL_dz)
    close(other.z, factor ** (1 - 2 * options["beta"]) * one.z, 1e-12)
    close(other.dL_dx[0], factor ** (-2 * options["beta"]) * one.dL_dx[0], 1e-12)


def test_signs_pass_through_and_zeros_stay(at_point, rng):
    x = rng.normal(size=(5, 6, 2, 3))
    x[:, 2] = 0
    one = at_point(lambda: LocalResponseNorm(alpha=2), x)
    other = at_point(lambda: LocalResponseNorm(alpha=2), -x)
    np.testing.assert_array_equal(other.z, -one.z)
    np.testing.assert_array_equal(other.dL_dx[0], one.dL_dx[0])
    np.testing.assert_array_equal(np.sign(one.z), np.sign(x))


def test_pixels_do_not_see_each_other(at_point, rng):
    x = rng.normal(size=(3, 6, 2, 4))
    one = at_point(lambda: LocalResponseNorm(alpha=2), x)
    order = rng.permutation(8)
    moved = x.reshape(3, 6, 8)[:, :, order].reshape(3, 6, 4, 2)
    other = at_point(
        lambda: LocalResponseNorm(alpha=2), moved, dL_dz=one.dL_dz.reshape(3, 6, 8)[:, :, order].reshape(3, 6, 4, 2)
    )
    np.testing.assert_array_equal(other.z.reshape(3, 6, 8), one.z.reshape(3, 6, 8)[:, :, order])
    np.testing.assert_array_equal(other.dL_dx[0].reshape(3, 6, 8), one.dL_dx[0].reshape(3, 6, 8)[:, :, order])


@pytest.mark.parametrize("size", [7, 8, 100, 10**30])
def test_a_window_over_all_channels_knows_no_order(at_point, close, rng, size):
    x, order = rng.normal(size=(3, 4, 2, 2)), rng.permutation(4)
    alpha = float(size)  # so that α / size is 1 for each of them
    one = at_point(lambda: LocalResponseNorm(size, alpha=alpha), x)
    other = at_point(lambda: LocalResponseNorm(size, alpha=alpha), x[:, order], dL_dz=one.dL_dz[:, order])
    close(one.z, x / (1 + (x**2).sum(axis=1, keepdims=True)) ** 0.75, 1e-14)
    close(other.z, one.z[:, order], 1e-14)
    close(other.dL_dx[0], one.dL_dx[0][:, order], 1e-13)


@pytest.mark.parametrize("beta", [0.75, 0.7])
def test_a_large_value_leaves_no_trace_outside_its_window(at_point, rng, beta):
    """A running sum of squares would be off by the rounding of 1e16, or even negative."""
    x = rng.normal(size=(3, 9, 2, 2)).astype(np.float32)
    large = x.copy()
    large[:, 2] = 1e8
    one, other = (
        at_point(lambda: LocalResponseNorm(3, alpha=1, beta=beta), values, dtype="float32") for values in (x, large)
    )
    np.testing.assert_array_equal(one.z[:, 4:], other.z[:, 4:])
    np.testing.assert_array_equal(one.dL_dx[0][:, 5:], other.dL_dx[0][:, 5:])


@pytest.mark.parametrize("beta", [0.75, 0.7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("large", [1e10, 1e15])
def test_large_values_do_not_overflow(at_point, dtype, beta, large):
    """d is near 1e30 / 2, so that its third power, which a quicker way to take the root could need, has no float32."""
    point = at_point(lambda: LocalResponseNorm(2, alpha=1, beta=beta), np.full((17, 2, 3, 3), large), dtype=dtype)
    with np.errstate(over="ignore"):
        expected = large / np.array([large**2 / 2, large**2]) ** beta
    limit = (3 * beta * math.log(large**2) + 8) * np.finfo(dtype).eps  # β log d is rounded, and then a power of e
    np.testing.assert_allclose(point.z, np.broadcast_to(expected[:, None, None], point.z.shape), rtol=limit)
    assert np.isfinite(point.dL_dx[0]).all()


@pytest.mark.parametrize("beta", [0.75, 0.7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_stays_at_its_pixel(at_point, rng, bad, dtype, beta):
    x = rng.normal(size=(20, 6, 3, 3))
    x[17, 3, 1, 2] = bad
    point = at_point(lambda: LocalResponseNorm(3, alpha=1, beta=beta), x, dtype=dtype)
    spoilt, near = np.zeros(x.shape, dtype=bool), np.zeros(x.shape, dtype=bool)
    spoilt[17, 2:5, 1, 2] = True
    near[17, 1:6, 1, 2] = True
    assert np.isnan(point.z[17, 3, 1, 2])
    np.testing.assert_array_equal(point.z[17, [2, 4], 1, 2], np.nan if np.isnan(bad) else 0)  # damped by an infinity
    assert np.isfinite(point.z[~spoilt]).all()
    assert np.isnan(point.dL_dx[0][17, 3, 1, 2]) and np.isfinite(point.dL_dx[0][~near]).all()


def test_a_batch_is_its_parts(at_point, rng):
    at_point(lambda: LocalResponseNorm(alpha=1), rng.normal(size=(35, 7, 2, 3))).check_parts(18)


def test_two_threads_are_one(at_point, rng):
    x = rng.normal(size=(35, 7, 2, 3))
    one, two = (at_point(lambda: LocalResponseNorm(alpha=1), x, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])


@pytest.mark.parametrize("beta", [0.75, 0.7])
def test_lanes_behind_the_last_sample_send_no_gradient(at_point, rng, beta):
    point = at_point(
        lambda: LocalResponseNorm(alpha=1, beta=beta, k=1e-20), rng.normal(size=(18, 5, 2, 2)), dtype="float32"
    )
    share = point.network.last_pass.active[0].shares[point.name]
    assert not share.dL_dx[0][1, ..., 2:].any() and share.dL_dx[0][1, ..., :2].all()


def test_a_second_pass_overwrites_the_first(at_point, rng):
    point = at_point(lambda: LocalResponseNorm(alpha=1), rng.normal(size=(18, 5, 2, 2)))
    first = point.z.copy(), point.dL_dx[0].copy()
    point.network.forward([10 + point.x[0]])
    point.network.backward(10 + point.dL_dz)
    np.testing.assert_array_equal(point.network.forward(point.x), first[0])
    for _ in range(2):  # the backward pass leaves what it reads as it was
        np.testing.assert_array_equal(point.network.backward(point.dL_dz)[0], first[1])


def test_nobody_needs_the_gradient(at_point, rng):
    point = at_point(LocalResponseNorm, rng.normal(size=(2, 3, 2, 2)))
    share = point.network.last_pass.active[0].shares[point.name]
    share.dL_dx = (None,)
    point.layer.backward(share)


@pytest.mark.parity
@example(PAPER, 0)
@example(EVEN, 0)
@example(MORE_THAN_ALL, 0)
@example(ONE_CHANNEL, 0)
@given(configurations(), st.integers(0, 99))
def test_pytorch_agrees(at_point, close, configuration, seed):
    torch = pytest.importorskip("torch")
    options, shape = configuration
    point = at_point(lambda: LocalResponseNorm(**options), 3 * np.random.default_rng(seed).normal(size=shape))
    x = torch.tensor(point.x[0], requires_grad=True)
    z = torch.nn.functional.local_response_norm(x, **options)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-12)
    close(point.dL_dx[0], x.grad.numpy(), 1e-12)


def test_defaults_are_those_of_pytorch():
    assert LocalResponseNorm().settings() == {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "LocalResponseNorm 'n1': size: got 0, expected an integer of at least 1"),
        ({"size": 2.0}, "LocalResponseNorm 'n1': size: got 2.0, expected an integer of at least 1"),
        ({"alpha": -1e-4}, "LocalResponseNorm 'n1': alpha: got -0.0001, expected a number from 0 up to 1e+30"),
        ({"alpha": np.nan}, "LocalResponseNorm 'n1': alpha: got nan, expected a number from 0 up to 1e+30"),
        ({"beta": 0}, "LocalResponseNorm 'n1': beta: got 0, expected a number above 0 up to 1e+30"),
        ({"beta": "1"}, "LocalResponseNorm 'n1': beta: got '1', expected a number above 0 up to 1e+30"),
        ({"k": 0}, "LocalResponseNorm 'n1': k: got 0, expected a number above 0 up to 1e+30"),
        ({"k": -1.0}, "LocalResponseNorm 'n1': k: got -1.0, expected a number above 0 up to 1e+30"),
        ({"k": True}, "LocalResponseNorm 'n1': k: got True, expected a number above 0 up to 1e+30"),
        ({"k": math.inf}, "LocalResponseNorm 'n1': k: got inf, expected a number above 0 up to 1e+30"),
        ({"k": 1e-20, "beta": 2}, "LocalResponseNorm 'n1': k: got 1e-20 with beta 2, expected at least 1e-30, with k^(-beta)"
                                  " up to 1e+30; use a larger k or a smaller beta"),
        ({"k": 1e-40}, "LocalResponseNorm 'n1': k: got 1e-40 with beta 0.75, expected at least 1e-30, with k^(-beta)"
                       " up to 1e+30; use a larger k or a smaller beta"),
    ],
)  # fmt: skip
def test_options_are_checked_when_the_layer_is_made(options, message):
    with pytest.raises(ConfigurationError) as caught:
        LocalResponseNorm(**({"name": "n1"} | options))
    assert str(caught.value) == message


def test_only_images_have_channels():
    with pytest.raises(ShapeError) as caught:
        LocalResponseNorm(name="n1")(Input((10,)))
    assert (
        str(caught.value)
        == "LocalResponseNorm 'n1': got an input of 10, expected an image of channels x rows x columns"
    )
    assert LocalResponseNorm()(Input((96, 3, 5))).shape == (96, 3, 5)
