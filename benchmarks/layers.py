"""Where a training step's time goes: ``python -m handgrad.benchmarks.layers NET BATCH`` prints one JSON object.

The step itself is timed, on one thread, with a clock around each call that it makes: every layer's forward and backward
pass, loading, loss, update. What is left is Python, and counting the correct answers. Times are medians over many
steps. A layer that also applies the activation behind it has one line for both; where pooling follows, the way back
through the activation is in the line of the pooling.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator

from .machine import peak_gflops, quietly
from .nets import NETS
from .ours import Handgrad

SECONDS, REPEATS, LEAST = 0.3, 7, 5


class Clock:
    """Seconds of each named piece; a piece inside another is not counted twice.

    Attributes
    ----------
    steps : list of dict of (str, str) to float
        Of every step that counts.
    """

    def __init__(self) -> None:
        self.steps: list[dict[tuple[str, str], float]] = []
        self._now: dict[tuple[str, str], float] = {}
        self._inside: list[float] = []

    def around(self, key: tuple[str, str], function):
        """Return a function that does the same and adds its seconds to a piece of the current step."""

        def timed(*arguments):
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                seconds = time.perf_counter() - start
                self._now[key] += seconds - self._inside.pop()
                if self._inside:
                    self._inside[-1] += seconds

        return timed

    def step(self, run) -> dict[tuple[str, str], float]:
        """Run one step and return the seconds of its pieces; what no clock stood around is Python and counting."""
        self._now = defaultdict(float)
        self.around(("rest", "Python, counting"), run)()
        return self._now

    def medians(self) -> dict[tuple[str, str], float]:
        """Return the median seconds of each piece over the steps."""
        keys = {key: None for step in self.steps for key in step}
        return {key: statistics.median(step.get(key, 0.0) for step in self.steps) for key in keys}


@contextlib.contextmanager
def clocks_on(runner: Handgrad, clock: Clock) -> Iterator[None]:
    """Time the calls of a training step as long as the block lasts."""
    training = runner.training
    pieces = [(training.feed, "load", ("rest", "loading")), (training.feed, "choose", ("rest", "loading"))]
    pieces += [(training.loss, name, ("rest", "loss")) for name in ("pack_target", "compute")]
    pieces += [(training.optimizer, "update_stretch", ("rest", "update"))]
    for name, node in runner.network.nodes.items():
        if node.layer is not None:
            directions = ("forward", "forward"), ("backward", "backward"), ("finish", "backward")
            pieces += [(node.layer, method, (direction, name)) for method, direction in directions]
    runner.current().as_programs = False  # a clock around each call can only be where Python makes it
    for owner, name, key in pieces:
        setattr(owner, name, clock.around(key, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, _ in pieces:
            delattr(owner, name)  # the class's own is there again
        runner.current().as_programs = True


def measure(name: str, batch: int, repeats: int, seconds: float) -> dict:
    """Return the table of one network: each layer's times, GFLOP/s and shares, and what lies outside of layers."""
    runner, clock = Handgrad(name, batch, 1), Clock()
    runner.step()
    peak, rejected = peak_gflops(1), 0
    with clocks_on(runner, clock):
        for _ in range(repeats):
            steps, bad = quietly(lambda: _steps(runner, clock, seconds))
            clock.steps += steps
            rejected += bad
    medians = clock.medians()
    total = statistics.median(sum(step.values()) for step in clock.steps)
    layers = [_row(runner, layer, medians, total, peak) for layer, _ in runner.current().steps]
    rest = {what: 1e6 * value for (kind, what), value in medians.items() if kind == "rest"}
    outside = [{"what": w, "microseconds": us, "share_of_step": us / 1e6 / total} for w, us in rest.items()]
    result = {"net": name, "title": NETS[name].title, "batch": batch, "threads": 1, "peak_gflops": peak}
    result |= {"step_microseconds": 1e6 * total, "images_per_second": batch / total, "steps": len(clock.steps)}
    return result | {"rejected": rejected, "layers": layers, "outside": outside}


def _steps(runner: Handgrad, clock: Clock, seconds: float) -> list[dict[tuple[str, str], float]]:
    """Run steps for about so long and return what the clock says of them."""
    steps, start = [], time.perf_counter()
    while len(steps) < LEAST or time.perf_counter() - start < seconds:
        steps.append(clock.step(runner.step))
    return steps


def _row(runner: Handgrad, name: str, medians: dict, total: float, peak: float) -> dict:
    """Return one layer's line; a backward pass that has both gradients to compute takes twice the multiply-adds."""
    network, share = runner.network, runner.current().active[0].shares[name]
    shapes = [source.shape for source in network.nodes[name].inputs]
    once = 2 * network.nodes[name].layer.multiply_adds(*shapes) * runner.batch
    back = bool(share.parameters) + any(dL_dx is not None for dL_dx in share.dL_dx)
    joined = runner.current().joined
    title = f"{name}, {joined[name]}" if name in joined else name
    row = {"layer": title, "shape": list(network.nodes[name].shape)}
    for direction, operations in (("forward", once), ("backward", once * back)):
        seconds = medians.get((direction, name), 0.0)
        gflops = operations / seconds / 1e9 if operations and seconds else None
        row[direction] = {"microseconds": 1e6 * seconds, "gflops": gflops}
        row[direction] |= {"share_of_peak": gflops and gflops / peak, "share_of_step": seconds / total}
    return row


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=NETS)
    parser.add_argument("batch", type=int)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    a = parser.parse_args()
    print(json.dumps(measure(a.net, a.batch, a.repeats, a.seconds)))


if __name__ == "__main__":
    main()
