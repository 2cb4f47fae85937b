"""Networks at random: whatever the text parser accepts agrees with the literal code; the rest is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from handgrad.engine import Add, Concat, Input, Multiply, Network
from handgrad.engine.cases import Projection
from handgrad.engine.checks import HandgradError
from handgrad.engine.gradcheck import GradientCheck
from handgrad.engine.models.text import chain

SMALL, ONE_OR_TWO = st.integers(1, 4), st.integers(1, 2)
SIDE = SMALL.map(str) | st.tuples(SMALL, SMALL).map(lambda pair: f"{pair[0]}x{pair[1]}")
PADDING = st.sampled_from(["", " same", " valid", " pad 1", " pad 0x2", " pad 2"])
STRIDE = st.sampled_from(["", " stride 2", " stride 1x3", " stride 3"])
DILATION = st.sampled_from(["", " dilation 2", " dilation 1x3"])
GROUPS = st.sampled_from(["", " groups 2", " groups 3"])
WINDOW = st.sampled_from(["2", "3", "2x3", "1"])  # few, for each is compiled on its own
ACTIVATION = st.sampled_from(
    [
        "relu",
        "leakyrelu",
        "leakyrelu 0.5",
        "sigmoid",
        "tanh",
        "linear",
        "step",
        "step sigmoid",
        "dropout 0.4",
        "batchnorm",
    ]
)
IMAGE_LAYER = st.one_of(
    st.builds("conv {}@{}{}{}{}{}".format, SMALL, SIDE, STRIDE, PADDING, DILATION, GROUPS),
    st.builds("convtranspose {}@{}{}{}{}".format, ONE_OR_TWO, SIDE, STRIDE, PADDING, GROUPS),
    st.builds("maxpool {}{}{}".format, WINDOW, STRIDE, PADDING),
    st.builds("avgpool {}{}{}".format, WINDOW, STRIDE, PADDING),
    st.builds("upsample {}{}".format, ONE_OR_TWO, st.sampled_from(["", " bilinear"])),
    st.builds("lrn {}".format, SMALL),
    ACTIVATION,
)
FLAT_LAYER = st.one_of(st.builds("dense {}".format, SMALL), ACTIVATION, st.sampled_from(["softmax", "logsoftmax"]))
TEXT = st.builds(
    lambda image, bridge, flat: " > ".join([*image, *bridge, *flat]),
    st.lists(IMAGE_LAYER, min_size=1, max_size=3),
    st.sampled_from([[], ["flatten"], ["globalavgpool"], ["globalmaxpool"], ["reshape 4x3", "rnn 2"], ["dense 3"]]),
    st.lists(FLAT_LAYER, max_size=2),
)
SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
LARGEST = 3000  # multiply-adds of the literal code for one mini-batch


def build(text, shape):
    """Return (network, literal work for one sample), or None where the text is refused in one line."""
    image = Input(shape, name="image")
    try:
        z = chain(text, image)
        network = Network(image, z, dtype="float64", threads=2)
    except HandgradError as error:
        assert str(error) and "\n" not in str(error)
        assert " of the text, '" in str(error), "the message says which layer it is"
        return None
    layers = [node for node in network.order if node.layer is not None]
    return network, sum(n.layer.multiply_adds(*(s.shape for s in n.inputs)) + n.size for n in layers)


def agree(network, samples, training, seed):
    """Demand that the value and every gradient of L = Σ u z are those of the literal code."""
    rng = np.random.default_rng(seed)
    for array in network.parameters.values():
        array[...] = rng.normal(size=array.shape)
    x = [rng.normal(size=(samples, *node.shape)) for node in network.inputs]
    u = rng.normal(size=(samples, *network.outputs[0].shape))
    check = GradientCheck(network, Projection(), x, u, training=training)
    rows = list(check.run(elements=1))
    wrong = {row.name: row for row in rows if not row.views["literal"].relative < 1e-9}  # deep chains amplify rounding
    assert not wrong, wrong


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@example(
    "conv 2@3 dilation 2 stride 2 pad 2 > batchnorm > relu > maxpool 3 stride 2 same > dense 3", (1, 5, 6), 17, True, 0
)
@example("convtranspose 2@3x2 stride 2 pad 1 groups 2 > lrn 2 > globalmaxpool > softmax", (2, 3, 4), 3, False, 0)
@example("avgpool 3 pad 1 > upsample 2 bilinear > reshape 4x3 > rnn 2 > logsoftmax", (1, 3, 3), 2, True, 0)
@given(TEXT, SHAPE, st.sampled_from([1, 2, 17]), st.booleans(), st.integers(0, 99))
def test_what_is_accepted_agrees_with_the_literal_code(text, shape, samples, training, seed):
    built = build(text, shape)
    if built is None:
        return
    network, work = built
    note(f"{text} on {shape}: {work} operations")
    if work * samples > LARGEST:
        return
    try:
        agree(network, samples, training, seed)
    except HandgradError as error:  # a single value per channel cannot be normalized
        assert "got a mini-batch of 1 sample in training" in str(error)


def test_the_strategy_makes_networks_that_are_really_compared():
    """At least a third of the texts are accepted and small enough; otherwise the test above would be empty."""
    compared, refused = [], []

    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(TEXT, SHAPE)
    def count(text, shape):
        built = build(text, shape)
        (refused if built is None else compared).append(built is None or built[1] * 2 <= LARGEST)

    count()
    assert sum(compared) > 33 and len(refused) > 5


@pytest.mark.parametrize("seed", range(3))
def test_graphs_with_branches_agree(seed):
    """Two inputs, fan-out, and every layer that joins branches, one of them reading a node twice."""
    a, b = Input((2, 4, 4), name="a"), Input((3, 4, 4), name="b")
    left, right = chain("conv 3@3 same > batchnorm > tanh", a), chain("conv 3@1 > sigmoid", b)
    gate = Multiply()(left, right, left)
    joined = Concat()(Add()(gate, right), chain("maxpool 3 stride 1 same", b), left)
    network = Network([a, b], chain("globalavgpool > dense 3", joined), dtype="float64", threads=2, seed=seed)
    agree(network, 19, True, seed)
