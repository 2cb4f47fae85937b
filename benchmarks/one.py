"""Measure one network beside its peers: ``python -m handgrad.benchmarks.one NET BATCH`` prints one JSON object.

A process of its own, so that nothing compiled for another size is in the way. All runners take turns, A B C A B C; a
ratio is taken within each turn, and the median of the ratios is the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from ..engine.backend import TILE
from .machine import peak_gflops, quietly
from .nets import NETS
from .ours import Handgrad

SECONDS, REPEATS = 0.3, 7


def operations(network) -> int:
    """Return the floating-point operations of one sample in a training step, two per multiply-add."""
    total, needs_gradient = 0, set()
    for name, node in network.nodes.items():
        if node.layer is None:
            continue
        shapes = [source.shape for source in node.inputs]
        once = node.layer.multiply_adds(*shapes)
        has_parameters = bool(node.layer.parameter_shapes(*shapes))
        behind = any(source.name in needs_gradient for source in node.inputs)
        total += once * (1 + has_parameters + behind)
        if has_parameters or behind:
            needs_gradient.add(name)
    return 2 * total


def measure(name: str, batch: int, threads: int, repeats: int, seconds: float, with_peers: bool) -> dict:
    """Return rates and ratios of one network; see the module's docstring."""
    runners = [Handgrad(name, batch, threads)]
    if with_peers:
        from .peers import MODES, PyTorch

        modes = [mode for mode in MODES if len(NETS[name].shape) == 3 or "channels_last" not in mode]
        runners += [PyTorch(name, batch, threads, mode) for mode in modes]
    first = {}
    for runner in runners:
        start = time.perf_counter()
        runner.step()
        first[runner.label] = time.perf_counter() - start
        runner.images_per_second(seconds)
    peak = peak_gflops(threads)
    rates, forward, rejected = ({r.label: [] for r in runners} for _ in range(3))
    for _ in range(repeats):
        for runner in runners:
            time.sleep(0.02)
            rate, bad = quietly(lambda runner=runner: runner.images_per_second(seconds))
            rates[runner.label].append(rate)
            rejected[runner.label].append(bad)
            forward[runner.label].append(quietly(lambda r=runner: r.images_per_second(seconds / 3, forward=True))[0])
    ours = runners[0]
    flops = operations(ours.network) * statistics.median(rates[ours.label]) / 1e9
    result = {
        "net": name,
        "batch": batch,
        "threads": threads,
        "tile": TILE,
        "goal": NETS[name].goal,
        "images_per_second": {label: statistics.median(values) for label, values in rates.items()},
        "forward_images_per_second": {label: statistics.median(values) for label, values in forward.items()},
        "first_step_seconds": first,
        "gflops": flops,
        "peak_gflops": peak,
        "share_of_peak": flops / peak,
        "rejected": sum(map(sum, rejected.values())),
        "buffers_bytes": ours.buffers(),
    }
    if with_peers:
        for key, values in (("step", rates), ("forward", forward)):
            peers = [[values[r.label][k] for r in runners[1:]] for k in range(repeats)]
            ratios = sorted(values[ours.label][k] / max(peers[k]) for k in range(repeats))
            result[key] = {
                "ratio": statistics.median(ratios),
                "least": ratios[0],
                "largest": ratios[-1],
                "strongest": max(values, key=lambda label: statistics.median(values[label]) * (label != ours.label)),
            }
    return result


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=NETS)
    parser.add_argument("batch", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--peers", action="store_true")
    a = parser.parse_args()
    print(json.dumps(measure(a.net, a.batch, a.threads, a.repeats, a.seconds, a.peers)))


if __name__ == "__main__":
    main()
