"""``handgrad summary``: the numbers are counted a second way, and pictures keep their boxes and arrows apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from handgrad.cli import picture, run, summary
from handgrad.engine import (
    Add,
    AvgPool2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPool2D,
    Network,
    ReLU,
    Sigmoid,
    Softmax,
)
from handgrad.engine.models.build import build

SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}


def run_json(capsys, *arguments):
    assert run(["summary", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def branched():
    """Skip connections, four branches of unequal length, a node read twice, two inputs and two outputs."""
    left, right = Input((3, 8, 8), name="left"), Input((4, 8, 8), name="right")
    x = Add()(Conv2D(4, 3, padding="same")(left), right)
    for _ in range(2):
        y = Conv2D(4, 3, padding="same")(ReLU()(Conv2D(4, 3, padding="same")(x)))
        x = ReLU()(Add()(y, x))
    branches = Conv2D(4, 1)(x), MaxPool2D(3, stride=1, padding=1)(x), Conv2D(4, 3, padding=1)(ReLU()(x))
    x = Add(name="mix")(*branches, Conv2D(4, 3, padding=1)(ReLU()(Conv2D(2, 1)(x))))
    x = Flatten()(Add(name="twice")(x, x))
    return Network([left, right], [Dense(3)(x), Sigmoid()(Dense(1)(x))], threads=1)


@pytest.mark.parametrize(("model", "parameters"), [("mlp", 669_706), ("lenet5", 61_706)])
def test_parameters_are_those_of_the_books(capsys, model, parameters):
    assert run(["summary", model]) == 0
    text = capsys.readouterr().out
    assert f"{parameters:,}" in text.splitlines()[-5]
    assert max(map(len, text.splitlines())) <= 100
    value = run_json(capsys, model)
    assert value["parameters"] == sum(layer["parameters"] for layer in value["layers"]) == parameters


def test_only_the_first_layer_with_parameters_is_spared_its_input_gradient(capsys):
    layers = {layer["name"]: layer for layer in run_json(capsys, "lenet5")["layers"]}
    assert layers["conv1"]["multiply_adds_forward"] == 6 * 28 * 28 * 25
    assert layers["conv1"]["multiply_adds_backward"] == layers["conv1"]["multiply_adds_forward"]
    for name in ("conv2", "dense1", "dense2", "dense3"):
        assert layers[name]["multiply_adds_backward"] == 2 * layers[name]["multiply_adds_forward"] > 0
    assert layers["relu1"]["multiply_adds_forward"] == 0


class Counted:
    """A number that counts its multiplications with another one of its kind."""

    products = 0

    def __mul__(self, other):
        Counted.products += isinstance(other, Counted)
        return self

    def __add__(self, other):
        return self

    __radd__ = __add__


@pytest.mark.parametrize(
    ("layer", "shape"), [(Dense(5), (7,)), (Conv2D(4, (2, 3), stride=(1, 2), groups=2), (2, 5, 6))]
)
def test_multiply_adds_are_the_products_of_the_literal_code(layer, shape):
    x = Input(shape)
    network = Network(x, layer(ReLU()(Dense(7)(x)) if len(shape) == 1 else ReLU()(Conv2D(2, 1)(x))), threads=1)
    row = summary.rows(network)[-1]
    numbers = [np.full(s, Counted(), dtype=object) for s in layer.parameter_shapes(shape).values()]
    Counted.products = 0
    z = layer.derivation.forward(np.full(shape, Counted(), dtype=object), *numbers, **layer.literal_options())
    assert row.forward == Counted.products
    Counted.products = 0
    dL_dz = np.full(z.shape, Counted(), dtype=object)
    layer.derivation.backward(dL_dz, np.full(shape, Counted(), dtype=object), *numbers, **layer.literal_options())
    assert row.backward == Counted.products


@pytest.mark.parametrize("samples", [1, 64, 65])
@pytest.mark.parametrize("make", [lambda: build("lenet5", threads=1), branched])
def test_bytes_are_those_that_both_passes_allocate(make, samples):
    network = make()
    current = network.pass_for(samples, input_gradient=False)
    current.allocate_gradients()
    arrays = {}
    for part in current.active:
        for array in (*part.values.values(), *part.gradients.values(), *part.edges.values(), *part.seeds.values()):
            while array is not None and array.base is not None:
                array = array.base
            if array is not None:
                arrays[id(array)] = array.nbytes - 64  # room to begin on a cache line
    assert sum(row.bytes for row in summary.rows(network, samples)) == sum(arrays.values())


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Conv2D(6, 5), "Conv2D 6@5x5"),
        (Conv2D(8, (3, 5), padding=(1, 2), stride=2, dilation=(2, 1), groups=2), None),
        (Conv2D(8, 3, padding=(1, 0, 2, 0)), "Conv2D 8@3x3 pad 1,0,2,0"),
        (MaxPool2D(2), "MaxPool2D 2x2"),
        (MaxPool2D(3, stride=2, padding=1), "MaxPool2D 3x3 stride 2 pad 1"),
        (AvgPool2D((2, 1), stride=(1, 2)), "AvgPool2D 2x1 stride 1x2"),
        (Dense(120), "Dense 120"),
        (Dropout(0.25), "Dropout 0.25"),
        (Softmax(), "Softmax"),
    ],
)
def test_settings_are_said_in_words(layer, words):
    layer(Input((10,) if isinstance(layer, (Dense, Softmax)) else (4, 28, 28)))
    assert summary.words(layer) == (words or "Conv2D 8@3x5 stride 2 pad 1x2 dilation 2x1 groups 2")


def test_data_sets_shapes_and_batch_sizes(capsys):
    assert run_json(capsys, "mlp", "--data", "fashion")["input_shape"] == [1, 28, 28]
    xor = run_json(capsys, "mlp", "--data", "toy:xor")
    assert (xor["input_shape"], xor["output_shape"]) == ([2], [2])
    color = run_json(capsys, "lenet5", "--input-shape", "3x32x32", "--classes", "7", "--batch-size", "16")
    assert (color["input_shape"], color["output_shape"], color["batch_size"]) == ([3, 32, 32], [7], 16)


def test_a_run_folder_knows_its_model(capsys, tmp_path):
    config = {
        "model": "conv 2@3x3 > relu > dense 3",
        "data": "mnist",
        "input_shape": [1, 6, 6],
        "class_names": ["a", "b", "c"],
        "scale": [1.0],
        "shift": [0.0],
        "optimizer": "adam",
        "optimizer_settings": {},
        "schedule": "cosine",
        "dtype": "float64",
        "epochs": 1,
        "batch_size": 64,
        "seed": 0,
        "threads": 1,
        "validation": 10,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    value = run_json(capsys, str(tmp_path))
    assert (value["model"], value["dtype"], value["output_shape"]) == (config["model"], "float64", [3])
    assert run(["summary", str(tmp_path), "--classes", "3"]) == 2
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert run(["summary", str(tmp_path)]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["lenet"], 2, "did you mean lenet5?"),
        ([""], 2, "layer 1 of the text"),
        (["dense 5", "--classes", "3"], 2, "end it with dense 3"),
        (["mlp", "--data", "mnisst"], 2, "did you mean 'mnist'?"),
        (["mlp", "--data", "mnist", "--input-shape", "3"], 2, "one or the other"),
        (["mlp", "--input-shape", "1xa"], 2, "such as 1x28x28"),
        (["lenet5", "--input-shape", "1x4x4"], 2, "Conv2D"),
        (["dense 99999999999999"], 2, "expected at most 2147483648 values"),
        (["mlp", "--picture", "net.jpg"], 2, "expected .png, .svg, .pdf"),
        (["mlp", "--picture", "missing/net.png"], 3, "cannot write missing/net.png"),
        (["."], 3, "no run"),
    ],
)
def test_errors_are_one_line(capsys, monkeypatch, tmp_path, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert run(["summary", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_pictures_are_files_of_their_kind_and_repeatable(capsys, tmp_path, suffix):
    file = tmp_path / f"net.{suffix}"
    assert run(["summary", "conv 2@3x3 > relu > dense 3", "--input-shape", "1x6x6", "--picture", str(file)]) == 0
    assert f"picture: {file}" in capsys.readouterr().err
    first = file.read_bytes()
    assert first.startswith(SIGNATURES[suffix])
    assert run(["summary", "conv 2@3x3 > relu > dense 3", "--input-shape", "1x6x6", "--picture", str(file)]) == 0
    assert file.read_bytes() == first


def test_a_picture_names_every_layer_with_shape_and_parameters():
    drawn = [text.get_text() for text in picture.figure(build("lenet5", threads=1), "lenet5").axes[0].texts]
    for text in (
        "lenet5",
        "61,706 parameters",
        "conv1",
        "Conv2D 6@5x5 pad 2",
        "6 × 28 × 28",
        "156 parameters",
        "dense3",
    ):
        assert text in drawn


def test_no_box_stands_on_another_and_no_arrow_crosses_a_box():
    network = branched()
    layout = picture.arrange(network)
    boxes = {(layout.column[name], layout.level[name]) for name in network.nodes}
    assert len(boxes) == len(network.nodes)
    edges = [(s.name, name, k) for name, node in network.nodes.items() for k, s in enumerate(node.inputs)]
    assert set(layout.via) == set(edges)
    passed = []
    for (source, target, _), column in layout.via.items():
        assert layout.level[source] < layout.level[target]
        passed += [(column, level) for level in range(layout.level[source] + 1, layout.level[target])]
    assert len(set(passed)) == len(passed), "no two edges run in one lane"
    assert not set(passed) & boxes


def test_texts_stay_inside_their_boxes():
    figure = picture.figure(branched(), "a title that is much too long for so small a picture")
    figure.canvas.draw()
    whole = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
