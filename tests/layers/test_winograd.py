"""A convolution in tiles of 4 x 4 outputs is the convolution: by the literal code and by the direct kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from handgrad.derivations import winograd as derivation
from handgrad.engine import Conv2D, Input, Network, ReLU, Tanh
from handgrad.engine.backend import LANES, TILE
from handgrad.engine.checks import ShapeError
from handgrad.engine.layers import winograd
from handgrad.engine.layers.correlation import Correlation
from handgrad.engine.layers.winograd import Tiling

LITERAL_WORK = 30_000  # multiplications of the literal forward pass in one example
# Relative to the largest result. The transforms magnify rounding, on random numbers four times; and the gradient of a
# weight is a sum of 1,620 products most of which cancel, so that it is 40 times smaller than what it is made of.
SINGLE = 4 * 40 * 2.0**-24


@pytest.fixture
def always(monkeypatch):
    """Tiles also where they take longer."""
    monkeypatch.setattr(Tiling, "is_faster", True)


@st.composite
def configurations(draw):
    """Options of a layer, and the shape of a mini-batch it fits."""
    filters, channels = draw(st.integers(1, 2 * TILE + 1)), draw(st.integers(1, 2 * TILE + 1))
    padding = draw(st.integers(0, 3) | st.tuples(*[st.integers(0, 3)] * 4))
    H, W = draw(st.integers(1, 9)), draw(st.integers(1, 11))
    try:
        O, P, Q = Conv2D(filters, 3, padding=padding)(Input((channels, H, W))).shape
    except ShapeError:
        assume(False)
    work = 9 * O * P * Q * channels
    assume(work <= LITERAL_WORK)
    return {"filters": filters, "padding": padding}, (
        draw(st.integers(1, min(35, LITERAL_WORK // work))),
        channels,
        H,
        W,
    )


def layer(options):
    return lambda: Conv2D(options["filters"], 3, padding=options["padding"])


ONE_OUTPUT = ({"filters": 1, "padding": 0}, (1, 1, 3, 3))
TWO_GROUPS_OF_CHANNELS = ({"filters": 3, "padding": 1}, (2, 17, 4, 4))
MANY_PATCHES = ({"filters": 2, "padding": (1, 0, 3, 2)}, (18, 1, 5, 21))
ALL_OUTSIDE = ({"filters": TILE + 1, "padding": 3}, (3, 2, 1, 1))
WIDE_BORDERS = ({"filters": 2, "padding": (7, 4, 5, 6)}, (2, 1, 2, 3))


@example(WIDE_BORDERS, 0)
@example(ONE_OUTPUT, 0)
@example(TWO_GROUPS_OF_CHANNELS, 0)
@example(MANY_PATCHES, 1)
@example(ALL_OUTSIDE, 2)
@settings(max_examples=30)
@given(configurations(), st.integers(0, 99))
def test_kernels_are_the_literal_code(at_point, configuration, seed):
    options, shape = configuration
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tiling, "is_faster", True)
        point = at_point(
            layer(options), np.random.default_rng(seed).normal(size=shape), seed=seed, threads=1 + seed % 2
        )
        assert point.layer._tiling is not None
        point.check_literal()


def test_finite_differences(at_point, rng, always):
    at_point(lambda: Conv2D(2, 3, padding=(1, 0, 2, 1)), rng.normal(size=(2, 2, 5, 6))).check_differences()


@pytest.mark.parametrize("shape", [(20, 16, 9, 9), (17, 33, 6, 13), (17, 33, 6, 11)])  # the last: patches hang over
@pytest.mark.parametrize("activation", [None, ReLU, Tanh])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_as_the_direct_kernels(monkeypatch, rng, shape, activation, dtype):
    x, u = rng.normal(size=shape), rng.normal(size=(shape[0], 19, *shape[2:]))
    results = []
    for is_faster in (False, True):
        monkeypatch.setattr(Tiling, "is_faster", is_faster)
        image = Input(shape[1:])
        z = Conv2D(19, 3, padding="same", name="conv")(image)
        network = Network(image, z if activation is None else activation()(z), dtype=dtype, seed=3, threads=2)
        network.parameters["conv.b"] = np.linspace(-1, 1.1, 19)
        current = network.pass_for(len(x), fused=True)
        current.allocate_gradients()
        current.load(network.inputs[0].name, x.astype(dtype))
        current.prepare(training=True, draw=0)
        for _ in range(2):  # nothing is left over from the step before
            current.load_seed(0, u.astype(dtype))
            current.run(current.forward)
            values = np.concatenate([part.values[network.outputs[0].name].ravel() for part in current.active])
            current.run(current.backward)
        current.reduce_gradients()
        edges = np.concatenate([part.edges["conv", 0].ravel() for part in current.active])
        results.append([values, edges, *(array.copy() for array in network.gradients.values())])
    limit = 1e-12 if dtype == "float64" else SINGLE
    for direct, tiled in zip(*results, strict=True):
        assert tiled.dtype == dtype
        size = max(np.abs(direct).max(), 8)  # that of the sums, where tanh hides it
        np.testing.assert_allclose(tiled, direct, rtol=0, atol=limit * size)


def test_transforms_are_the_matrices_of_the_derivation(rng):
    d, y, w, u = (rng.normal(size=size) for size in (6, 4, 3, 6))
    A, G, B = (np.array(matrix, dtype=float) for matrix in (derivation.A, derivation.G, derivation.B))
    for found, expected in (
        (winograd.pixels_to_points(*d, 2.0, 4.0), B.T @ d),
        (winograd.points_to_outputs(*u, 2.0, 4.0), A.T @ u),
        (winograd.outputs_to_points(*y, 2.0, 4.0), A @ y),
        (winograd.weights_to_points(*w, 1 / 4, 1 / 6), G @ w),
        (winograd.points_to_weights(*u, 1 / 4, 1 / 6), G.T @ u),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * np.abs(expected).max() * 8)


def tiling(channels, filters, size, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), groups=1):
    sizes = Correlation((channels, size, size), (filters, size, size), kernel, stride, (1, 1, 1, 1), dilation, groups)
    return Tiling.of(sizes)


@pytest.mark.parametrize(
    ("options", "is_tiled"),
    [
        ({"channels": 16, "filters": 16, "size": 32}, True),
        ({"channels": 32, "filters": 64, "size": 8}, True),
        ({"channels": 3, "filters": 16, "size": 32}, False),  # transforms would take longer than the products they save
        ({"channels": 4, "filters": 16, "size": 32}, False),
        ({"channels": 8, "filters": 16, "size": 32}, True),
        ({"channels": 1, "filters": 64, "size": 28}, False),
        ({"channels": 64, "filters": 64, "size": 1}, False),  # one output of sixteen would be kept
        ({"channels": 16, "filters": 16, "size": 32, "kernel": (5, 5)}, False),
        ({"channels": 16, "filters": 16, "size": 32, "kernel": (1, 3)}, False),
        ({"channels": 16, "filters": 16, "size": 32, "stride": (1, 2)}, False),
        ({"channels": 16, "filters": 16, "size": 32, "dilation": (2, 1)}, False),
        ({"channels": 32, "filters": 32, "size": 32, "groups": 2}, False),
    ],
)
def test_where_tiles_are_chosen(options, is_tiled):
    assert (tiling(**options) is not None) == is_tiled


def test_scratch_is_small_and_does_not_grow_with_the_mini_batch():
    image = Input((16, 32, 32))
    conv = Conv2D(16, 3, padding="same")
    conv(image)
    one, eight = (conv.scratch(((16, 32, 32),), blocks, np.dtype(np.float32)) for blocks in (1, 8))
    assert {name: array.shape for name, array in one.items()} == {name: array.shape for name, array in eight.items()}
    block = 16 * 32 * 32 * LANES * 4
    assert sum(array.nbytes for array in one.values()) < 3 * block


def test_nan_stays_in_its_sample_and_near_its_pixel(always):
    image = Input((4, 12, 12))
    network = Network(image, Conv2D(4, 3, padding="same")(image), seed=0)
    x = np.zeros((3, 4, 12, 12))
    x[1, 2, 5, 5] = np.nan
    is_nan = np.isnan(network.forward(x))
    assert is_nan[1, :, 4:7, 4:7].all()
    assert not is_nan[[0, 2]].any() and not is_nan[1, :, 8:].any() and not is_nan[1, :, :, 8:].any()
