"""``handgrad bench``: training speed, beside PyTorch where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import click

from ..engine.checks import ConfigurationError, HandgradError
from .console import json_option, note, print_json, table
from .options import threads_option

# memory that is freed stays with the process: what peers and this engine allocate in every step costs no system calls
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


@click.command(short_help="Measure training speed, beside PyTorch.")
@click.option("--net", "nets", multiple=True, help="Only this network; may be repeated.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Only this size.")
@click.option("--peers", is_flag=True, help="Beside PyTorch: eager, channels last, and compiled.")
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Turns of every runner.")
@click.option("--seconds", type=click.FloatRange(min=0.01), default=0.3, show_default=True, help="Of one turn.")
@click.option("--out", type=click.Path(dir_okay=False), help="Also write the results to this JSON file.")
@threads_option
@json_option
def command(
    nets: tuple[str, ...],
    batch_size: int | None,
    peers: bool,
    repeats: int,
    seconds: float,
    out: str | None,
    threads: int | None,
    as_json: bool,
):
    """Measure whole training steps of the curriculum's networks: images per second, GFLOP/s, share of the peak.

    With --peers every network is trained by PyTorch as well, in the same process and in turns, A B A B; the ratio is
    that to the strongest peer of each turn, and the median over the turns is shown with its extremes. Turns during
    which others used the machine are rejected and counted. PyTorch's samples are floats that lie ready; this engine
    gathers, scales and packs bytes in every step.
    """
    from ..benchmarks.nets import NETS
    from ..engine.workers import available_cores
    from .runs import processor_name

    unknown = [name for name in nets if name not in NETS]
    if unknown:
        raise ConfigurationError("--net", got=unknown[0], expected=f"one of {', '.join(NETS)}")
    if peers and importlib.util.find_spec("torch") is None:
        raise ConfigurationError("--peers", got="no PyTorch", expected="pip install torch==2.13.0")
    threads = threads or available_cores()
    results = []
    for name, net in NETS.items():
        for batch in net.batches if batch_size is None else (batch_size,):
            if not nets or name in nets:
                note(f"{name}, {batch} samples …")
                results.append(_measure(name, batch, threads, repeats, seconds, peers))
    report = {"machine": processor_name(), "date": f"{date.today():%Y-%m-%d}", "python": platform.python_version()}
    report |= {"threads": threads, "repeats": repeats, "seconds": seconds, "results": results}
    if out:
        from ..engine.checkpoint import write_atomically

        write_atomically(Path(out), (json.dumps(report, indent=1) + "\n").encode())
    if as_json:
        print_json(report)
    else:
        click.echo(render(report))


def _measure(name: str, batch: int, threads: int, repeats: int, seconds: float, peers: bool) -> dict:
    """Measure one network in a process of its own and return its result."""
    words = [name, str(batch), "--threads", str(threads), "--repeats", str(repeats), "--seconds", str(seconds)]
    command = [sys.executable, "-m", "handgrad.benchmarks.one", *words, *(["--peers"] if peers else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | MALLOC)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HandgradError(f"bench: {name} with {batch} samples failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def render(report: dict) -> str:
    """Return the results as a table."""
    with_peers = any("step" in result for result in report["results"])
    header = ["network", "batch", "images/s", "GFLOP/s", "of peak", "forward images/s", "MiB"]
    rows = []
    for r in report["results"]:
        ours = r["images_per_second"]["handgrad"]
        row = [r["net"], r["batch"], f"{ours:,.0f}", f"{r['gflops']:.1f}", f"{r['share_of_peak']:.0%}"]
        row += [f"{r['forward_images_per_second']['handgrad']:,.0f}", f"{r['buffers_bytes'] / 2**20:.1f}"]
        if with_peers:
            step = r["step"]
            row += [f"{step['ratio']:.2f}", f"{step['least']:.2f}-{step['largest']:.2f}", f"{r['goal']:g}"]
            row += [step["strongest"].removeprefix("PyTorch "), f"{r['forward']['ratio']:.2f}"]
        rows.append([*row, r["rejected"]])
    header += ["ratio", "spread", "goal", "strongest peer", "forward ratio"] if with_peers else []
    lines = [table([*header, "rejected"], rows, "lrrrrrr" + ("rrrlr" if with_peers else "") + "r"), ""]
    lines.append(f"{report['machine']}, {report['threads']} threads, {report['date']}; whole training steps")
    if with_peers:
        lines.append("ratio: images per second of handgrad divided by those of the strongest PyTorch in the same turn")
    return "\n".join(lines)
