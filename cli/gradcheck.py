"""``handgrad gradcheck MODEL``: kernel, literal code and finite differences side by side."""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np

from . import runs
from .console import json_option, print_json, table
from .options import device_option, one_text, parse_shape, resolve_device


@click.command(short_help="Compare all gradients of a network.")
@click.argument("model", nargs=-1, required=True)
@click.option("--input-shape", default="1x28x28", show_default=True, help="Shape of one sample.")
@click.option("--classes", type=click.IntRange(min=2), help="Outputs of a named model.  [default: 10]")
@click.option("--samples", type=click.IntRange(min=1), default=2, show_default=True, help="Size of the mini-batch.")
@click.option(
    "--elements",
    default="200",
    show_default=True,
    help="Elements per array that are compared with finite differences, or all.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--h", type=click.FloatRange(min=0, min_open=True), default=1e-6, show_default=True, help="Step of the difference."
)
@device_option
@json_option
def command(
    model: tuple[str, ...],
    input_shape: str,
    classes: int | None,
    samples: int,
    elements: str,
    seed: int,
    h: float,
    device: str,
    as_json: bool,
):
    """Compare every gradient of MODEL, in float64, at a random point. MODEL is a name, a text, or a trained run.

    For each parameter and the input: the kernel's gradient against central differences of the loss, and against the
    literal code of the derivations. Errors are relative to the largest gradient of the array; elements at which a ReLU
    or a pooling layer changes its decision between x - h and x + h are kinks and are not compared. The exit code is 1
    when a difference is 1e-6 or more, or a literal gradient is off by 1e-10 or more, or nothing could be compared.
    """
    from ..engine.checks import ConfigurationError
    from ..engine.gradcheck import DIFFERENCE_LIMIT, LITERAL_LIMIT, GradientCheck
    from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
    from ..engine.models.build import build

    resolve_device(device)
    if elements != "all" and (not elements.isdecimal() or int(elements) < 1):
        raise ConfigurationError("--elements", got=f"'{elements}'", expected="a number from 1 up, or all")
    started = time.perf_counter()
    model = one_text(model)
    if model == "last" or (Path(model) / "config.json").is_file():
        _, network = runs.open_network(runs.find(model), dtype="float64", threads=1)
        x, labels = random_samples(network, samples, seed)
    else:
        network = build(model, parse_shape(input_shape), classes, dtype="float64", seed=seed, threads=1)
        move_biases(network, seed)
        x, labels = random_samples(network, samples, seed)
    check = GradientCheck(network, SoftmaxCrossEntropy(), [x], labels, training=True, h=h)
    rows = list(check.run(None if elements == "all" else int(elements), seed))
    failed = [row for row in rows if row.verdict == "FAIL"]
    unknown = [row.name for row in rows if row.verdict in ("kink", "rounding")]
    seconds = time.perf_counter() - started
    if as_json:
        print_json(
            {
                "model": model,
                "samples": samples,
                "h": h,
                "loss": check.L,
                "seconds": seconds,
                "ok": not failed and not unknown,
                "limits": {"difference": DIFFERENCE_LIMIT, "literal": LITERAL_LIMIT},
                "arrays": [{**vars(row), "elements": int(np.prod(row.shape)), "verdict": row.verdict} for row in rows],
            }
        )
    else:
        cells = [
            [
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.largest_gradient:.3e}",
                f"{row.checked:,} of {int(np.prod(row.shape)):,}",
                row.kinks,
                f"{row.difference_error:.1e}" if row.checked else "-",
                _place(row.difference_index),
                f"{row.literal_error:.1e}",
                row.verdict,
            ]
            for row in rows
        ]
        header = ["array", "shape", "largest", "compared", "kinks", "difference", "at", "literal", "verdict"]
        click.echo(table(header, cells, "llrrrrlrl"))
        verdict = f"{len(failed)} of {len(rows)} arrays FAIL" if failed else f"{len(rows) - len(unknown)} arrays agree"
        if unknown:
            verdict += f", {', '.join(unknown)} could not be compared (try another --seed, or a smaller --h)"
        click.echo(
            f"\n{verdict}: kernel against finite differences (limit {DIFFERENCE_LIMIT:g}) and against the literal code "
            f"(limit {LITERAL_LIMIT:g}), relative to the largest gradient; L = {check.L:.6f}; {seconds:.1f} s"
        )
    return 1 if failed or unknown else 0


def _place(index: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, index)) + "]" if index else "-"


def move_biases(network, seed: int) -> None:
    """Move the biases of a new network away from 0, where the ReLUs of dark images sit on their kink."""
    rng = np.random.default_rng([seed, 7])
    for name, array in network.parameters.items():
        if name.endswith(".b"):
            array[...] = 0.1 * rng.normal(size=array.shape)


def random_samples(network, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return normally distributed inputs and random labels."""
    rng = np.random.default_rng([seed, 8])
    x = rng.normal(size=(samples, *network.inputs[0].shape))
    return x, rng.integers(0, network.outputs[0].size, samples)
