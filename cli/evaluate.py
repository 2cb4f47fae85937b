"""``handgrad evaluate RUN``: accuracy, confusion matrix and the scores of every class."""

from __future__ import annotations

import click

from . import losses, runs
from .console import json_option, print_json, table
from .options import data_options, device_option, resolve_device, threads_option


@click.command(short_help="Measure a trained network on test images.")
@click.argument("run")
@data_options
@click.option("--part", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True)
@device_option
@threads_option
@json_option
def command(
    run: str, data_name: str | None, data_dir: str | None, part: str, device: str, threads: int | None, as_json: bool
):
    """Evaluate the best checkpoint of RUN (a folder, or last) on the data it was trained for, or on --data."""
    from ..engine.metrics import evaluate

    device = resolve_device(device)
    folder = runs.find(run)
    config, network = runs.open_network(folder, threads=threads, device=device)
    name = data_name or config.data
    dataset = getattr(runs.load_data(config, data_name, data_dir), part)
    runs.require_fit(config, dataset)
    result = evaluate(network, runs.feed(config, dataset), losses.make(config.loss, network))
    classes = result.per_class()
    if as_json:
        print_json(
            {
                "run": str(folder),
                "data": name,
                "part": part,
                "samples": result.samples,
                "loss": result.loss,
                "accuracy": result.accuracy,
                "confusion": result.confusion,
                "undecided": result.undecided,
                "classes": [{"name": n, **row} for n, row in zip(config.class_names, classes, strict=True)],
            }
        )
        return
    click.echo(
        f"{folder}: accuracy {result.accuracy:.2%} on {result.samples:,} {part} images of {name}, "
        f"loss {result.loss:.4f}"
    )
    click.echo("\nconfusion matrix: rows are the true classes, columns what the network said\n")
    names = config.class_names
    rows = [[name, *counts] for name, counts in zip(names, result.confusion.tolist(), strict=True)]
    click.echo(table(["", *names], rows, "l" + "r" * len(names)))
    if result.undecided.any():
        click.echo(f"\n{int(result.undecided.sum()):,} images had two largest outputs and count as wrong")
    click.echo()
    rows = [
        [name, f"{row['precision']:.2%}", f"{row['recall']:.2%}", f"{row['f_score']:.2%}", row["samples"]]
        for name, row in zip(names, classes, strict=True)
    ]
    click.echo(table(["class", "precision", "recall", "F-score", "images"], rows, "lrrrr"))
