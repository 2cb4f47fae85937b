"""What every layer promises, and the messages that all of them share."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import (
    Add,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    Input,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2D,
    Multiply,
    ReLU,
    Reshape,
    Sigmoid,
    SimpleRNN,
    Softmax,
    Step,
    Tanh,
    Upsample2D,
)
from handgrad.engine.checks import ConfigurationError, ShapeError

IMAGE, FLAT = (2, 6, 6), (5,)
LAYERS = {
    "add": (Add, FLAT),
    "batchnorm": (BatchNorm, IMAGE),
    "concat": (Concat, IMAGE),
    "convtranspose": (lambda **name: ConvTranspose2D(4, 3, **name), IMAGE),
    "globalavgpool": (GlobalAvgPool2D, IMAGE),
    "globalmaxpool": (GlobalMaxPool2D, IMAGE),
    "leakyrelu": (LeakyReLU, FLAT),
    "logsoftmax": (LogSoftmax, FLAT),
    "lrn": (LocalResponseNorm, IMAGE),
    "multiply": (Multiply, FLAT),
    "reshape": (lambda **name: Reshape((6, 12), **name), IMAGE),
    "rnn": (lambda **name: SimpleRNN(3, **name), (4, 5)),
    "step": (Step, FLAT),
    "upsample": (lambda **name: Upsample2D(2, **name), IMAGE),
    "avgpool": (lambda **name: AvgPool2D(2, **name), IMAGE),
    "conv": (lambda **name: Conv2D(4, 3, **name), IMAGE),
    "dense": (lambda **name: Dense(3, **name), FLAT),
    "dropout": (lambda **name: Dropout(0.5, **name), FLAT),
    "flatten": (Flatten, IMAGE),
    "linear": (Linear, FLAT),
    "maxpool": (lambda **name: MaxPool2D(2, **name), IMAGE),
    "relu": (ReLU, FLAT),
    "sigmoid": (Sigmoid, FLAT),
    "softmax": (Softmax, FLAT),
    "tanh": (Tanh, FLAT),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def nodes_for(layer, shape):
    return [Input(shape) for _ in range(2 if layer.inputs is None else layer.inputs)]


@every_layer
def test_kind_derivation_and_names(kind):
    make, shape = LAYERS[kind]
    layer, named = make(), make(name="my_1st")
    assert layer.kind == kind and str(layer) == type(layer).__name__
    assert str(named) == f"{type(layer).__name__} 'my_1st'"
    assert layer.derivation.__name__.rpartition(".")[2].replace("_", "") == type(layer).__name__.lower()
    assert named(*nodes_for(named, shape)).name == "my_1st"


@every_layer
@pytest.mark.parametrize("name", ["", "a b", "a.b", "conv1/W", 3, "a-b"])
def test_a_name_is_letters_digits_and_underscores(kind, name):
    make, _ = LAYERS[kind]
    with pytest.raises(ConfigurationError) as caught:
        make(name=name)
    assert str(caught.value) == f"{type(make()).__name__}: name: got {name!r}, expected letters, digits and _ alone"


@every_layer
def test_a_layer_has_one_place_in_the_graph(kind):
    make, shape = LAYERS[kind]
    layer = make(name="twice")
    layer(*nodes_for(layer, shape))
    with pytest.raises(ConfigurationError, match=rf"^{layer} is already in a graph; make a second layer"):
        layer(*nodes_for(layer, shape))


@every_layer
def test_a_layer_reads_nodes(kind):
    make, shape = LAYERS[kind]
    layer = make(name="it")
    for wrong in (np.zeros((3, *shape)), "image", None):
        with pytest.raises(ConfigurationError, match=f"'it': got {type(wrong).__name__}, expected a Node"):
            layer(wrong)
    with pytest.raises(ConfigurationError, match=r"'it': got [03] inputs, expected (1|two or more)"):
        layer(*([Input(shape)] * 3 if layer.inputs == 1 else []))


@every_layer
def test_a_failed_call_leaves_the_layer_free(kind):
    make, shape = LAYERS[kind]
    layer = make()
    with pytest.raises((ShapeError, ConfigurationError)):
        layer()
    layer(*nodes_for(layer, shape))


@every_layer
def test_literal_code_takes_the_options_without_a_share(kind):
    make, shape = LAYERS[kind]
    layer = make()
    node = layer(*nodes_for(layer, shape))
    options = layer.literal_options()
    if "mask" in options:
        options["mask"] = np.ones(shape, dtype=object)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=shape).astype(object) for _ in node.inputs]
    parameters = [rng.normal(size=s).astype(object) for s in layer.parameter_shapes(*[shape] * len(x)).values()]
    if layer.coupled:
        x = [array[None].repeat(2, axis=0) for array in x]
    assert layer.derivation.forward(*x, *parameters, **options).shape[layer.coupled :] == node.shape
    assert all(isinstance(value, (int, float, tuple, str, type(None))) for value in layer.settings().values())


def test_only_layers_with_parameters_multiply():
    counts = {kind: make().multiply_adds(shape) for kind, (make, shape) in LAYERS.items()}
    assert {kind for kind, count in counts.items() if count} == {"conv", "dense", "convtranspose", "rnn", "batchnorm"}
