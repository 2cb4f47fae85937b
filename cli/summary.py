"""``handgrad summary MODEL``: shapes, parameters, multiply-adds and memory, layer by layer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..engine.checks import ConfigurationError, DataError, HandgradError
from . import runs
from .console import json_option, note, print_json, table
from .options import DATA_HELP, parse_shape

if TYPE_CHECKING:
    import numpy as np

    from ..engine.graph import Node
    from ..engine.layers.layer import Layer
    from ..engine.network import Network

MEANING = "multiply-adds per sample, each a product and an addition, so 2 operations."


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name, kind : str
        Of the node; of its layer, "Input" for an input.
    settings : dict
        The layer's hyper-parameters.
    words : str
        Kind and settings as one reads them.
    output_shape : tuple of int
        Of one sample.
    parameters : int
    forward, backward : int
        Multiply-adds for one sample.
    bytes : int
        Buffers of value and gradient for a mini-batch, as a trace sees them; training needs less, because there a
        convolution or a batch normalization and the activation behind it share theirs.
    """

    name: str
    kind: str
    settings: dict[str, object]
    words: str
    output_shape: tuple[int, ...]
    parameters: int
    forward: int
    backward: int
    bytes: int


@click.command(short_help="Table and picture of a network.")
@click.argument("model")
@click.option("--data", "data_name", metavar="NAME", help=f"Input shape and classes of a data set: {DATA_HELP}")
@click.option("--input-shape", help="Shape of one sample.  [default: 1x28x28]")
@click.option("--classes", type=click.IntRange(min=1), help="Outputs of a named model.  [default: 10]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Samples for the memory column."
)
@click.option("--picture", metavar="FILE", help="Draw the network into a .png, .svg or .pdf file.")
@json_option
def command(
    model: str,
    data_name: str | None,
    input_shape: str | None,
    classes: int | None,
    batch_size: int,
    picture: str | None,
    as_json: bool,
):
    """Show the layers of MODEL: a name, a text such as "conv 6@5x5 > relu > dense 10", or a run folder.

    Multiply-adds are counted for one sample. Backward they are those of the forward pass once for the gradients of the
    parameters and once for the gradient of the input, which the first layer with parameters need not compute; layers
    without parameters count as 0. Memory is that of the values and gradients in a training step, in blocks of 16
    samples; parameters, their gradients and what an optimiser remembers come on top.
    """
    from .figures import check_file
    from .picture import draw

    if picture is not None:
        check_file(picture)
    title, network = _open(model, data_name, input_shape, classes)
    table_rows = rows(network, batch_size)
    if picture is not None:
        draw(network, picture, title=title)
    if as_json:
        print_json(_as_dict(title, network, table_rows, batch_size, picture))
        return
    click.echo(render(network, table_rows, batch_size))
    if picture is not None:
        note(f"picture: {picture}")


def _open(model: str, data_name: str | None, input_shape: str | None, classes: int | None) -> tuple[str, Network]:
    """Return the model's name or text, and a network of it with one thread."""
    from ..engine.models.build import IMAGE, MODELS, build

    shape = IMAGE if input_shape is None else parse_shape(input_shape)
    dtype, is_run = "float32", (Path(model) / "config.json").exists() or model == "last"
    if model and (is_run or (model not in MODELS and Path(model).is_dir())):
        if data_name or input_shape or classes:
            raise ConfigurationError(
                f"the run '{model}' knows its data", got="--data, --input-shape or --classes", expected="none of them"
            )
        config = runs.read_config(runs.find(model.rstrip(os.sep)))
        try:
            model, shape, classes, dtype = str(config.model), tuple(config.input_shape), config.classes, config.dtype
        except TypeError as error:
            raise DataError(f"{model}/config.json is damaged ({error})", remedy="train again") from error
    elif data_name:
        if input_shape or classes:
            raise ConfigurationError("--data", got="--input-shape or --classes as well", expected="one or the other")
        shape, classes = _data_shape(data_name)
    try:
        return model, build(model, shape, classes, dtype=dtype, threads=1)
    except HandgradError:
        raise
    except (MemoryError, ValueError) as error:  # NumPy cannot allocate the parameters
        raise ConfigurationError(f"the model '{model}' is too large for this machine ({error})") from error


def _data_shape(name: str) -> tuple[tuple[int, ...], int]:
    """Return sample shape and number of classes, without reading published files."""
    from ..datasets import PUBLISHED, load

    for published in PUBLISHED:
        if published.name == name.removesuffix("-5k"):
            return (1, *published.files[0].shape[1:]), len(published.classes)
    train = load(name, download=False).train
    return train.sample_shape, len(train.classes)


def rows(network: Network, batch_size: int = 64) -> list[Row]:
    """Return one row per node, in topological order.

    Parameters
    ----------
    network : Network
    batch_size : int
        Samples in the mini-batch whose buffers are counted.

    Returns
    -------
    list of Row
    """
    wanted: set[str] = set()  # nodes whose gradient a parameter needs
    result = []
    for name, node in network.nodes.items():
        sources = [source.shape for source in node.inputs]
        shapes = node.layer.parameter_shapes(*sources) if node.layer else {}
        forward = node.layer.multiply_adds(*sources) if node.layer else 0
        passes = bool(shapes) + any(source.name in wanted for source in node.inputs)
        if passes:
            wanted.add(name)
        result.append(
            Row(
                name=name,
                kind=type(node.layer).__name__ if node.layer else "Input",
                settings=node.layer.settings() if node.layer else {},
                words=words(node.layer) if node.layer else "Input",
                output_shape=node.shape,
                parameters=sum(math.prod(shape) for shape in shapes.values()),
                forward=forward,
                backward=forward * passes,
                bytes=_buffers(network, node, name in wanted) * _buffer_bytes(network, node, batch_size),
            )
        )
    return result


def _buffer_bytes(network: Network, node: Node, batch_size: int) -> int:
    from ..engine.arrays import blocks_for
    from ..engine.backend import LANES

    return blocks_for(batch_size) * LANES * node.size * network.dtype.itemsize


def _buffers(network: Network, node: Node, wanted: bool) -> int:
    """Return how many arrays of its size a node has: its value, what its readers send back, and the sum of these.

    Some layers fill none: they are asked with no samples.
    """
    arrays = 1 if node.layer is None or node.layer.view(_no_samples(node.inputs[0]), node.shape) is None else 0
    as_output = sum(node is output for output in network.outputs)
    edges = [(other, k) for other in network.order for k, source in enumerate(other.inputs) if source is node]
    if wanted:
        sent = [reader.layer.view_back(_no_samples(reader), node.shape, position) for reader, position in edges]
        arrays += sum(array is None for array in sent) + (len(edges) + as_output != 1)
    return arrays + as_output


def _no_samples(node: Node) -> np.ndarray:
    import numpy as np

    return np.empty((0, *node.shape, 1))


USUAL = {
    "padding": (0,) * 4,
    "output_padding": (0, 0),
    "dilation": (1, 1),
    "groups": 1,
    "momentum": 0.1,
    "eps": 1e-5,
    "alpha": 1e-4,
    "beta": 0.75,
    "k": 1.0,
    "activation": "tanh",
    "method": "nearest",
}


def words(layer: Layer) -> str:
    """Return kind and settings of a layer, without those that are as usual: "Conv2D 6@5x5 pad 2"."""
    settings = dict(layer.settings())
    size = settings.pop("kernel_size", None) or settings.pop("size", None)
    filters = settings.pop("filters", None)
    parts = [type(layer).__name__]
    if size:
        parts.append(f"{filters}@{_sizes(size)}" if filters else _sizes(size))
    for key in ("features", "units", "rate", "shape", "scale", "slope"):
        value = settings.pop(key, None)
        if value is not None:
            parts.append(_short(value) if isinstance(value, float) else _sizes(value))
    usual = USUAL | {"stride": (1, 1) if filters else size}
    for key, value in settings.items():
        if value is True:
            parts.append(key.replace("_", " "))
        elif isinstance(value, str) and value != usual.get(key):
            parts.append(value)
        elif value is not None and value is not False and value != usual.get(key):
            parts.append(f"pad {_padding(value)}" if key == "padding" else f"{key.replace('_', ' ')} {_short(value)}")
    return " ".join(parts)


def _sizes(values: int | tuple[int, ...]) -> str:
    return "x".join(map(str, values)) if isinstance(values, tuple) else str(values)


def _short(value: object) -> str:
    if not isinstance(value, tuple):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return str(value[0]) if len(set(value)) == 1 else _sizes(value)


def _padding(sides: tuple[int, int, int, int]) -> str:
    top, bottom, left, right = sides
    return _short((top, left)) if (top, left) == (bottom, right) else ",".join(map(str, sides))


def render(network: Network, table_rows: list[Row], batch_size: int) -> str:
    """Return the table and what its numbers mean."""
    cells = [
        [
            row.name,
            row.words,
            " x ".join(map(str, row.output_shape)),
            f"{row.parameters:,}",
            f"{row.forward:,}",
            f"{row.backward:,}",
            f"{row.bytes / 1024:,.0f}",
        ]
        for row in table_rows
    ]
    total = _totals(table_rows)
    sums = [f"{total[key]:,}" for key in ("parameters", "forward", "backward")]
    cells.append(["total", "", "", *sums, f"{total['bytes'] / 1024:,.0f}"])
    header = ["name", "layer", "output", "parameters", "forward", "backward", "KiB"]
    lines = table(header, cells, "lllrrrr").splitlines()
    lines.insert(-1, lines[1])
    shapes = ", ".join(
        f"{' x '.join(map(str, node.shape))}{f' = {node.size:,}' if len(node.shape) > 1 else ''} numbers"
        for node in network.inputs
    )
    size = total["parameters"] * network.dtype.itemsize / 1024
    lines += [
        "",
        f"Input: {shapes}. Parameters: {size:,.0f} KiB ({network.dtype}), their gradients the same.",
        f"Forward, backward: {MEANING}",
        f"KiB: buffers of values and gradients for a mini-batch of {batch_size:,}.",
    ]
    return "\n".join(lines)


def _totals(table_rows: list[Row]) -> dict[str, int]:
    return {key: sum(getattr(row, key) for row in table_rows) for key in ("parameters", "forward", "backward", "bytes")}


def _as_dict(title: str, network: Network, table_rows: list[Row], batch_size: int, picture: str | None) -> dict:
    total = _totals(table_rows)
    return {
        "model": title,
        "input_shape": network.inputs[0].shape,
        "output_shape": network.outputs[0].shape,
        "dtype": network.dtype.name,
        "batch_size": batch_size,
        "layers": [
            {
                "name": row.name,
                "kind": row.kind,
                "settings": row.settings,
                "output_shape": row.output_shape,
                "parameters": row.parameters,
                "multiply_adds_forward": row.forward,
                "multiply_adds_backward": row.backward,
                "bytes": row.bytes,
            }
            for row in table_rows
        ],
        "parameters": total["parameters"],
        "multiply_adds_forward": total["forward"],
        "multiply_adds_backward": total["backward"],
        "bytes": total["bytes"],
        **({"picture": picture} if picture is not None else {}),
    }
