"""Max pooling: kernels, literal code, finite differences, PyTorch and numbers by hand agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from handgrad.derivations import maxpool2d as derivation
from handgrad.engine import Input, MaxPool2D
from handgrad.engine.checks import ConfigurationError, ShapeError

SIZES = st.sampled_from([(2, 2), (3, 3), (3, 2), (1, 3)])  # few, for each is compiled on its own
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
NOTES = [[[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]]  # the image of S2's average pooling


@st.composite
def configurations(draw):
    """Options of a layer, and the shape of a mini-batch it fits."""
    size, stride = draw(SIZES), draw(st.none() | st.integers(1, 4) | PAIR)
    rows, columns = st.integers(0, size[0] - 1), st.integers(0, size[1] - 1)
    padding = draw(
        st.sampled_from(["same", "valid"]) | st.tuples(rows, columns) | st.tuples(rows, rows, columns, columns)
    )
    options = {"size": size, "stride": stride, "padding": padding}
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    try:
        _, P, Q = MaxPool2D(**options)(Input(shape[1:])).shape
    except ShapeError:
        assume(False)
    assume(shape[0] * shape[1] * P * Q * size[0] * size[1] <= 20_000)
    return options, shape


OVERLAPPING = ({"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 0, 1)}, (17, 3, 6, 5))


@example(OVERLAPPING, 0, False)
@example(OVERLAPPING, 0, True)
@given(configurations(), st.integers(0, 99), st.booleans())
def test_kernel_is_the_literal_code(at_point, configuration, seed, ties):
    options, shape = configuration
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 1, size=shape) if ties else rng.normal(size=shape)
    at_point(lambda: MaxPool2D(**options), x, seed=seed).check_literal()


@given(configurations(), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, close, configuration, seed):
    """The value is a copy, and so exact; a gradient is the sum of at most 9 others, rounded after each of them."""
    options, shape = configuration
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    single = at_point(lambda: MaxPool2D(**options), x, dtype="float32")
    double = at_point(lambda: MaxPool2D(**options), x, dL_dz=single.dL_dz)
    np.testing.assert_array_equal(single.z, double.z)
    close(single.dL_dx[0], double.dL_dx[0], 9 * 9 * np.finfo(np.float32).eps)


def test_finite_differences(at_point, rng):
    distinct = rng.permutation(2 * 2 * 6 * 5).reshape(2, 2, 6, 5) * 0.1  # neighbours differ by far more than h
    options, _ = OVERLAPPING
    at_point(lambda: MaxPool2D(**options), distinct).check_differences()


def test_image_of_the_notes(at_point):
    point = at_point(lambda: MaxPool2D(2), [NOTES], dL_dz=[[[[10, 20], [30, 40]]]])
    assert point.z.tolist() == [[[[9, 2], [6, 3]]]]
    assert point.dL_dx[0].tolist() == [[[[0, 0, 20, 0], [0, 10, 0, 0], [0, 0, 0, 40], [0, 30, 0, 0]]]]


def test_one_winner_of_many_windows_gets_the_sum(at_point):
    point = at_point(lambda: MaxPool2D(3, stride=1), [NOTES], dL_dz=[[[[10, 20], [30, 40]]]])
    assert point.z.tolist() == [[[[9, 9], [9, 9]]]]
    assert point.dL_dx[0].tolist() == [[[[0, 0, 0, 0], [0, 100, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]]


def test_the_first_of_equal_values_wins(at_point):
    point = at_point(lambda: MaxPool2D(2), np.ones((1, 1, 2, 2)), dL_dz=[[[[5]]]])
    assert point.dL_dx[0].tolist() == [[[[5, 0], [0, 0]]]]


def test_the_border_never_wins(at_point, rng):
    x = -rng.uniform(1, 9, size=(3, 2, 5, 5))
    point = at_point(lambda: MaxPool2D(3, stride=2, padding=1), x)
    assert (point.z < 0).all()
    assert point.z[0, 0, 0, 0] == x[0, 0, :2, :2].max()
    assert point.z[2, 1, 2, 2] == x[2, 1, 3:, 3:].max()


@given(configurations(), st.integers(0, 99))
def test_gradient_is_moved_and_neither_made_nor_lost(at_point, close, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: MaxPool2D(**options), np.random.default_rng(seed).normal(size=shape))
    close(point.dL_dx[0].sum(axis=(2, 3)), point.dL_dz.sum(axis=(2, 3)), 1e-12)
    assert (np.count_nonzero(point.dL_dx[0], axis=(2, 3)) <= np.prod(point.z.shape[2:])).all()


@given(configurations(), st.integers(0, 99))
def test_each_value_is_a_pixel_and_none_in_its_window_is_larger(at_point, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: MaxPool2D(**options), np.random.default_rng(seed).normal(size=shape))
    (fh, fw), (sh, sw), (top, _, left, _) = point.layer.settings().values()
    for h, q in np.ndindex(*point.z.shape[2:]):
        row, column = sh * h - top, sw * q - left
        window = point.x[0][:, :, max(row, 0) : row + fh, max(column, 0) : column + fw]
        np.testing.assert_array_equal(point.z[:, :, h, q], window.max(axis=(2, 3)))


def test_a_batch_is_its_parts(at_point, rng):
    at_point(lambda: MaxPool2D(2, stride=1), rng.normal(size=(35, 2, 4, 4))).check_parts(18)


@pytest.mark.parametrize("padding", [0, 1])
def test_nan_wins_its_windows_and_stays_in_its_sample(at_point, rng, padding):
    x = rng.normal(size=(20, 2, 5, 5))
    x[17, 1, 2, 2] = np.nan
    point = at_point(lambda: MaxPool2D(3, stride=2, padding=padding), x)
    instead = np.where(np.isnan(x), -9.0, x)
    clean = at_point(lambda: MaxPool2D(3, stride=2, padding=padding), instead, dL_dz=point.dL_dz)
    nan = np.zeros(point.z.shape, dtype=bool)
    nan[17, 1] = [[0, 0, 0], [0, 1, 0], [0, 0, 0]] if padding else True  # which windows hold the centre
    np.testing.assert_array_equal(np.isnan(point.z), nan)
    np.testing.assert_array_equal(point.z[~nan], clean.z[~nan])
    np.testing.assert_allclose(point.dL_dx[0][17, 1, 2, 2], point.dL_dz[nan].sum(), rtol=1e-12)
    others = np.delete(np.arange(20), 17)
    np.testing.assert_array_equal(point.dL_dx[0][others], clean.dL_dx[0][others])


@pytest.mark.parametrize("padding", [0, (0, 1)])
@pytest.mark.parametrize(
    "places", [[(0, 0)], [(1, 1)], [(0, 1), (1, 0)], [(0, 0), (1, 1)], [(0, 0), (0, 1), (1, 0), (1, 1)]]
)
def test_kernel_and_literal_code_send_the_gradient_to_the_same_nan(at_point, places, padding):
    x = np.arange(4.0).reshape(1, 1, 2, 2)
    for a, b in places:
        x[0, 0, a, b] = np.nan
    point = at_point(lambda: MaxPool2D(2, padding=padding), x)
    assert np.isnan(point.z).any()
    point.check_literal()


def test_infinities_are_values_like_others(at_point):
    x = [[[[-np.inf, -np.inf, 1, np.inf], [-np.inf, -np.inf, np.inf, 2]]]]
    point = at_point(lambda: MaxPool2D(2), x, dL_dz=[[[[3, 5]]]])
    assert point.z.tolist() == [[[[-np.inf, np.inf]]]]
    assert point.dL_dx[0].tolist() == [[[[3, 0, 0, 5], [0, 0, 0, 0]]]]


@pytest.mark.parity
@given(configurations(), st.integers(0, 99), st.booleans())
def test_pytorch_agrees(at_point, close, configuration, seed, ties):
    torch = pytest.importorskip("torch")
    options, shape = configuration
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 1, size=shape).astype(float) if ties else rng.normal(size=shape)
    point = at_point(lambda: MaxPool2D(**options), x)
    size, stride, (top, bottom, left, right) = point.layer.settings().values()
    x = torch.tensor(x, requires_grad=True)
    padded = torch.nn.functional.pad(x, (left, right, top, bottom), value=-torch.inf)
    z = torch.nn.functional.max_pool2d(padded, size, stride)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 0)
    close(point.dL_dx[0], x.grad.numpy(), 1e-12)


def test_literal_code_refuses_a_window_without_a_pixel():
    with pytest.raises(ValueError, match="holds no pixel"):
        derivation.forward(np.zeros((1, 2, 2), dtype=object), size=2, padding=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "MaxPool2D 'p1': size: got 0, expected an integer of at least 1, or (rows, columns)"),
        ({"size": (2, 2.0)}, "MaxPool2D 'p1': size: got (2, 2.0)"),
        ({"stride": 0}, "MaxPool2D 'p1': stride: got 0"),
        ({"stride": (1, 2, 3)}, "MaxPool2D 'p1': stride: got (1, 2, 3)"),
        ({"padding": -1}, "MaxPool2D 'p1': padding: got -1"),
        ({"padding": "full"}, "MaxPool2D 'p1': padding: got 'full', expected \"valid\", \"same\""),
    ],
)
def test_options_are_checked_when_the_layer_is_made(options, message):
    with pytest.raises(ConfigurationError) as caught:
        MaxPool2D(**({"size": 2, "name": "p1"} | options))
    assert str(caught.value).startswith(message)


def test_shapes_are_checked_when_the_graph_is_built():
    with pytest.raises(ShapeError, match="^MaxPool2D 'p1': got an input of 400, expected an image"):
        MaxPool2D(2, name="p1")(Input((400,)))
    with pytest.raises(ShapeError, match=r"^MaxPool2D 'p1': got an image of 1 x 5 with .*, expected at least 2 x 2"):
        MaxPool2D(2, name="p1")(Input((3, 1, 5)))
    with pytest.raises(
        ConfigurationError, match=r"^MaxPool2D 'p1': padding: got \(2, 2, 2, 2\), expected less than .* 2 x 2"
    ):
        MaxPool2D(2, padding=2, name="p1")(Input((3, 5, 5)))


def test_shapes():
    assert MaxPool2D(2)(Input((6, 28, 28))).shape == (6, 14, 14)
    assert MaxPool2D(3, stride=2)(Input((96, 55, 55))).shape == (96, 27, 27)  # AlexNet
    assert MaxPool2D(2, padding="same")(Input((1, 5, 5))).shape == (1, 3, 3)
    assert MaxPool2D((2, 1))(Input((1, 5, 5))).shape == (1, 2, 5)
