"""Named models have the parameters and shapes of the notes, and a model that does not exist is said in one line."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import Input, Network, SoftmaxCrossEntropy
from handgrad.engine.checks import ConfigurationError, HandgradError
from handgrad.engine.models.build import IMAGE, MODELS, build, check_outputs
from handgrad.engine.models.mlp import mlp


def kinds(network):
    return [node.layer.kind for node in network.order if node.layer is not None]


def test_lenet5():
    network = build("lenet5", threads=1)
    assert network.parameter_count == 61_706
    assert {name: array.shape for name, array in network.parameters.items()} == {
        "conv1.W": (6, 1, 5, 5), "conv1.b": (6,), "conv2.W": (16, 6, 5, 5), "conv2.b": (16,),
        "dense1.W": (120, 400), "dense1.b": (120,), "dense2.W": (84, 120), "dense2.b": (84,),
        "dense3.W": (10, 84), "dense3.b": (10,),
    }  # fmt: skip
    shapes = [node.shape for node in network.order if node.layer is not None and node.layer.kind in ("conv", "maxpool")]
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]


def test_lenet5_of_1998():
    network = build("lenet5-1998", threads=1)
    assert network.parameter_count == 61_706
    assert kinds(network) == (["conv", "tanh", "avgpool"] * 2 + ["flatten", "dense", "tanh", "dense", "tanh", "dense"])


def test_mlp_of_the_notes():
    network = build("mlp", threads=1)
    sizes = [network.parameters[f"dense{k}.W"].size + network.parameters[f"dense{k}.b"].size for k in (1, 2, 3)]
    assert sizes == [401_920, 262_656, 5_130]  # S3
    assert network.parameter_count == 669_706


def test_mlp_of_other_sizes():
    x = Input((7,))
    network = Network(x, mlp(x, 3, hidden=(5, 4)), threads=1)
    assert kinds(network) == ["dense", "relu", "dense", "relu", "dense"]
    assert network.parameter_count == 7 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3
    x = Input((7,))
    assert kinds(Network(x, mlp(x, 3, hidden=()), threads=1)) == ["dense"]


@pytest.mark.parametrize("model", [*MODELS, "conv 4@5 > relu > maxpool 4 > dense 10"])
def test_one_step_in_every_direction(model):
    network = build(model, threads=1, seed=3)
    assert network.inputs[0].shape == IMAGE and network.seed == 3 and network.dtype == np.float32
    z = network.forward(np.random.default_rng(0).random((3, *IMAGE)))
    L, dL_dz = SoftmaxCrossEntropy()(z, [0, 1, 2])
    dL_dx = network.backward(dL_dz)
    assert 1 < L < 6  # untrained: about log 10
    assert dL_dx.any() and all(gradient.any() for gradient in network.gradients.values())


@pytest.mark.parametrize("model", MODELS)
def test_other_classes_shapes_and_types(model):
    network = build(model, (3, 32, 32), 7, dtype="float64", threads=1)
    assert network.outputs[0].shape == (7,) and network.dtype == np.float64


def test_a_text_ends_with_as_many_outputs_as_classes():
    assert build("dense 3 > relu > dense 4", (5,), 4, threads=1).outputs[0].shape == (4,)
    assert build("dense 3", (5,), threads=1).outputs[0].shape == (3,)
    with pytest.raises(ConfigurationError) as caught:
        build("conv 6@5 > relu", classes=10)
    assert str(caught.value) == (
        "the model 'conv 6@5 > relu': got an output of 6 x 24 x 24, expected 10, one per class; end it with dense 10"
    )
    with pytest.raises(ConfigurationError, match="got an output of 3, expected 10, one per class"):
        check_outputs("mine", build("dense 3", (5,), threads=1).outputs[0], 10)


@pytest.mark.parametrize("word", ["flatten", "ReLU", "sigmoid", "tanh", "linear"])
def test_one_word_can_be_a_text(word):
    assert len(build(word, (5,), threads=1).order) == 2


@pytest.mark.parametrize(
    ("model", "remedy"), [("lenet-5", "did you mean lenet5?"), ("mpl", "did you mean mlp?"), ("xyzzy", "")]
)
def test_a_model_that_does_not_exist(model, remedy):
    with pytest.raises(ConfigurationError) as caught:
        build(model)
    message = str(caught.value)
    assert message.startswith(
        f"there is no model '{model}': expected one of lenet5, lenet5-1998, mlp, or a text such as"
    )
    assert message.endswith(f"; {remedy}" if remedy else 'dense 10"')


def test_an_image_that_is_too_small_or_no_image():
    with pytest.raises(HandgradError, match="^Conv2D: got an image of 4 x 4"):
        build("lenet5", (1, 9, 9))
    with pytest.raises(HandgradError, match="^Conv2D: got an input of 784, expected an image of channels x rows"):
        build("lenet5", (784,))


@pytest.mark.parametrize("classes", [0, -1, 2.5])
def test_the_number_of_classes_is_checked(classes):
    with pytest.raises(ConfigurationError, match="expected an integer of at least 1"):
        build("mlp", classes=classes)
