"""Convolution: kernels, literal code, finite differences, PyTorch and the notes' numbers agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from handgrad.engine import Conv2D, Dense, Input, Network
from handgrad.engine.checks import ConfigurationError, ShapeError
from handgrad.engine.layers import correlation

LITERAL_WORK = 25_000  # multiplications of the literal forward pass in one example
SMALL, PAIR = st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def configurations(draw):
    """Options of a layer, and the shape of a mini-batch it fits."""
    groups = draw(st.integers(1, 3))
    filters, channels = groups * draw(st.integers(1, 10)), groups * draw(st.integers(1, 10))
    padding = draw(st.sampled_from(["same", "valid"]) | st.integers(0, 3) | st.tuples(*[st.integers(0, 2)] * 4) | PAIR)
    options = {
        "filters": filters,
        "kernel_size": draw(PAIR),
        "stride": draw(SMALL | PAIR),
        "padding": padding,
        "dilation": draw(SMALL | PAIR),
        "groups": groups,
    }
    H, W = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    try:
        O, P, Q = Conv2D(**options)(Input((channels, H, W))).shape
    except ShapeError:
        assume(False)
    work = O * P * Q * channels // groups * math.prod(options["kernel_size"])
    assume(work <= LITERAL_WORK)
    N = draw(st.integers(1, min(40, LITERAL_WORK // work)))
    return options, (N, channels, H, W)


FULL_BLOCKS = ({"filters": 3, "kernel_size": 2}, (33, 2, 3, 3))
TWO_TILES = ({"filters": 17, "kernel_size": (1, 3), "padding": "same"}, (3, 10, 3, 4))
GAPS = ({"filters": 5, "kernel_size": 2, "stride": 3, "dilation": 2, "padding": (3, 1, 0, 2)}, (4, 4, 6, 7))
DEPTHWISE = ({"filters": 6, "kernel_size": 3, "groups": 3, "padding": 1}, (5, 3, 4, 5))
CROWDED = ({"filters": 9, "kernel_size": 2, "padding": "same"}, (17, 1, 8, 8))
CROWDED_POINTS = ({"filters": 9, "kernel_size": 1}, (17, 9, 8, 8))
ODD_ROWS = ({"filters": 6, "kernel_size": 2}, (2, 3, 3, 6))
FIVE_BLOCKS = ({"filters": 2, "kernel_size": 1, "stride": 2}, (65, 3, 1, 2))
SOME_PIXELS = ({"filters": 4, "kernel_size": 1, "stride": (3, 2), "groups": 2}, (18, 4, 8, 7))
SOME_COLUMNS = ({"filters": 3, "kernel_size": (3, 1), "stride": 2, "padding": (1, 0)}, (2, 2, 5, 6))
BORDERS_BETWEEN = ({"filters": 2, "kernel_size": 1, "stride": 2, "padding": 1}, (2, 2, 5, 6))


@example(FULL_BLOCKS, 0)
@example(TWO_TILES, 0)
@example(GAPS, 0)
@example(DEPTHWISE, 0)
@example(CROWDED, 0)
@example(ODD_ROWS, 0)
@example(FIVE_BLOCKS, 0)
@example(CROWDED_POINTS, 0)
@example(SOME_PIXELS, 0)
@example(SOME_COLUMNS, 0)
@example(BORDERS_BETWEEN, 0)
@given(configurations(), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, configuration, seed):
    options, shape = configuration
    at_point(lambda: Conv2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@example(TWO_TILES, 0)
@given(configurations(), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: Conv2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed)
    O, C_g, fh, fw = point.parameters["W"].shape
    point.check_single(terms=max(O, C_g) * fh * fw + point.z[:, 0].size)


SEVERAL_VECTORS = ({"filters": 5, "kernel_size": (3, 2), "padding": (1, 0)}, (1, 2, 9, 11))
STRIDES = ({"filters": 6, "kernel_size": 3, "stride": (2, 3), "padding": (2, 1, 1, 3), "groups": 2}, (1, 4, 9, 10))
BEHIND_THE_BORDER = ({"filters": 2, "kernel_size": 2, "dilation": 3, "stride": 2, "padding": 3}, (1, 1, 1, 1))


@pytest.mark.parametrize(
    ("options", "plane"),
    [
        ({"kernel_size": 1, "stride": (3, 2)}, (3, 4)),  # of 8 x 7 pixels
        ({"kernel_size": (1, 3), "stride": 3, "padding": (0, 1)}, (3, 9)),
        ({"kernel_size": 1, "stride": 2, "padding": 1}, (10, 9)),
        ({"kernel_size": 2, "stride": 2, "padding": 1}, (10, 9)),
    ],
)
def test_a_copy_has_a_border_and_leaves_out_what_no_window_reads(options, plane):
    conv = Conv2D(3, **options)
    conv(Input((5, 8, 7)))
    pixels = math.prod(plane) + (math.prod(plane) % 2 == 0)  # planes are an odd number apart
    assert conv.scratch(((5, 8, 7),), 1, np.dtype("float32"))["image"].shape[:2] == (5, pixels)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@example(SEVERAL_VECTORS, 0)
@example(STRIDES, 0)
@example(BEHIND_THE_BORDER, 0)
@example(TWO_TILES, 0)
@example(GAPS, 0)
@example(DEPTHWISE, 0)
@given(configurations(), st.integers(0, 99))
def test_a_sample_by_itself_is_the_literal_code(at_point, close, dtype, configuration, seed):
    """Its neighbouring positions are the lanes then; nothing stays of the image before."""
    options, shape = configuration
    x = np.random.default_rng(seed).normal(size=(1, *shape[1:]))
    point = at_point(lambda: Conv2D(**options), x, dtype=dtype, seed=seed)
    z, _ = point.literal()
    close(point.z, z, 1e-10 if dtype == "float64" else 1e-5, "value")  # some hundred terms, eps = 1e-7
    point.network.forward([np.full_like(x, np.nan)])
    np.testing.assert_array_equal(point.network.forward([x]), point.z)
    assert point.network.last_pass.is_one


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"filters": 3, "kernel_size": 3, "padding": "same"}, (2, 2, 4, 4)),
        ({"filters": 9, "kernel_size": (1, 2), "stride": (2, 1)}, (2, 3, 5, 3)),
        ({"filters": 4, "kernel_size": (2, 3), "stride": 2, "dilation": (1, 2), "padding": (1, 0, 2, 1), "groups": 2},
         (3, 4, 5, 6)),
    ],
)  # fmt: skip
def test_finite_differences(at_point, rng, options, shape):
    at_point(lambda: Conv2D(**options), rng.normal(size=shape)).check_differences()


@pytest.mark.parametrize(
    ("window", "kernel", "result"),
    [
        ([[3, 0, 1], [2, 6, 2], [2, 4, 1]], [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], -3),
        ([[120, 140, 120], [225, 220, 205], [225, 250, 230]], [[0, -1, 0], [-1, 4, -1], [0, -1, 0]], 60),
    ],
)
def test_windows_of_the_notes(at_point, window, kernel, result):
    point = at_point(lambda: Conv2D(1, 3), [[window]], parameters={"W": [[kernel]], "b": [0.0]}, dL_dz=[[[[2.0]]]])
    assert point.z.tolist() == [[[[result]]]]
    assert point.dL_dx[0].tolist() == [[(2 * np.array(kernel)).tolist()]]
    assert point.gradients["W"].tolist() == [[(2 * np.array(window)).tolist()]]
    assert point.gradients["b"].tolist() == [2]


def test_the_kernel_is_not_flipped(at_point):
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    point = at_point(lambda: Conv2D(1, 2), x, parameters={"W": [[[[1, 10], [100, 1000]]]], "b": [0.0]})
    assert point.z.tolist() == [[[[4310, 5421], [7643, 8754]]]]  # 0 + 10·1 + 100·3 + 1000·4, and so on


@given(configurations())
def test_output_size_counts_the_windows(configuration):
    options, (_, C, H, W) = configuration
    layer = Conv2D(**options)
    _, P, Q = layer(Input((C, H, W))).shape
    top, bottom, left, right = layer.settings()["padding"]
    (fh, fw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    assert len(range(0, top + H + bottom - dh * (fh - 1), sh)) == P
    assert len(range(0, left + W + right - dw * (fw - 1), sw)) == Q
    assert layer.multiply_adds((C, H, W)) == layer.filters * P * Q * C // layer.groups * fh * fw


@given(st.integers(1, 12), SMALL, SMALL, st.integers(1, 2))
def test_same_keeps_the_size_and_puts_the_odd_zero_behind(H, f, s, d):
    layer = Conv2D(1, (f, 1), stride=(s, 1), padding="same", dilation=(d, 1))
    assert layer(Input((1, H, 4))).shape == (1, -(-H // s), 4)
    top, bottom, left, right = layer.settings()["padding"]
    assert bottom - top in (0, 1) and (left, right) == (0, 0)


def test_even_kernel_with_same_padding_looks_below_and_right(at_point):
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    point = at_point(lambda: Conv2D(1, 2, padding="same"), x, parameters={"W": np.ones((1, 1, 2, 2)), "b": [0.0]})
    assert point.layer.settings()["padding"] == (0, 1, 0, 1)
    assert point.z.tolist() == [[[[10, 6], [7, 4]]]]


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 2), (2, 1)])
def test_a_shifted_image_gives_a_shifted_map(at_point, close, rng, down, right):
    x = np.zeros((2, 3, 9, 9))
    x[:, :, 2:6, 2:6] = rng.normal(size=(2, 3, 4, 4))  # so far inside that no window leaves the image
    moved = np.roll(x, (down, right), axis=(2, 3))
    here = at_point(lambda: Conv2D(4, 3, padding="same"), x)
    there = at_point(lambda: Conv2D(4, 3, padding="same"), moved, parameters=here.parameters)
    close(np.roll(here.z, (down, right), axis=(2, 3)), there.z, 1e-12)


@given(configurations(), st.integers(0, 99))
def test_linear_in_the_input_and_in_the_upstream_gradient(at_point, close, configuration, seed):
    options, shape = configuration
    rng = np.random.default_rng(seed)
    start = at_point(lambda: Conv2D(**options), rng.normal(size=shape))
    parameters = {"W": start.parameters["W"], "b": np.zeros(options["filters"])}

    def at(x, dL_dz):
        return at_point(lambda: Conv2D(**options), x, parameters=parameters, dL_dz=dL_dz)

    x, y, g, k = start.x[0], rng.normal(size=shape), start.dL_dz, rng.normal(size=start.z.shape)
    both, one, other = at(2 * x - 3 * y, 2 * g - 3 * k), at(x, g), at(y, k)
    close(both.z, 2 * one.z - 3 * other.z, 1e-11, "z")
    close(both.dL_dx[0], 2 * one.dL_dx[0] - 3 * other.dL_dx[0], 1e-11, "dL/dx")


@given(configurations(), st.integers(0, 99))
def test_backward_is_the_transpose_of_forward(at_point, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: Conv2D(**options), np.random.default_rng(seed).normal(size=shape))
    z = point.z - point.parameters["b"][:, None, None]
    products = [(point.dL_dz * z).sum(), (point.dL_dx[0] * point.x[0]).sum()]
    products.append((point.gradients["W"] * point.parameters["W"]).sum())
    size = (np.abs(point.dL_dz) * np.abs(z)).sum() + 1
    np.testing.assert_allclose(products, products[0], rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("first", [1, 16, 18])
def test_gradients_of_a_batch_are_the_sums_over_its_parts(at_point, rng, groups, first):
    point = at_point(lambda: Conv2D(10, 3, padding=1, groups=groups), rng.normal(size=(35, 4, 5, 5)))
    point.check_parts(first)


def test_options_do_what_zeros_and_left_out_positions_do(at_point, close, rng):
    """The same from a layer without options, for a larger image and a larger kernel."""
    options = {"padding": (1, 0, 2, 1), "dilation": (3, 2), "stride": (2, 3)}
    point = at_point(lambda: Conv2D(3, (2, 3), **options), rng.normal(size=(2, 2, 8, 9)))
    x, W = np.pad(point.x[0], ((0, 0), (0, 0), (1, 0), (2, 1))), np.zeros((3, 2, 4, 5))
    W[:, :, ::3, ::2] = point.parameters["W"]
    dL_dz = np.zeros((2, 3, 6, 8))
    dL_dz[:, :, ::2, ::3] = point.dL_dz
    plain = at_point(lambda: Conv2D(3, (4, 5)), x, parameters=point.parameters | {"W": W}, dL_dz=dL_dz)
    close(point.z, plain.z[:, :, ::2, ::3], 1e-12)
    close(point.dL_dx[0], plain.dL_dx[0][:, :, 1:, 2:-1], 1e-12)
    close(point.gradients["W"], plain.gradients["W"][:, :, ::3, ::2], 1e-12)
    close(point.gradients["b"], plain.gradients["b"], 1e-12)


def test_groups_are_separate_convolutions(at_point, close, rng):
    x = rng.normal(size=(3, 6, 5, 5))
    point = at_point(lambda: Conv2D(4, 3, groups=2), x)
    for g in range(2):
        parameters = {name: array[2 * g : 2 * g + 2] for name, array in point.parameters.items()}
        part = at_point(
            lambda: Conv2D(2, 3),
            x[:, 3 * g : 3 * g + 3],
            parameters=parameters,
            dL_dz=point.dL_dz[:, 2 * g : 2 * g + 2],
        )
        close(part.z, point.z[:, 2 * g : 2 * g + 2], 1e-12)
        close(part.dL_dx[0], point.dL_dx[0][:, 3 * g : 3 * g + 3], 1e-12)
        close(part.gradients["W"], point.gradients["W"][2 * g : 2 * g + 2], 1e-12)


def test_the_input_gradient_sums_over_all_filters(at_point, close, rng):
    """The table of S0, copied literally, would keep one filter's part alone."""
    x = rng.normal(size=(2, 3, 4, 4))
    whole = at_point(lambda: Conv2D(3, 2), x)
    parts = [
        at_point(
            lambda: Conv2D(1, 2),
            x,
            parameters={name: array[o : o + 1] for name, array in whole.parameters.items()},
            dL_dz=whole.dL_dz[:, o : o + 1],
        )
        for o in range(3)
    ]
    close(sum(part.dL_dx[0] for part in parts), whole.dL_dx[0], 1e-12)


def test_a_kernel_as_large_as_the_image_is_a_dense_layer(at_point, close, rng):
    x = rng.normal(size=(18, 2, 3, 4))
    conv = at_point(lambda: Conv2D(5, (3, 4)), x)
    parameters = {"W": conv.parameters["W"].reshape(5, -1), "b": conv.parameters["b"]}
    dense = at_point(lambda: Dense(5), x.reshape(18, -1), parameters=parameters, dL_dz=conv.dL_dz.reshape(18, 5))
    close(conv.z.reshape(18, 5), dense.z, 1e-12)
    close(conv.dL_dx[0].reshape(18, -1), dense.dL_dx[0], 1e-12)
    close(conv.gradients["W"].reshape(5, -1), dense.gradients["W"], 1e-12)
    close(conv.gradients["b"], dense.gradients["b"], 1e-12)


@pytest.mark.parametrize("near", [0, 4_000, 1_000_000])
@pytest.mark.parametrize("at_once", [0, 20_000, 1_000_000])
@pytest.mark.parametrize("padding", [0, 1])
def test_sums_over_strips_and_a_few_filters_at_a_time(at_point, monkeypatch, rng, near, at_once, padding):
    """The caches decide how the weight gradient is cut into pieces, never what it is."""
    monkeypatch.setattr(correlation, "NEAR", near)
    monkeypatch.setattr(correlation, "AT_ONCE", at_once)
    options = {"filters": 16, "kernel_size": 3, "stride": (2, 1), "padding": padding, "dilation": (1, 2), "groups": 2}
    at_point(lambda: Conv2D(**options), rng.normal(size=(18, 4, 9, 5))).check_literal()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_stays_in_its_sample_and_window(at_point, rng, bad):
    x = rng.normal(size=(20, 3, 6, 6))
    x[17, 1, 5, 5] = bad
    point = at_point(lambda: Conv2D(5, 3), x)
    touched = np.zeros(point.z.shape, dtype=bool)
    touched[17, :, 3, 3] = True  # the one window that holds the corner
    np.testing.assert_array_equal(np.isfinite(point.z), ~touched)
    assert np.isfinite(point.dL_dx[0]).all()
    assert not np.isfinite(point.gradients["W"][:, 1, 2, 2]).any()
    assert np.isfinite(point.gradients["W"][:, [0, 2]]).all()


@pytest.mark.parametrize("filters", [3, 11])
def test_a_weight_that_is_none_spoils_its_own_filter_alone(at_point, rng, filters):
    parameters = {"W": rng.normal(size=(filters, 2, 3, 3)), "b": np.zeros(filters)}
    parameters["W"][filters - 1, 0, 0, 0] = np.nan
    point = at_point(lambda: Conv2D(filters, 3), rng.normal(size=(4, 2, 4, 4)), parameters=parameters)
    assert np.isnan(point.z[:, -1]).all() and np.isfinite(point.z[:, :-1]).all()


@pytest.mark.parity
@given(configurations(), st.integers(0, 99))
def test_pytorch_agrees(at_point, close, configuration, seed):
    torch = pytest.importorskip("torch")
    options, shape = configuration
    point = at_point(lambda: Conv2D(**options), np.random.default_rng(seed).normal(size=shape))
    x, W, b = (torch.tensor(a, requires_grad=True) for a in (point.x[0], *point.parameters.values()))
    top, bottom, left, right = point.layer.settings()["padding"]
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    layer = point.layer
    z = torch.nn.functional.conv2d(padded, W, b, layer.stride, 0, layer.dilation, layer.groups)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-10)
    for own, theirs in zip((point.dL_dx[0], *point.gradients.values()), (x, W, b), strict=True):
        close(own, theirs.grad.numpy(), 1e-10)


def test_shapes_and_start():
    x = Input((6, 14, 14))
    network = Network(x, Conv2D(16, 5, groups=2, name="c3")(x), threads=1)
    assert {name: array.shape for name, array in network.parameters.items()} == {"c3.W": (16, 3, 5, 5), "c3.b": (16,)}
    assert not network.parameters["c3.b"].any() and network.parameters["c3.W"].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "Conv2D 'c1': filters: got 0, expected an integer of at least 1"),
        ({"filters": 1.5}, "Conv2D 'c1': filters: got 1.5"),
        ({"groups": 0}, "Conv2D 'c1': groups: got 0"),
        ({"filters": 7, "groups": 2}, "Conv2D 'c1': filters: got 7 in 2 groups, expected a multiple of groups"),
        ({"kernel_size": 0}, "Conv2D 'c1': kernel_size: got 0, expected an integer of at least 1, or"),
        ({"kernel_size": (3, 0)}, "Conv2D 'c1': kernel_size: got (3, 0)"),
        ({"kernel_size": (3, 3, 3)}, "Conv2D 'c1': kernel_size: got (3, 3, 3)"),
        ({"kernel_size": "3"}, "Conv2D 'c1': kernel_size: got '3'"),
        ({"kernel_size": True}, "Conv2D 'c1': kernel_size: got True"),
        ({"stride": 0}, "Conv2D 'c1': stride: got 0"),
        ({"stride": (1, 1.0)}, "Conv2D 'c1': stride: got (1, 1.0)"),
        ({"dilation": -1}, "Conv2D 'c1': dilation: got -1"),
        ({"padding": -1}, 'Conv2D \'c1\': padding: got -1, expected "valid", "same"'),
        ({"padding": "some"}, "Conv2D 'c1': padding: got 'some'"),
        ({"padding": (1, 2, 3)}, "Conv2D 'c1': padding: got (1, 2, 3)"),
        ({"padding": (1, 2, 3, -4)}, "Conv2D 'c1': padding: got (1, 2, 3, -4)"),
        ({"padding": True}, "Conv2D 'c1': padding: got True"),
        ({"padding": 1.0}, "Conv2D 'c1': padding: got 1.0"),
    ],
)
def test_options_are_checked_when_the_layer_is_made(options, message):
    with pytest.raises(ConfigurationError) as caught:
        Conv2D(**({"filters": 4, "kernel_size": 3, "name": "c1"} | options))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (400,), "Conv2D 'c1': got an input of 400, expected an image of channels x rows x columns"),
        ({"groups": 2}, (3, 9, 9), "Conv2D 'c1': got 3 channels, expected a multiple of its 2 groups"),
        ({"padding": (0, 1, 0, 0)}, (1, 2, 3),
         "Conv2D 'c1': got an image of 2 x 3 with padding (0, 1, 0, 0), expected at least 5 x 3 for its kernel"),
        ({}, (1, 9, 2), "Conv2D 'c1': got an image of 9 x 2 with padding (0, 0, 0, 0), expected at least 5 x 3"),
    ],
)  # fmt: skip
def test_shapes_are_checked_when_the_graph_is_built(options, shape, message):
    with pytest.raises(ShapeError) as caught:
        Conv2D(**({"filters": 4, "kernel_size": 3, "dilation": (2, 1), "name": "c1"} | options))(Input(shape))
    assert str(caught.value).startswith(message)
