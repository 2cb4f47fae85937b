"""``handgrad bench``: speed and memory, beside other libraries where they are installed."""

from __future__ import annotations

import importlib.util
import json
import platform
from datetime import date
from pathlib import Path

import click

from .. import __version__
from ..engine.checks import ConfigurationError, DataError, HandgradError
from . import bench_tables
from .bench_process import ISAS, Process, run_module
from .console import json_option, note, print_json
from .options import threads_option

LADDERS = ("conv2d",)
DEFAULTS = {"repeats": 25, "visits": 1}
WITH_PEERS = {"repeats": 3, "visits": 15}  # moods last for minutes: rather many short visits
COMMON = {"out", "as_json", "against", "results"}
TIMED = {"repeats", "seconds", "isa"}
# what each thing to measure may be asked for together with; the first is measured when no other is asked for
WITH = {
    "networks": {"nets", "batch_size", "peers", "visits", "threads", "picture"} | TIMED | COMMON,
    "layers": {"layers", "nets", "batch_size", "out", "as_json"} | TIMED,
    "ladder": {"ladder", "picture", "out", "as_json"} | TIMED,
    "mnist99": {"mnist99", "seeds", "threads", "out", "as_json"},
}
SHOWN_WITH = {"results", "against", "picture", "as_json"}  # with --results nothing is measured


@click.command(short_help="Measure speed and memory, beside PyTorch.")
@click.option("--net", "nets", multiple=True, help="Only this network; may be repeated.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Only this size.")
@click.option("--peers", is_flag=True, help="Beside PyTorch (eager, channels last, compiled) and JAX, if installed.")
@click.option("--layers", is_flag=True, help="Instead, where the time of a step goes: a table of its layers.")
@click.option("--ladder", metavar="LAYER", help="Instead, one layer from its formula to its kernel: conv2d.")
@click.option("--mnist99", is_flag=True, help="Instead, the time to 99 % of MNIST's test images.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of --mnist99.")
@click.option("--repeats", type=click.IntRange(min=1), help="Turns, of each visit; by default 3 with --peers, else 25.")
@click.option("--visits", type=click.IntRange(min=1), help="To each network; by default 15 with --peers, else 1.")
@click.option("--seconds", type=click.FloatRange(min=0.01), default=0.1, show_default=True, help="Of steps in a turn.")
@click.option("--isa", type=click.Choice(list(ISAS)), help="Restrict all sides to these instructions.")
@click.option("--out", type=click.Path(dir_okay=False), help="Also write the results to this JSON file.")
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw them: of networks or a ladder.")
@click.option("--results", type=click.Path(dir_okay=False), help="Show an older --out instead of measuring.")
@click.option("--against", type=click.Path(dir_okay=False), help="Exit with 1 if a ratio is 10 % away from this --out.")
@threads_option
@json_option
@click.pass_context
def command(context: click.Context, out: str | None, picture: str | None, as_json: bool, **asked) -> int:
    """Measure training steps of the curriculum's networks: images per second, GFLOP/s, share of the peak, memory.

    With --peers every network is trained by the others as well, in the same process and in turns, A B B A. All are
    visited again and again, up to twice as often as asked for where ratios are not known to 2 % before; the processes
    of all networks together take some 8 GiB, --net measures fewer. A rate is the median of the fastest tenth of all
    windows of 10 ms, or of one call, in which a runner was left alone; ratios to the strongest peer are shown with two
    standard errors around them. Turns during which others used the machine are rejected and counted. The peers' samples
    are floats that lie ready; this engine gathers, scales and packs bytes in every step. Ratios above 1 say that this
    engine is faster; for memory, below 1 that it takes less. If a visit fails, the others count, but the exit code is
    1.
    """
    from . import bench_pictures, figures

    subject = check_combination(context)
    asked |= {name: asked[name] or value for name, value in (WITH_PEERS if asked["peers"] else DEFAULTS).items()}
    old = read_report(asked["against"], "--against") if asked["against"] else None
    if old and not asked["results"]:
        bench_tables.require_comparable(old, threads_of(asked), asked["isa"])
    if picture:
        figures.check_file(picture)
    if asked["results"]:
        report = read_report(asked["results"], "--results")
    else:
        report = MEASURES[subject](asked) | about(asked)
    if out:
        from ..engine.checkpoint import write_atomically

        write_atomically(Path(out), (json.dumps(report, indent=1) + "\n").encode())
    if picture:
        bench_pictures.draw(report, picture)
    rows = bench_tables.deviations(report, old) if old else []
    if old:
        report = {"against": rows, "agrees": all(row["agrees"] for row in rows), **report}
    if as_json:
        print_json(report)
    else:
        click.echo(bench_tables.render(report))
        if old:
            click.echo("\n" + bench_tables.render_deviations(rows, asked["against"]))
    return 0 if report.get("agrees", True) and report.get("reached", True) and not report.get("lost") else 1


def check_combination(context: click.Context) -> str:
    """Return what is to be measured, after checking that the options belong together.

    Raises
    ------
    ConfigurationError
        When they exclude each other, or one has no meaning.
    """
    default = click.core.ParameterSource.DEFAULT
    flags = {option.name: option.opts[0] for option in context.command.params}
    given = [name for name in flags if context.get_parameter_source(name) != default]
    subject = next((name for name in WITH if name in given), "networks")
    allowed, first = WITH[subject], flags.get(subject, "bench")
    if "results" in given:
        allowed, first = SHOWN_WITH, "--results"
    wrong = [flags[name] for name in given if name not in allowed]
    if wrong:
        others = ", ".join(flags[name] for name in sorted(allowed - {subject, "results"}, key=list(flags).index))
        raise ConfigurationError(first, got=f"{wrong[0]} as well", expected=f"it alone, or with {others}")
    ladder = context.params["ladder"]
    if ladder is not None and ladder not in LADDERS:
        raise ConfigurationError("--ladder", got=ladder, expected=f"one of {', '.join(LADDERS)}")
    compares = [
        flags[name] for name in ("against", "picture") if name in given and not {"results", "ladder"} & set(given)
    ]
    if compares and "peers" not in given:
        raise ConfigurationError(compares[0], got="no ratios to show", expected="--peers as well")
    if context.params["isa"] and platform.machine().lower() not in ("x86_64", "amd64"):
        raise ConfigurationError(f"--isa {context.params['isa']}", got=platform.machine(), expected="an x86 processor")
    return subject


def about(asked: dict) -> dict[str, object]:
    """Return where and how a report was made."""
    from ..engine.backend import cpu_features
    from .runs import processor_name

    versions = {"handgrad": __version__, "python": platform.python_version()}
    versions |= {name: version for name in ("numba", "torch", "jax") if (version := _version(name))}
    report = {"machine": processor_name(), "date": f"{date.today():%Y-%m-%d}", "versions": versions}
    widest = next((name for name in bench_tables.VECTORS if name in cpu_features()), None)
    report["instructions"] = asked["isa"] or widest
    return report | {name: asked[name] for name in ("isa", "repeats", "seconds")}


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_report(path: str, option: str) -> dict:
    """Return the report in a file that ``--out`` wrote.

    Raises
    ------
    DataError
        When there is none.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        reason = f"kind {report['kind']!r}"
        if report["kind"] in WITH and report["machine"]:
            ratios = [result.get("ratios", {}) for result in report.get("results", [])]
            if all("processes" in ratio for of_net in ratios for ratio in of_net.values()):
                return report
            reason = "of an older version"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    raise DataError(f"{option} {path} is no results file ({reason})", remedy="make one with: handgrad bench --out FILE")


def chosen(asked: dict) -> list[tuple[str, int]]:
    """Return the networks and batch sizes that were asked for.

    Raises
    ------
    ConfigurationError
        When there is no such network.
    """
    from ..benchmarks.nets import NETS

    nets, size = asked["nets"], asked["batch_size"]
    unknown = [name for name in nets if name not in NETS]
    if unknown:
        raise ConfigurationError("--net", got=unknown[0], expected=f"one of {', '.join(NETS)}")
    wanted = {name: net for name, net in NETS.items() if not nets or name in nets}
    return [(name, batch) for name, net in wanted.items() for batch in (net.batches if size is None else (size,))]


def measure_networks(asked: dict) -> dict:
    """Measure every network and size, each in processes of its own."""
    if asked["peers"] and importlib.util.find_spec("torch") is None:
        raise ConfigurationError("--peers", got="no PyTorch", expected="pip install torch==2.13.0")
    from ..benchmarks.visits import MOST

    threads, wanted = threads_of(asked), chosen(asked)
    words = ["--threads", str(threads), *turn_words(asked), *(["--peers"] if asked["peers"] else [])]
    most, processes = asked["visits"] * (MOST if asked["peers"] else 1), {}
    try:
        networks = visit_networks(wanted, asked["visits"], most, words, asked["isa"], processes)
    finally:
        for process in processes.values():
            process.end()
    results, lost = [network.result() for network in networks], sum(n.count - len(n.found) for n in networks)
    return {"kind": "networks", "threads": threads, "visits": asked["visits"], "lost": lost, "results": results}


def visit_networks(
    wanted: list[tuple[str, int]], visits: int, most: int, words: list[str], isa: str | None, processes: dict
) -> list:
    """Visit networks in turns, so that each sees all moods of the machine; return them with what was found.

    Parameters
    ----------
    wanted : list of (str, int)
        Networks and batch sizes.
    visits : int
        To each.
    most : int
        To those whose ratios are not known yet.
    words : list of str
        For all processes.
    isa : str or None
    processes : dict
        Empty; in it are the processes that run, which the caller ends when this fails.
    """
    from ..benchmarks.visits import LIFE, Visits

    networks, life = [Visits(name, batch) for name, batch in wanted], max(1, min(LIFE, visits // 3))
    unknown = networks
    for k in range(most):
        if k >= visits and (k - visits) % life == 0:
            unknown = [network for network in unknown if not network.is_steady()]
            for network in set(processes) - set(unknown):
                processes.pop(network).end()
        if k and unknown:
            note(f"{len(unknown)} of {len(networks)} networks, visit {k + 1} …")
        for network in unknown:
            what = f"{network.name} with {network.batch} samples"
            if not k:
                note(f"{what} …")
            try:
                if network not in processes:
                    processes[network] = Process("one", [network.name, str(network.batch), *words], isa, what)
                visit = processes[network].ask(network.racing())
            except HandgradError as error:
                processes.pop(network).end()
                if not network.found:
                    raise
                network.lose(str(error))
                note(f"{error}; its other visits count")
                continue
            for label, reason in network.add(visit).items():
                note(f"{label} is left out: {reason}")
            if (k + 1) % life == 0 or k + 1 == most:
                processes.pop(network).end()
    return networks


def measure_layers(asked: dict) -> dict:
    """Measure where the time of every network and size goes."""
    results = []
    for name, batch in chosen(asked):
        note(f"{name}, {batch} samples …")
        words = [name, str(batch), *turn_words(asked)]
        results.append(run_module("layers", words, asked["isa"], f"{name} with {batch} samples"))
    return {"kind": "layers", "threads": 1, "results": results}


def measure_ladder(asked: dict) -> dict:
    """Measure the rungs of a layer."""
    result = run_module("climb", turn_words(asked), asked["isa"], f"the ladder of {asked['ladder']}")
    return {"kind": "ladder", "threads": 1, "results": [result]}


def measure_mnist(asked: dict) -> dict:
    """Measure whole trainings."""
    from .bench_mnist import train_seeds

    return train_seeds(asked["seeds"], threads_of(asked))


def threads_of(asked: dict) -> int:
    """Return the number of threads that was asked for, by default one per core."""
    from ..engine.cores import available_cores

    return asked["threads"] or available_cores()


def turn_words(asked: dict) -> list[str]:
    """Return the options that every measuring process takes."""
    return ["--repeats", str(asked["repeats"]), "--seconds", str(asked["seconds"])]


MEASURES = {
    "networks": measure_networks,
    "layers": measure_layers,
    "ladder": measure_ladder,
    "mnist99": measure_mnist,
}
