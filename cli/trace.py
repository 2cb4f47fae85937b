"""``handgrad trace RUN``: every value and gradient of chosen samples, layer by layer."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..engine.checks import ConfigurationError, DataError
from . import losses, runs
from .console import equation_lines, json_option, print_json
from .options import data_options, device_option, resolve_device

ROWS, COLUMNS = 4, 6  # of the excerpt of an image
LENGTH = 10  # of the excerpt of a vector
WIDTH = 100  # columns


@click.command(short_help="Print all values and gradients of a sample.")
@click.argument("run")
@click.option(
    "--sample", "samples", default="0", show_default=True, help="Samples, such as 3 or 0,3,17; L is their mean."
)
@click.option("--part", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True)
@data_options
@click.option("--layer", "layers", multiple=True, help="Only this node; may be repeated.")
@click.option(
    "--element",
    "elements",
    multiple=True,
    help='An element with its finite difference, "conv1.W[3,0,2,2]"; may be repeated.',
)
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option(
    "--training", is_flag=True, help="As in training: dropout drops, batch normalization looks at the samples."
)
@click.option("--npz", type=click.Path(), help="Also write all arrays to this file.")
@device_option
@json_option
def command(
    run: str,
    samples: str,
    part: str,
    data_name: str | None,
    data_dir: str | None,
    layers: tuple[str, ...],
    elements: tuple[str, ...],
    checkpoint: str,
    training: bool,
    npz: str | None,
    device: str,
    as_json: bool,
):
    """Trace samples through a trained network: RUN is a folder, or last.

    For every layer: its formula with the equation's number, its value z and the gradient dL/dz that comes back to it,
    as statistics and as an excerpt around the largest gradient, the gradients of its parameters, and for the element
    with the largest gradient of each array the finite difference (L(x + h) - L(x - h)) / 2h beside it. Dropout and
    batch normalization act as after training, unless --training is given; then trace several samples at once.
    """
    from ..engine.trace import Trace

    device = resolve_device(device)
    folder = runs.find(run)
    config, network = runs.open_network(folder, checkpoint=checkpoint, dtype="float64", threads=1, device=device)
    feed, chosen = _samples(config, samples, part, data_name, data_dir)
    trace = Trace(
        network, losses.make(config.loss, network), feed.inputs(chosen), feed.targets[chosen], training=training
    )
    unknown = [name for name in layers if name not in (*network.nodes, "loss")]
    if unknown:
        expected = f"one of {', '.join((*network.nodes, 'loss'))}"
        raise ConfigurationError(f"there is no layer '{unknown[0]}'", expected=expected)
    shown = [node for node in trace.nodes if not layers or node.name in layers]
    asked = [trace.parse_element(text) for text in elements]
    largest = {name: trace.largest(name) for node in shown for name in (node.name, *node.parameters)}
    if npz:
        _write(Path(npz), trace)
    p = losses.probabilities(network, network.values[network.outputs[0].name])
    if as_json:
        print_json(_as_json(trace, shown, largest, asked, chosen, p, folder, config))
        return
    numbers = ", ".join(map(str, chosen))
    click.echo(f"{folder}, {checkpoint} checkpoint: {part} sample {numbers} of {data_name or config.data}")
    click.echo(f"model: {config.model}")
    for n, sample in enumerate(chosen):
        best, names = losses.decided(p[n]), config.class_names
        said = "undecided" if best is None else f"predicted {names[best]} ({p[n, best]:.2%})"
        click.echo(f"sample {sample}: label {names[int(trace.target[n])]}, {said}")
    click.echo(
        f"L = {trace.L:.9f}; everything in float64; difference quotients with h = {trace.h:g}, which rounding makes "
        f"uncertain by about {trace.rounding:.0e}"
    )
    if len(config.scale) == 1:
        mean, deviation = -config.shift[0] / config.scale[0], 1 / config.scale[0]
        click.echo(f"inputs: x = (stored value - {mean:.4g}) / {deviation:.4g}")
    for node in shown:
        click.echo()
        _print_node(node, largest)
    if not layers or "loss" in layers:
        _print_loss(trace, chosen, p, config.class_names)
    if asked:
        click.echo("\nchosen elements")
        for element in asked:
            click.echo("  " + describe(element))
    if npz:
        click.echo(f"\nall arrays: {npz}")


def _samples(config: runs.Config, samples: str, part: str, data_name: str | None, data_dir: str | None):
    dataset = getattr(runs.load_data(config, data_name, data_dir), part)
    runs.require_fit(config, dataset)
    words = [word.strip() for word in samples.split(",")]
    if not all(word.isdecimal() and int(word) < len(dataset) for word in words):
        raise ConfigurationError(
            "--sample", got=f"'{samples}'", expected=f"numbers from 0 to {len(dataset) - 1}, commas between"
        )
    return runs.feed(config, dataset), np.array([int(word) for word in words])


def _write(path: Path, trace) -> None:
    from ..engine.checkpoint import save_arrays

    if path.suffix != ".npz":
        raise ConfigurationError("--npz", got=f"'{path}'", expected="a file name that ends with .npz")
    if not path.parent.is_dir():
        raise DataError(f"--npz {path}: the folder {path.parent} does not exist")
    save_arrays(path, trace.arrays())


def describe(element) -> str:
    """Return an element, its gradient and the finite difference as one line."""
    if element.difference is None:
        beside = "on a kink: a ReLU or a pooling layer decides differently at x + h and x - h"
    else:
        beside = (
            f"difference quotient {element.difference:+.6e}  off by {abs(element.difference - element.gradient):.0e}"
        )
    return f"{element}: value {element.value:+.6f}  gradient {element.gradient:+.6e}  {beside}"


def _print_node(node, largest) -> None:
    reads = f" of {', '.join(node.inputs)}" if node.inputs else ""
    shape = " x ".join(map(str, node.value.shape[1:]))
    click.echo(click.style(f"== {node.name}: {node.kind}{reads} -> {shape}", bold=True))
    if node.settings:
        click.echo("  " + ", ".join(f"{name} {_setting(value)}" for name, value in node.settings.items()))
    if node.settings.get("surrogate"):
        click.echo("  the backward pass is a declared surrogate, not the derivative: difference quotients disagree")
    for tag, text in node.forward:
        _print_equation(tag, text)
    letter = node.letter
    click.echo(f"  {letter:<10} {_statistics(node.value)}")
    click.echo(f"  dL/d{letter:<6} {_statistics(node.gradient)}")
    place = largest[node.name].place
    where, value = excerpt(node.value, place)
    click.echo(f"  {letter}{where} =")
    click.echo(_indent(value))
    click.echo(f"  dL/d{letter}{where} =")
    click.echo(_indent(excerpt(node.gradient, place)[1]))
    for tag, text in node.backward:
        _print_equation(tag, text)
    for name, (value, gradient) in node.parameters.items():
        part = name.rpartition(".")[2]
        click.echo(f"  {part:<10} {_statistics(value)}")
        click.echo(f"  dL/d{part:<6} {_statistics(gradient)}")
        where, numbers = excerpt(gradient, largest[name].place)
        click.echo(f"  dL/d{part}{where} =")
        click.echo(_indent(numbers))
    for name in (node.name, *node.parameters):
        click.echo("  " + describe(largest[name]))


def _setting(value: object) -> str:
    if isinstance(value, tuple):
        return str(value[0]) if len(set(value)) == 1 else "x".join(map(str, value))
    return str(value)


def _print_equation(tag: str, text: str) -> None:
    lines = equation_lines(text, WIDTH - len(tag) - 7)
    for line in lines[:-1]:
        click.echo(f"  {line}")
    click.echo(f"  {lines[-1]}   " + click.style(f"({tag})", dim=True))


def _print_loss(trace, chosen, p, class_names) -> None:
    click.echo()
    click.echo(click.style(f"== loss: {type(trace.loss).__name__}, L = {trace.L:.9f}", bold=True))
    for tag, text in (*trace.loss_forward, *trace.loss_backward):
        _print_equation(tag, text)
    z, last = trace.array(trace.network.outputs[0].name)[0], trace.network.outputs[0].layer.kind
    inside = trace.loss.kind == "softmax_cross_entropy" and last not in ("softmax", "sigmoid", "step")
    name = "-log p[label]" if inside or trace.loss.kind == "cross_entropy" else "its loss"
    for n, sample in enumerate(chosen):
        label = int(trace.target[n])
        target = trace.loss.check_target(trace.target[n : n + 1], (1, *z.shape[1:]))
        loss = trace.loss.derivation.forward(z[n : n + 1].astype(object), target, **trace.loss.literal_options())
        click.echo(f"  sample {sample}: label {class_names[label]}, p[label] = {p[n, label]:.6f}, {name} = {loss:.6f}")
        click.echo("  p = " + "  ".join(f"{value:.6f}" for value in p[n]))


def _statistics(array: np.ndarray) -> str:
    from ..engine.trace import statistics

    s = statistics(array)
    shape = " x ".join(map(str, array.shape))
    return (
        f"{shape:<18} min {s['min']:+.3e}  mean {s['mean']:+.3e}  max {s['max']:+.3e}  norm {s['norm']:.3e}  "
        f"zeros {s['zeros']:.0%}"
    )


def excerpt(array: np.ndarray, place: tuple[int, ...]) -> tuple[str, np.ndarray]:
    """Return a window of the last two axes (or the last one) around a place, and its name, "[0,3,10:14,8:14]".

    Parameters
    ----------
    array : numpy.ndarray
    place : tuple of int
        Of an element that must be inside.
    """
    lengths = [1] * array.ndim
    lengths[-1] = LENGTH
    if array.ndim > 2:
        lengths[-2:] = [ROWS, COLUMNS]
    slices, words = [], []
    for n, i, length in zip(array.shape, place, lengths, strict=True):
        first = max(0, min(i - length // 2, n - length))
        slices.append(slice(first, min(first + length, n)))
        words.append(str(i) if length == 1 else f"{first}:{min(first + length, n)}")
    window = array[tuple(slices)]
    return f"[{','.join(words)}]", window.reshape(window.shape[-2:] if array.ndim > 2 else window.shape[-1:])


def _indent(numbers: np.ndarray) -> str:
    largest = np.abs(numbers).max()
    form = "+10.5f" if 1e-2 <= largest < 1e3 or largest == 0 else "+10.2e"
    rows = numbers if numbers.ndim == 2 else numbers[None]
    return "\n".join("      " + " ".join(f"{value:{form}}" for value in row) for row in rows)


def _as_json(trace, shown, largest, asked, chosen, p, folder, config) -> dict[str, object]:
    from ..engine.trace import statistics

    def element(e):
        return {
            "name": e.name,
            "index": e.place,
            "value": e.value,
            "gradient": e.gradient,
            "finite_difference": e.difference,
            "kink": e.difference is None,
        }

    return {
        "run": str(folder),
        "model": config.model,
        "samples": chosen,
        "labels": trace.target,
        "loss": trace.L,
        "probabilities": p,
        "h": trace.h,
        "nodes": [
            {
                "name": node.name,
                "kind": node.kind,
                "inputs": node.inputs,
                "settings": node.settings,
                "forward": [{"tag": tag, "text": text} for tag, text in node.forward],
                "backward": [{"tag": tag, "text": text} for tag, text in node.backward],
                "value": statistics(node.value),
                "gradient": statistics(node.gradient),
                "largest": element(largest[node.name]),
                "parameters": {
                    name: {
                        "value": statistics(value),
                        "gradient": statistics(gradient),
                        "largest": element(largest[name]),
                    }
                    for name, (value, gradient) in node.parameters.items()
                },
            }
            for node in shown
        ],
        "loss_equations": [{"tag": tag, "text": text} for tag, text in (*trace.loss_forward, *trace.loss_backward)],
        "elements": [element(e) for e in asked],
    }
