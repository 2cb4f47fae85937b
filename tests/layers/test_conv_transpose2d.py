"""Transposed convolution: kernels, literal code, finite differences, PyTorch and numbers by hand agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from handgrad.engine import Conv2D, ConvTranspose2D, Input, Network
from handgrad.engine.checks import ConfigurationError, ShapeError

LITERAL_WORK = 25_000  # multiplications of the literal forward pass in one example
SMALL, PAIR = st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def configurations(draw):
    """Options of a layer, and the shape of a mini-batch it fits."""
    groups = draw(st.integers(1, 3))
    filters, channels = groups * draw(st.integers(1, 10)), groups * draw(st.integers(1, 10))
    stride = draw(SMALL | PAIR | st.just((4, 2)))
    padding = draw(st.sampled_from(["same", "valid"]) | st.integers(0, 2) | st.tuples(*[st.integers(0, 2)] * 4) | PAIR)
    sh, sw = (stride, stride) if isinstance(stride, int) else stride
    longer = (0, 0) if padding == "same" else draw(st.tuples(st.integers(0, sh - 1), st.integers(0, sw - 1)))
    options = {
        "filters": filters,
        "kernel_size": draw(PAIR),
        "stride": stride,
        "padding": padding,
        "output_padding": longer,
        "dilation": draw(SMALL | PAIR),
        "groups": groups,
    }
    H, W = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    try:
        O, P, Q = ConvTranspose2D(**options)(Input((channels, H, W))).shape
    except ShapeError:
        assume(False)
    work = O * (channels // groups) * (H * W * math.prod(options["kernel_size"]) + P * Q)
    assume(work <= LITERAL_WORK)
    N = draw(st.sampled_from([1, 17, 35]) | st.integers(1, 40))
    return options, (min(N, LITERAL_WORK // work), channels, H, W)


FULL_BLOCKS = ({"filters": 3, "kernel_size": 2}, (33, 2, 3, 3))
TWO_TILES = ({"filters": 17, "kernel_size": (1, 3), "padding": "same"}, (3, 10, 3, 4))
GAPS = (
    {"filters": 5, "kernel_size": 2, "stride": 3, "dilation": 2, "padding": (3, 1, 0, 2), "output_padding": (2, 1)},
    (4, 4, 4, 3),
)
HOLES = ({"filters": 2, "kernel_size": (1, 2), "stride": (3, 4), "output_padding": (2, 0)}, (17, 1, 2, 3))
DEPTHWISE = ({"filters": 6, "kernel_size": 3, "stride": 2, "groups": 3, "padding": 1}, (5, 3, 4, 5))
CROWDED = ({"filters": 2, "kernel_size": 2, "stride": 2}, (17, 9, 8, 8))


@example(FULL_BLOCKS, 0)
@example(TWO_TILES, 0)
@example(GAPS, 0)
@example(HOLES, 0)
@example(DEPTHWISE, 0)
@example(CROWDED, 0)
@given(configurations(), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, configuration, seed):
    options, shape = configuration
    at_point(
        lambda: ConvTranspose2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed
    ).check_literal()


@example(TWO_TILES, 0)
@given(configurations(), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: ConvTranspose2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed)
    C, O_g, fh, fw = point.parameters["W"].shape
    point.check_single(terms=max(C, O_g) * fh * fw + point.x[0][:, 0].size + point.z[:, 0].size)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"filters": 3, "kernel_size": 3, "stride": 2, "padding": "same"}, (2, 2, 3, 3)),
        ({"filters": 9, "kernel_size": (1, 2), "stride": (2, 1)}, (2, 3, 4, 2)),
        ({"filters": 4, "kernel_size": (2, 3), "stride": 2, "dilation": (1, 2), "padding": (1, 0, 2, 1), "groups": 2,
          "output_padding": 1}, (3, 4, 3, 4)),
    ],
)  # fmt: skip
def test_finite_differences(at_point, rng, options, shape):
    at_point(lambda: ConvTranspose2D(**options), rng.normal(size=shape)).check_differences()


def test_two_kernels_that_meet_in_the_middle(at_point):
    parameters, dL_dz = {"W": [[[[1, 10, 100]]]], "b": [1000]}, [[[[3, 1, 4, 1, 5]]]]
    point = at_point(lambda: ConvTranspose2D(1, (1, 3), stride=2), [[[[1, 2]]]], parameters=parameters, dL_dz=dL_dz)
    assert point.z.tolist() == [[[[1001, 1010, 1102, 1020, 1200]]]]
    assert point.dL_dx[0].tolist() == [[[[3 + 10 + 400, 4 + 10 + 500]]]]
    assert point.gradients["W"].tolist() == [[[[3 + 2 * 4, 1 + 2 * 1, 4 + 2 * 5]]]]
    assert point.gradients["b"].tolist() == [14]


def test_the_kernel_is_not_flipped(at_point):
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 2
    point = at_point(
        lambda: ConvTranspose2D(1, 2, padding=1), x, parameters={"W": [[[[1, 10], [100, 1000]]]], "b": [0]}
    )
    assert point.z.tolist() == [[[[2, 20], [200, 2000]]]]


def test_pixels_that_no_kernel_reaches_are_the_bias(at_point, rng):
    parameters = {"W": rng.normal(size=(2, 3, 2, 1)), "b": np.array([1.5, -2.5, 3.5])}
    point = at_point(lambda: ConvTranspose2D(3, (2, 1), stride=(4, 3), output_padding=(1, 2)),
                     rng.normal(size=(17, 2, 2, 2)), parameters=parameters)  # fmt: skip
    assert point.z.shape == (17, 3, 7, 6)
    reached = np.zeros((7, 6), dtype=bool)
    reached[np.ix_([0, 1, 4, 5], [0, 3])] = True
    np.testing.assert_array_equal(point.z[:, :, ~reached], np.broadcast_to(parameters["b"][:, None], (17, 3, 34)))
    assert (point.z[:, :, reached] != parameters["b"][:, None]).all()


def mirrored(options, channels):
    """Return the options of the convolution that the layer transposes."""
    kept = {name: options[name] for name in ("kernel_size", "stride", "dilation", "groups") if name in options}
    return {"filters": channels, **kept}


@example(GAPS, 0)
@example(HOLES, 0)
@given(configurations(), st.integers(0, 99))
def test_it_is_the_transpose_of_the_convolution_with_the_same_weights(at_point, close, configuration, seed):
    """<conv(y), x> = <y, convT(x)>, and each one's forward pass is the other's input gradient."""
    options, shape = configuration
    rng = np.random.default_rng(seed)
    point = at_point(lambda: ConvTranspose2D(**options), rng.normal(size=shape))
    x, y, W, b = point.x[0], point.dL_dz, point.parameters["W"], point.parameters["b"]
    conv = at_point(
        lambda: Conv2D(padding=point.layer.settings()["padding"], **mirrored(options, shape[1])),
        y,
        parameters={"W": W, "b": np.zeros(shape[1])},
        dL_dz=x,
    )
    z = point.z - b[:, None, None]
    size = (np.abs(y) * np.abs(z)).sum() + 1
    np.testing.assert_allclose((conv.z * x).sum(), (y * z).sum(), rtol=0, atol=1e-12 * size)
    close(conv.z, point.dL_dx[0], 1e-13, "the convolution is our input gradient")
    np.testing.assert_allclose(conv.dL_dx[0], z, rtol=0, atol=1e-13 * (1 + np.abs(point.z).max() + np.abs(b).max()))
    close(conv.gradients["W"], point.gradients["W"], 1e-13, "the gradient of the common weights")


@pytest.mark.parametrize("size", [(2, 2), (3, 1), (2, 4)])
def test_ones_with_the_stride_of_the_kernel_repeat_every_pixel(at_point, close, rng, size):
    x = rng.normal(size=(17, 3, 4, 5))
    parameters = {"W": np.ones((3, 1, *size)), "b": np.zeros(3)}
    point = at_point(lambda: ConvTranspose2D(3, size, stride=size, groups=3), x, parameters=parameters)
    np.testing.assert_array_equal(point.z, x.repeat(size[0], axis=2).repeat(size[1], axis=3))
    windows = point.dL_dz.reshape(17, 3, 4, size[0], 5, size[1])
    close(point.dL_dx[0], windows.sum(axis=(3, 5)), 1e-14)


@pytest.mark.parametrize("s", [2, 4])
def test_bilinear_weights_interpolate(at_point, close, s):
    """A plane stays a plane, on a grid s times as fine, where the four nearest pixels are inside the image."""
    line = 1 - np.abs(np.arange(2 * s) - s + 0.5) / s
    a, b = np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij")
    x = (2 + 3 * a - 4 * b)[None, None]
    parameters = {"W": np.outer(line, line)[None, None], "b": [0.0]}
    point = at_point(lambda: ConvTranspose2D(1, 2 * s, stride=s, padding=s // 2), x, parameters=parameters)
    assert point.z.shape == (1, 1, 5 * s, 6 * s)
    h, q = np.meshgrid((np.arange(5 * s) + 0.5) / s - 0.5, (np.arange(6 * s) + 0.5) / s - 0.5, indexing="ij")
    inside = (slice(None), slice(None), slice(s // 2, -(s // 2)), slice(s // 2, -(s // 2)))
    close(point.z[inside], (2 + 3 * h - 4 * q)[None, None][inside], 1e-13)


def test_groups_are_separate_layers(at_point, close, rng):
    x, options = rng.normal(size=(3, 6, 3, 3)), {"kernel_size": 3, "stride": 2}
    point = at_point(lambda: ConvTranspose2D(4, groups=2, **options), x)
    for g in range(2):
        channels, filters = slice(3 * g, 3 * g + 3), slice(2 * g, 2 * g + 2)
        part = at_point(
            lambda: ConvTranspose2D(2, **options),
            x[:, channels],
            parameters={"W": point.parameters["W"][channels], "b": point.parameters["b"][filters]},
            dL_dz=point.dL_dz[:, filters],
        )
        close(part.z, point.z[:, filters], 1e-12)
        close(part.dL_dx[0], point.dL_dx[0][:, channels], 1e-12)
        close(part.gradients["W"], point.gradients["W"][channels], 1e-12)
        close(part.gradients["b"], point.gradients["b"][filters], 1e-12)


@pytest.mark.parametrize("stride", [2, 3, (3, 2)])
def test_output_padding_is_more_of_the_same_output(at_point, rng, stride):
    x, options = rng.normal(size=(3, 2, 3, 4)), {"kernel_size": 3, "stride": stride, "padding": (1, 2)}
    short = at_point(lambda: ConvTranspose2D(2, **options), x)
    longer = at_point(lambda: ConvTranspose2D(2, output_padding=(1, 1), **options), x, parameters=short.parameters)
    P, Q = short.z.shape[2:]
    assert longer.z.shape[2:] == (P + 1, Q + 1)
    np.testing.assert_array_equal(longer.z[:, :, :P, :Q], short.z)
    assert (longer.z[:, :, P] != longer.parameters["b"][:, None]).any()  # what padding had cut off comes back first


@given(configurations())
def test_the_convolution_leads_back_to_the_size(configuration):
    options, (_, C, H, W) = configuration
    layer = ConvTranspose2D(**options)
    shape = layer(Input((C, H, W))).shape
    sides = layer.settings()["padding"]
    assert Conv2D(padding=sides, **mirrored(options, C))(Input(shape)).shape == (C, H, W)
    (fh, fw), O_g = layer.kernel_size, layer.filters // layer.groups
    assert layer.multiply_adds((C, H, W)) == C * H * W * O_g * fh * fw


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 2))
def test_same_multiplies_the_size_by_the_stride_and_cuts_the_odd_row_below(H, f, s, d):
    layer = ConvTranspose2D(1, (f, 1), stride=(s, 1), padding="same", dilation=(d, 1))
    assert layer(Input((1, H, 4))).shape == (1, H * s, 4)
    top, bottom, left, right = layer.settings()["padding"]
    assert bottom - top in (0, 1) and (left, right) == (0, 0)
    assert layer.settings()["output_padding"] == (max(0, s - d * (f - 1) - 1), 0)


def test_same_by_hand(at_point):
    """Stride 2: of 1 10 102 20 200 the row loses its last; a kernel shorter than the stride leaves a gap behind."""
    parameters = {"W": [[[[1, 10, 100]]]], "b": [0]}
    three = at_point(
        lambda: ConvTranspose2D(1, (1, 3), stride=(1, 2), padding="same"), [[[[1, 2]]]], parameters=parameters
    )
    assert three.z.tolist() == [[[[1, 10, 102, 20]]]]
    parameters = {"W": [[[[5]]]], "b": [7]}
    one = at_point(lambda: ConvTranspose2D(1, 1, stride=(1, 2), padding="same"), [[[[1, 2]]]], parameters=parameters)
    assert one.z.tolist() == [[[[12, 7, 17, 7]]]]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("first", [1, 16, 18])
def test_gradients_of_a_batch_are_the_sums_over_its_parts(at_point, rng, groups, first):
    make_layer = lambda: ConvTranspose2D(10, 3, stride=2, padding=1, groups=groups)  # noqa: E731
    at_point(make_layer, rng.normal(size=(35, 4, 3, 3))).check_parts(first)


def test_two_threads_are_one(at_point, close, rng):
    x = rng.normal(size=(35, 3, 3, 4))
    one, two = (at_point(lambda: ConvTranspose2D(5, 3, stride=2), x, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])
    for name, gradient in one.gradients.items():
        close(two.gradients[name], gradient, 1e-13, name)  # the same numbers, added in another order


def test_a_second_pass_overwrites_the_first(at_point, rng):
    point = at_point(lambda: ConvTranspose2D(3, 2, stride=3, output_padding=2), rng.normal(size=(5, 2, 3, 3)))
    first = {"z": point.z.copy(), **{name: array.copy() for name, array in point.all_gradients().items()}}
    point.network.forward([10 + point.x[0]])
    point.network.backward(10 + point.dL_dz)
    np.testing.assert_array_equal(point.network.forward(point.x), first["z"])
    np.testing.assert_array_equal(point.network.backward(point.dL_dz)[0], first["x0"])
    for name, array in point.network.gradients.items():
        np.testing.assert_array_equal(array, first[name.split(".")[1]])


def test_nobody_needs_the_input_gradient(at_point, rng):
    point = at_point(lambda: ConvTranspose2D(3, 2), rng.normal(size=(5, 2, 3, 3)))
    (share,) = (part.shares[point.name] for part in point.network.last_pass.active)
    share.dL_dx, dL_dW = (None,), share.gradients["W"].copy()
    share.gradients["W"][...] = np.nan
    point.layer.backward(share)
    np.testing.assert_array_equal(share.gradients["W"], dL_dW)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_stays_in_its_sample_and_window(at_point, rng, bad):
    x = rng.normal(size=(20, 3, 4, 4))
    x[17, 1, 3, 0] = bad
    point = at_point(lambda: ConvTranspose2D(5, 2, stride=3), x)
    touched = np.zeros(point.z.shape, dtype=bool)
    touched[17, :, 9:11, 0:2] = True
    np.testing.assert_array_equal(np.isfinite(point.z), ~touched)
    assert np.isfinite(point.dL_dx[0]).all()
    assert not np.isfinite(point.gradients["W"][1]).any()
    assert np.isfinite(point.gradients["W"][[0, 2]]).all() and np.isfinite(point.gradients["b"]).all()


@pytest.mark.parametrize("filters", [3, 11])
def test_a_weight_that_is_none_spoils_its_own_filter_alone(at_point, rng, filters):
    parameters = {"W": rng.normal(size=(2, filters, 3, 3)), "b": np.zeros(filters)}
    parameters["W"][0, filters - 1] = np.nan
    point = at_point(lambda: ConvTranspose2D(filters, 3), rng.normal(size=(4, 2, 4, 4)), parameters=parameters)
    assert np.isnan(point.z[:, -1]).all() and np.isfinite(point.z[:, :-1]).all()


@pytest.mark.parity
@example(GAPS, 0)
@example(HOLES, 0)
@given(configurations(), st.integers(0, 99))
def test_pytorch_agrees(at_point, close, configuration, seed):
    torch = pytest.importorskip("torch")
    options, shape = configuration
    point = at_point(lambda: ConvTranspose2D(**options), np.random.default_rng(seed).normal(size=shape))
    x, W, b = (torch.tensor(a, requires_grad=True) for a in (point.x[0], *point.parameters.values()))
    settings = point.layer.settings()
    (top, bottom, left, right), longer = settings["padding"], settings["output_padding"]
    alike = {"output_padding": longer, "groups": settings["groups"], "dilation": settings["dilation"]}
    (P, Q), stride = point.z.shape[2:], settings["stride"]
    if top == bottom and left == right:
        z = torch.nn.functional.conv_transpose2d(x, W, b, stride, (top, left), **alike)
    else:  # PyTorch has one padding for both sides: cut its unpadded output by hand
        z = torch.nn.functional.conv_transpose2d(x, W, b, stride, 0, **alike)[:, :, top : top + P, left : left + Q]
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-10)
    for own, theirs in zip((point.dL_dx[0], *point.gradients.values()), (x, W, b), strict=True):
        close(own, theirs.grad.numpy(), 1e-10)


def test_shapes_and_start():
    x = Input((6, 7, 7))
    network = Network(x, ConvTranspose2D(4, 5, groups=2, name="up")(x), threads=1)
    assert {name: array.shape for name, array in network.parameters.items()} == {"up.W": (6, 2, 5, 5), "up.b": (4,)}
    assert not network.parameters["up.b"].any() and network.parameters["up.W"].all()


@pytest.mark.parametrize(
    ("options", "fan_in", "fan_out"),
    [
        ({"kernel_size": 4, "stride": 2, "groups": 2}, 3 * 2 * 2, 2 * 4 * 4),  # every output reads 2 x 2 windows
        ({"kernel_size": (3, 5), "stride": (2, 1)}, 6 * 2 * 5, 4 * 3 * 5),  # at most
        ({"kernel_size": 2, "stride": 3, "dilation": (1, 3)}, 6 * 1 * 2, 4 * 2 * 2),  # columns: all from one residue
    ],
)
def test_the_initializer_hears_how_many_values_an_output_reads(options, fan_in, fan_out):
    heard = []

    def initializer(rng, shape, *fans):
        heard.extend(fans)
        return np.ones(shape)

    x = Input((6, 5, 5))
    Network(x, ConvTranspose2D(4, initializer=initializer, **options)(x), threads=1)
    assert heard == [fan_in, fan_out]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "ConvTranspose2D 'up': filters: got 0, expected an integer of at least 1"),
        ({"groups": 1.5}, "ConvTranspose2D 'up': groups: got 1.5, expected an integer of at least 1"),
        ({"filters": 7, "groups": 2}, "ConvTranspose2D 'up': filters: got 7 in 2 groups, expected a multiple of groups"),
        ({"kernel_size": 0}, "ConvTranspose2D 'up': kernel_size: got 0, expected an integer of at least 1, or (rows, columns)"),
        ({"stride": (2, 0)}, "ConvTranspose2D 'up': stride: got (2, 0), expected an integer of at least 1, or (rows, columns)"),
        ({"dilation": -1}, "ConvTranspose2D 'up': dilation: got -1, expected an integer of at least 1, or (rows, columns)"),
        ({"padding": "some"}, "ConvTranspose2D 'up': padding: got 'some', expected \"valid\", \"same\", an integer from 0 up,"
                              " (rows, columns) or (top, bottom, left, right)"),
        ({"output_padding": -1}, "ConvTranspose2D 'up': output_padding: got -1, expected an integer of at least 0, or"
                                 " (rows, columns)"),
        ({"output_padding": 1}, "ConvTranspose2D 'up': output_padding: got 1, expected less than the stride (1, 1)"),
        ({"stride": (3, 2), "output_padding": (1, 2)},
         "ConvTranspose2D 'up': output_padding: got (1, 2), expected less than the stride (3, 2)"),
        ({"stride": 2, "padding": "same", "output_padding": 1},
         "ConvTranspose2D 'up': output_padding: got 1, expected 0 with padding \"same\""),
    ],
)  # fmt: skip
def test_options_are_checked_when_the_layer_is_made(options, message):
    with pytest.raises(ConfigurationError) as caught:
        ConvTranspose2D(**({"filters": 4, "kernel_size": 3, "name": "up"} | options))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (400,), "ConvTranspose2D 'up': got an input of 400, expected an image of channels x rows x columns"),
        ({"groups": 2}, (3, 9, 9), "ConvTranspose2D 'up': got 3 channels, expected a multiple of its 2 groups"),
        ({"padding": (2, 1, 0, 0)}, (1, 1, 3),
         "ConvTranspose2D 'up': got an output of 0 x 5 for an image of 1 x 3 with padding (2, 1, 0, 0), expected at least"
         " 1 x 1; use less padding, or a larger kernel or stride"),
    ],
)  # fmt: skip
def test_shapes_are_checked_when_the_graph_is_built(options, shape, message):
    with pytest.raises(ShapeError) as caught:
        ConvTranspose2D(**({"filters": 4, "kernel_size": 3, "name": "up"} | options))(Input(shape))
    assert str(caught.value) == message
