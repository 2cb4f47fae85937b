"""Networks written as text: every word of the grammar, and one line for whatever is not understood."""

from __future__ import annotations

import re

import numpy as np
import pytest

from handgrad.engine import Input, Network
from handgrad.engine.checks import ConfigurationError, HandgradError, ShapeError
from handgrad.engine.models.lenet import lenet5
from handgrad.engine.models.text import chain

IMAGE, FLAT = (1, 28, 28), (20,)
LENET5 = (
    "conv 6@5x5 same > relu > maxpool 2 > conv 16@5x5 > relu > maxpool 2"
    " > dense 120 > relu > dense 84 > relu > dense 10"
)


def layers(text, shape=IMAGE):
    """Return (kind, settings) of every layer that a text makes."""
    return [(layer.kind, layer.settings()) for layer in nodes(text, shape)]


def nodes(text, shape=IMAGE):
    image = Input(shape)
    network = Network(image, chain(text, image), threads=1)
    return [node.layer for node in network.order if node.layer is not None]


def conv(**changed):
    settings = {"filters": 6, "kernel_size": (5, 5), "stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    return ("conv", settings | {"groups": 1} | changed)


def pool(kind, size, stride=None, padding=(0, 0, 0, 0)):
    return (kind, {"size": size, "stride": stride or size, "padding": padding})


def test_lenet5_in_one_line_is_lenet5_layer_by_layer():
    image = Input(IMAGE)
    model = Network(image, lenet5(image), threads=1)
    assert layers(LENET5) == [(n.layer.kind, n.layer.settings()) for n in model.order if n.layer is not None]
    text = Network(image := Input(IMAGE), chain(LENET5, image), threads=1)
    assert list(text.nodes) == list(model.nodes)
    assert [n.shape for n in text.order] == [n.shape for n in model.order]
    assert {k: a.shape for k, a in text.parameters.items()} == {k: a.shape for k, a in model.parameters.items()}
    assert text.parameter_count == 61_706


@pytest.mark.parametrize(
    ("word", "layer"),
    [
        ("conv 6@5x5", conv()),
        ("conv 6@5", conv()),
        ("conv 6@3x5", conv(kernel_size=(3, 5))),
        ("conv 6@5 same", conv(padding=(2, 2, 2, 2))),
        ("conv 6@5 valid", conv()),
        ("conv 6@5 pad 1", conv(padding=(1, 1, 1, 1))),
        ("conv 6@5 pad 1x2", conv(padding=(1, 1, 2, 2))),
        ("conv 6@5 pad 0", conv()),
        ("conv 6@5 stride 2", conv(stride=(2, 2))),
        ("conv 6@5 stride 2x3 pad 2", conv(stride=(2, 3), padding=(2, 2, 2, 2))),
        ("conv 6@5 dilation 2", conv(dilation=(2, 2))),
        ("conv 6@5 groups 1", conv()),
        ("conv2d 6@5", conv()),
        ("maxpool 2", pool("maxpool", (2, 2))),
        ("maxpool 3 stride 2", pool("maxpool", (3, 3), (2, 2))),
        ("maxpool 3x2 pad 1", pool("maxpool", (3, 2), padding=(1, 1, 1, 1))),
        ("pool 2", pool("maxpool", (2, 2))),
        ("maxpool2d 2", pool("maxpool", (2, 2))),
        ("avgpool 2", pool("avgpool", (2, 2))),
        ("avgpool2d 3 stride 2 pad 1", pool("avgpool", (3, 3), (2, 2), (1, 1, 1, 1))),
        ("relu", ("relu", {})),
        ("sigmoid", ("sigmoid", {})),
        ("tanh", ("tanh", {})),
        ("linear", ("linear", {})),
        ("flatten", ("flatten", {})),
        ("dropout 0.25", ("dropout", {"rate": 0.25})),
        ("dropout 0", ("dropout", {"rate": 0.0})),
        ("maxpool 3 stride 2 same", pool("maxpool", (3, 3), (2, 2), (0, 1, 0, 1))),
        ("globalavgpool", ("globalavgpool", {})),
        ("globalmaxpool2d", ("globalmaxpool", {})),
        ("batchnorm", ("batchnorm", {"momentum": 0.1, "eps": 1e-5})),
        ("lrn 3", ("lrn", {"size": 3, "alpha": 1e-4, "beta": 0.75, "k": 1.0})),
        ("leakyrelu", ("leakyrelu", {"slope": 0.01})),
        ("leakyrelu 0.2", ("leakyrelu", {"slope": 0.2})),
        ("step", ("step", {"surrogate": None})),
        ("step straight-through", ("step", {"surrogate": "straight-through"})),
        ("step triangle", ("step", {"surrogate": "triangle"})),
        ("upsample 2", ("upsample", {"scale": (2, 2), "method": "nearest"})),
        ("upsample2d 2x3 bilinear", ("upsample", {"scale": (2, 3), "method": "bilinear"})),
        ("reshape 28x28", ("reshape", {"shape": (28, 28)})),
        ("reshape 784", ("reshape", {"shape": (784,)})),
    ],
)
def test_every_word(word, layer):
    assert layers(word) == [layer]
    assert layers(f"  {word.upper()}  ") == [layer]
    assert layers(word.replace(" ", "   ")) == [layer]


@pytest.mark.parametrize(
    ("word", "layer"), [("dense 7", ("dense", {"features": 7})), ("fc 7", ("dense", {"features": 7}))]
)
def test_dense_flattens_an_image_first_and_nothing_else(word, layer):
    assert layers(word) == [("flatten", {}), layer]
    assert layers(word, FLAT) == [layer]
    assert layers(f"flatten > {word}") == [("flatten", {}), layer]
    assert layers(f"{word} > {word}") == [("flatten", {}), layer, layer]


def test_words_of_layers_that_need_others_before_them():
    rnn = {"units": 8, "activation": "tanh", "return_sequences": False}
    assert layers("rnn 8", (4, 3)) == [("rnn", rnn)]
    assert layers("rnn 8 sequences sigmoid", (4, 3)) == [
        ("rnn", rnn | {"activation": "sigmoid", "return_sequences": True})
    ]
    ((kind, settings),) = layers("convtranspose 4@3x2 stride 2 pad 1 outpad 1 dilation 1 groups 1", (2, 5, 5))
    assert kind == "convtranspose" and settings["filters"] == 4 and settings["kernel_size"] == (3, 2)
    assert settings["stride"] == (2, 2) and settings["output_padding"] == (1, 1)
    assert layers("dense 3 > logsoftmax", FLAT)[-1] == ("logsoftmax", {})


def test_groups():
    assert layers("conv 4@3 groups 2", (2, 5, 5)) == [conv(filters=4, kernel_size=(3, 3), groups=2)]


@pytest.mark.parametrize("arrow", [">", " > ", "->", " -> ", "→", " → "])
def test_arrows_and_the_word_input(arrow):
    expected = layers("conv 2@3 > relu > dense 3 > softmax")
    for start in ("", f"INPUT{arrow}", f" input {arrow}"):
        assert layers(start + arrow.join(["conv 2@3", "relu", "dense 3", "softmax"])) == expected


def test_a_text_can_start_anywhere_in_a_graph():
    image = Input(IMAGE)
    both = chain("relu > dense 3", chain("conv 2@3", image))
    assert Network(image, both, threads=1).forward(np.zeros((2, *IMAGE))).shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "number", "quoted", "message"),
    [
        ("", 1, "", "expected one of conv, dense, maxpool, avgpool, dropout, convtranspose, .*, softmax, logsoftmax"),
        ("relu >", 2, "", "expected one of conv, dense"),
        ("relu > > relu", 2, "", "expected one of conv, dense"),
        ("relu > input > relu", 2, "input", "expected one of conv, dense"),
        ("dens 3", 1, "dens 3", "expected one of conv, dense, maxpool.*; did you mean dense?"),
        ("relu > Relo", 2, "Relo", "did you mean relu?"),
        ("xyzzy 7", 1, "xyzzy 7", "logsoftmax$"),
        ("relu 3", 1, "relu 3", "got '3' after relu, expected nothing"),
        ("flatten > softmax now", 2, "softmax now", "got 'now' after softmax, expected nothing"),
        ("dense", 1, "dense", "got nothing after it, expected the number of features, for example dense 120"),
        ("conv", 1, "conv", "got nothing after it, expected FILTERS@SIZE, for example conv 6@5x5 same"),
        ("maxpool", 1, "maxpool", "got nothing after it, expected a size, for example maxpool 2 or maxpool 3 stride 2"),
        ("avgpool", 1, "avgpool", "got nothing after it, expected a size, for example avgpool 2"),
        ("dropout", 1, "dropout", "got nothing after it, expected a rate from 0 up to below 1, for example dropout 0.5"),
        ("dense many", 1, "dense many", "got 'many', expected the number of features"),
        ("dense -3", 1, "dense -3", "got '-3', expected the number of features"),
        ("dense 3.5", 1, "dense 3.5", "got '3.5', expected the number of features"),
        ("dense 3 relu", 1, "dense 3 relu", "got 'relu', expected after the size only nothing"),
        ("dropout half", 1, "dropout half", "got 'half', expected a rate"),
        ("dropout 0.5 0.5", 1, "dropout 0.5 0.5", "got '0.5', expected after the size only nothing"),
        ("conv 6", 1, "conv 6", "got '6', expected FILTERS@SIZE"),
        ("conv @5", 1, "conv @5", "got '@5', expected FILTERS@SIZE"),
        ("conv 6@5x", 1, "conv 6@5x", "got '6@5x', expected FILTERS@SIZE"),
        ("conv 6@5x5x5", 1, "conv 6@5x5x5", "got '6@5x5x5', expected FILTERS@SIZE"),
        ("conv 6@5 big", 1, "conv 6@5 big", "got 'big', expected after the size only same, valid, pad, stride"),
        ("conv 6@5 stride", 1, "conv 6@5 stride", "got nothing after 'stride', expected a number, or rows x columns as 3x5"),
        ("conv 6@5 stride two", 1, "conv 6@5 stride two", "got 'two', expected stride with a number, or rows x columns"),
        ("conv 6@5 pad 1x", 1, "conv 6@5 pad 1x", "got '1x', expected pad with a number"),
        ("maxpool 2x", 1, "maxpool 2x", "got '2x', expected a size"),
        ("avgpool 2 dilation 2", 1, "avgpool 2 dilation 2", "got 'dilation', expected after the size only same, valid, pad"),
        ("maxpool 2 same pad 1", 1, "maxpool 2 same pad 1", "got 'pad', expected the padding once"),
        ("conv 6@5 stride 2 stride 1", 1, "conv 6@5 stride 2 stride 1", "got 'stride', expected the stride once"),
        ("step round", 1, "step round", "got 'round', expected after step only straight-through, sigmoid, triangle"),
        ("step sigmoid triangle", 1, "step sigmoid triangle", "got 'triangle', expected the surrogate once"),
        ("leakyrelu steep", 1, "leakyrelu steep", "got 'steep', expected a slope, for example leakyrelu 0.01"),
        ("rnn", 1, "rnn", "got nothing after it, expected the number of units, for example rnn 64"),
        ("rnn 3 relu", 1, "rnn 3 relu", "got 'relu', expected after the size only tanh, sigmoid, sequences"),
        ("reshape", 1, "reshape", "got nothing after it, expected the sizes of a sample, for example reshape 28x28"),
        ("reshape 2x2x2x2", 1, "reshape 2x2x2x2", "got '2x2x2x2', expected the sizes of a sample"),
        ("convtranspose 4", 1, "convtranspose 4", "got '4', expected FILTERS@SIZE, for example convtranspose 6@4x4"),
        ("upsample 2 linear", 1, "upsample 2 linear", "got 'linear', expected after the size only nearest, bilinear"),
        ("batchnorm 3", 1, "batchnorm 3", "got '3' after batchnorm, expected nothing"),
    ],
)  # fmt: skip
def test_what_is_not_understood(text, number, quoted, message):
    with pytest.raises(ConfigurationError) as caught:
        chain(text, Input(IMAGE))
    start = f"layer {number} of the text, '{quoted}': "
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    assert re.search(message.replace("?", r"\?"), str(caught.value).removeprefix(start))


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ("dense 0", "Dense: features: got 0, expected an integer of at least 1"),
        ("conv 0@3", "Conv2D: filters: got 0, expected an integer of at least 1"),
        ("conv 6@0", "Conv2D: kernel_size: got (0, 0), expected an integer of at least 1, or (rows, columns)"),
        ("conv 6@3 stride 0", "Conv2D: stride: got (0, 0)"),
        ("conv 6@3 dilation 0x1", "Conv2D: dilation: got (0, 1)"),
        ("conv 6@3 groups 4", "Conv2D: filters: got 6 in 4 groups, expected a multiple of groups"),
        ("maxpool 0", "MaxPool2D: size: got (0, 0)"),
        ("avgpool 2 stride 0", "AvgPool2D: stride: got (0, 0)"),
        ("dropout 1", "Dropout: rate: got 1.0, expected a number from 0 up to below 1"),
        ("dropout nan", "Dropout: rate: got nan"),
        ("conv 6@3 groups 2", "Conv2D: got 1 channels, expected a multiple of its 2 groups"),
        ("maxpool 40", "MaxPool2D: got an image of 28 x 28"),
        ("maxpool 2 pad 2", "MaxPool2D: padding: got (2, 2, 2, 2), expected less than its window of 2 x 2"),
        ("softmax", "Softmax: got an input of 1 x 28 x 28, expected a flat one; put a Flatten before it"),
    ],
)
def test_what_a_layer_refuses_is_said_with_its_place(piece, message):
    with pytest.raises(HandgradError) as caught:
        chain(f"relu > {piece} > dense 10", Input(IMAGE))
    assert str(caught.value).startswith(f"layer 2 of the text, '{piece}': {message}")


def test_groups_are_one_number():
    with pytest.raises(ConfigurationError, match="got '2x3'"):
        chain("conv 6@3 groups 2x3", Input((2, 5, 5)))


def test_an_image_layer_behind_a_dense_layer():
    with pytest.raises(
        ShapeError, match="^layer 2 of the text, 'conv 6@3': Conv2D: got an input of 10, expected an image"
    ):
        chain("dense 10 > conv 6@3", Input(IMAGE))


@pytest.mark.parametrize("text", ["input", "INPUT", " input "])
def test_no_layers(text):
    with pytest.raises(ConfigurationError) as caught:
        chain(text, Input(IMAGE))
    assert str(caught.value) == 'the text has no layers: expected for example "dense 128 > relu > dense 10"'
