"""``handgrad gradcheck``: kernel, literal code, finite differences and exact derivatives side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from . import losses, runs
from .console import json_option, note, print_json, table
from .derive import meant
from .options import device_option, one_text, parse_shape, resolve_device

TYPED = click.core.ParameterSource.COMMANDLINE


@click.command(short_help="Compare all gradients of a layer, a loss or a network.")
@click.argument("subject", metavar="[MODEL|LAYER]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every layer and loss of the curriculum.")
@click.option("--input-shape", default="1x28x28", show_default=True, help="Shape of one sample of MODEL.")
@click.option("--classes", type=click.IntRange(min=2), help="Outputs of a named model.  [default: 10]")
@click.option("--samples", type=click.IntRange(min=1), default=2, show_default=True, help="Size of MODEL's mini-batch.")
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
@click.option("--sweep", type=click.Path(dir_okay=False), help="Draw the error of the difference over h to this file.")
@click.option("--parameter", help="What --sweep perturbs.  [default: the first parameter, else the input]")
@device_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    subject: tuple[str, ...],
    everything: bool,
    input_shape: str,
    classes: int | None,
    samples: int,
    elements: str,
    seed: int,
    h: float,
    sweep: str | None,
    parameter: str | None,
    device: str,
    as_json: bool,
):
    """Compare every gradient, in float64, at a random point.

    LAYER is a layer or a loss by the name of its derivation (conv2d, batch_norm, hinge …), checked in several small
    configurations; --all takes them all. MODEL is a name, a text, or a trained run.

    For each parameter and input: the kernel's gradient against the literal code of the derivations, against central
    differences of the loss, and for a LAYER against the exact derivative of the literal code (where SymPy is
    installed). Errors are relative to the largest gradient of the array; elements at which a ReLU or a pooling layer
    changes its decision between x - h and x + h are kinks and are not compared. Where a step's slope is a declared
    surrogate, finite differences and exact derivatives must disagree, and the verdict says so. Under a layer stand its
    invariants: sums of gradients that must come out. The exit code is 1 when anything fails or cannot be compared.
    """
    from ..engine.cases import CASES
    from ..engine.checks import ConfigurationError

    device = resolve_device(device)
    if elements != "all" and (not elements.isdecimal() or int(elements) < 1):
        raise ConfigurationError("--elements", got=f"'{elements}'", expected="a number from 1 up, or all")
    count = None if elements == "all" else int(elements)
    asked = one_text(subject)
    if everything == (asked is not None):
        raise ConfigurationError(
            "gradcheck",
            got="both" if everything else "nothing",
            expected="a MODEL, a LAYER, or --all",
            remedy="try: handgrad gradcheck conv2d",
        )
    layer = meant(asked) if asked else None  # BatchNorm is batch_norm, mse is mean_squared_error
    asked = layer if layer in CASES else asked
    if sweep:
        return _sweep(asked, parameter, input_shape, classes, samples, seed, sweep, as_json)
    if parameter:
        raise ConfigurationError("--parameter", expected="--sweep FILE with it")
    if everything or asked in CASES:
        given = [name for name in ("input_shape", "classes", "samples") if context.get_parameter_source(name) is TYPED]
        if given:
            raise ConfigurationError(
                f"--{given[0].replace('_', '-')}", expected="a MODEL with it; a LAYER has its own configurations"
            )
        names = list(CASES) if everything else [asked]
        return check_layers(names, seed=seed, h=h, elements=count, device=device, as_json=as_json)
    return check_model(asked, parse_shape(input_shape), classes, samples, seed, h, count, device, as_json)


def check_layers(names: list[str], *, seed: int, h: float, elements: int | None, device: str, as_json: bool) -> int:
    """Check layers and losses in their small configurations, print the tables, return the exit code."""
    from ..engine import symbolic
    from ..engine.cases import CASES, LOSSES, examine

    started, exact = time.perf_counter(), symbolic.is_available()
    if not exact:
        note("SymPy is not installed, so exact derivatives are left out: pip install sympy")
    results = []
    for name in names:
        for case in CASES[name]:
            result = examine(name, case, seed=seed, h=h, elements=elements, exact=exact, device=device)
            results.append(result)
            if not as_json:
                _print_result(result, case.samples)
    ok = all(result.ok for result in results)
    seconds = time.perf_counter() - started
    if as_json:
        listed = [
            {
                "subject": result.subject,
                "kind": "loss" if result.subject in LOSSES else "layer",
                "title": result.title,
                "ok": result.ok,
                "arrays": [as_plain(row) for row in result.rows],
                "invariants": [{**vars(i), "ok": i.ok} for i in result.invariants],
            }
            for result in results
        ]
        print_json(
            {"ok": ok, "h": h, "seconds": seconds, "limits": _limits(), "views": _views(exact, device), "cases": listed}
        )
    else:
        rows = [row for result in results for row in result.rows]
        wrong = [f"{result.subject} ({result.title})" if result.title else result.subject for result in results
                 if not result.ok]  # fmt: skip
        many = f"{len(results)} configuration{'s' * (len(results) > 1)}"
        click.echo(f"{_verdict(rows)} in {many}; {_meaning(exact, device)}; {seconds:.1f} s")
        if wrong:
            click.echo(f"not ok: {', '.join(wrong)}")
    return 0 if ok else 1


def _print_result(result, samples: int) -> None:
    title = f": {result.title}" if result.title else ""
    click.echo(click.style(f"== {result.subject}{title}, {samples} sample{'s' * (samples > 1)}", bold=True))
    click.echo(render(result.rows))
    for invariant in result.invariants:
        click.echo(f"  {invariant.text}: off by {invariant.error:.1e}  {'ok' if invariant.ok else 'FAIL'}")
    click.echo()


def check_model(model, input_shape, classes, samples, seed, h, elements, device: str, as_json: bool) -> int:
    """Check a whole network with the loss that it is trained with, print the table, return the exit code."""
    from ..engine.gradcheck import GradientCheck

    started = time.perf_counter()
    network, loss = open_or_build(model, input_shape, classes, seed)
    x, labels = random_samples(network, samples, seed)
    check = GradientCheck(network, loss, [x], labels, training=True, h=h, device=device)
    rows = list(check.run(elements, seed))
    ok = all(row.agrees for row in rows)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(
            {
                "model": model,
                "loss_function": loss.kind,
                "samples": samples,
                "h": h,
                "loss": check.L,
                "seconds": seconds,
                "ok": ok,
                "limits": _limits(),
                "views": _views(False, device),
                "arrays": [as_plain(row) for row in rows],
            }
        )
    else:
        click.echo(render(rows))
        verdict = _verdict(rows)
        for reason, remedy in (("kink", "a smaller --h"), ("rounding", "a larger --h")):
            lost = [row.name for row in rows if row.verdict == reason]
            if lost:
                verdict += f", {', '.join(lost)} could not be compared for {reason} (try another --seed, or {remedy})"
        click.echo(f"\n{verdict}; {_meaning(False, device)}; L = {check.L:.6f}; {seconds:.1f} s")
    return 0 if ok else 1


def open_or_build(model: str, input_shape: tuple[int, ...], classes: int | None, seed: int, dtype: str = "float64"):
    """Return (network, loss) of a trained run, or a new network with biases away from 0."""
    from ..engine.models.build import build

    if model == "last" or (Path(model) / "config.json").is_file():
        config, network = runs.open_network(runs.find(model), dtype=dtype, threads=1)
        return network, losses.make(config.loss, network)
    network = build(model, input_shape, classes, dtype=dtype, seed=seed, threads=1)
    move_biases(network, seed)
    return network, losses.make(losses.choose(None, network), network)


def render(rows) -> str:
    """Return agreements as a table: relative errors by view, then the absolute error of the worst and where it is."""
    views = [view for view in ("literal", "cuda", "difference", "symbolic") if any(view in row.views for row in rows)]
    cells = []
    for row in rows:
        elements = int(np.prod(row.shape))
        compared = f"{row.checked:,} of {elements:,}" if "difference" in row.views else "-"
        errors = [_error(row.views.get(view)) for view in views]
        worst = max(row.views.values(), key=lambda c: np.nan_to_num(c.relative, nan=-1.0))
        where = _place(worst.index) if worst.absolute > 0 else "-"
        absolute = f"{worst.absolute:.1e}" if worst.index else "-"
        shape = "x".join(map(str, row.shape))
        cells.append(
            [row.name, shape, f"{row.largest:.2e}", compared, row.kinks, *errors, absolute, where, row.verdict]
        )
    header = ["array", "shape", "largest", "quotients", "kinks", *views, "absolute", "at", "verdict"]
    return table(header, cells, "llrrr" + "r" * len(views) + "rll")


def _error(comparison) -> str:
    return f"{comparison.relative:.1e}" if comparison is not None and comparison.index else "-"


def _place(index: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, index)) + "]" if index else "-"


def as_plain(row) -> dict[str, object]:
    """Return an agreement as plain values; a view that was not taken, as CUDA without a GPU, is missing."""
    return {
        "name": row.name,
        "shape": row.shape,
        "elements": int(np.prod(row.shape)),
        "largest": row.largest,
        "compared": row.checked,
        "kinks": row.kinks,
        "rounding": row.rounding,
        "views": {view: vars(comparison) for view, comparison in row.views.items()},
        "verdict": row.verdict,
    }


def _limits() -> dict[str, float]:
    from ..engine import agreement, invariants

    return {
        "literal": agreement.LITERAL_LIMIT,
        "difference": agreement.DIFFERENCE_LIMIT,
        "symbolic": agreement.SYMBOLIC_LIMIT,
        "invariant": invariants.LIMIT,
    }


def _views(exact: bool, device: str) -> list[str]:
    cuda = ["kernel (cuda)"] if device == "cuda" else []
    return ["literal", "kernel (cpu)", *cuda, "difference", *(["symbolic"] if exact else [])]


def _verdict(rows) -> str:
    failed = sum(row.verdict == "FAIL" for row in rows)
    if failed:
        return f"{failed} of {len(rows)} arrays FAIL"
    agreed, surrogates = (sum(row.verdict == word for row in rows) for word in ("ok", "surrogate"))
    return f"{agreed} arrays agree" + (f", {surrogates} meet a declared surrogate" if surrogates else "")


def _meaning(exact: bool, device: str) -> str:
    limits = _limits()
    both = f"kernels of CPU and GPU ({_gpu_name()})" if device == "cuda" else "kernel"
    text = (
        f"{both} against the literal code (limit {limits['literal']:g}), finite differences ({limits['difference']:g})"
    )
    if exact:
        text += f", exact derivatives ({limits['symbolic']:g})"
    return text + ", relative to the largest number of the array"


def _gpu_name() -> str:
    from ..engine import cuda

    return cuda.device().name


def _sweep(asked, parameter, input_shape, classes, samples, seed, picture, as_json: bool) -> int:
    """Draw the error of the difference quotient over h in float32 and float64."""
    from ..engine.cases import CASES
    from ..engine.checks import ConfigurationError
    from .figures import check_file
    from .sweep import draw, sweep

    check_file(picture)
    if asked is None:
        raise ConfigurationError("--sweep", got="--all", expected="one MODEL or LAYER")

    def checks() -> Iterator:
        """One check per dtype, of the same numbers."""
        from ..engine.gradcheck import GradientCheck

        for dtype in ("float64", "float32"):
            if asked in CASES:
                yield CASES[asked][0].check(seed, dtype=dtype)
            else:
                network, loss = open_or_build(asked, parse_shape(input_shape), classes, seed, dtype)
                x, labels = random_samples(network, samples, seed)
                yield GradientCheck(network, loss, [x], labels, training=True, dtype=dtype)

    curves = sweep(list(checks()), parameter, seed)
    draw(curves, asked, Path(picture))
    best = {name: min(curve.points, key=lambda point: point[1]) for name, curve in curves.items()}
    if as_json:
        plain = {name: [{"h": h, "error": e} for h, e in curve.points] for name, curve in curves.items()}
        parameter_name = curves["float64"].name
        print_json({"subject": asked, "parameter": parameter_name, "picture": picture, "errors": plain})
    else:
        for name, (h, error) in best.items():
            click.echo(f"{name}: the difference quotient is best at h = {h:.0e}, off by {error:.1e}")
        click.echo(f"picture: {picture}")
    return 0


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
