"""Visit one network and its peers: ``echo null | python -m handgrad.benchmarks.one NET BATCH`` prints a JSON object.

A process of its own, so that nothing compiled for another size is in the way. For every line that it reads it makes a
visit: the line says in JSON who takes part, ``null`` when everybody does. ``visits.py`` puts the visits together.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time

from ..engine.backend import TILE
from .machine import LONGEST, Cores, runs_per_second
from .nets import NETS
from .ours import Handgrad
from .runner import Runner
from .turns import kinds_for, take_turns

SECONDS, REPEATS = 0.1, 25


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


def peers_of(name: str, batch: int, threads: int) -> list:
    """Return what makes each peer that is installed: pairs of its label and a function."""
    from .peers import MODES, PyTorch

    modes = [mode for mode in MODES if len(NETS[name].shape) == 3 or "channels_last" not in mode]
    makers = [(f"PyTorch {mode}", lambda mode=mode: PyTorch(name, batch, threads, mode)) for mode in modes]
    if importlib.util.find_spec("jax") is not None:
        from .jax_peer import Jax

        makers.append((Jax.label, lambda: Jax(name, batch, threads)))
    return makers


def start(makers: list, kinds: list[str]) -> tuple[list[Runner], dict[str, float], dict[str, str]]:
    """Make the runners and let each do everything once, which compiles what is compiled.

    Returns
    -------
    runners : list of Runner
    first : dict of str to float
        Seconds of each one's first step.
    left_out : dict of str to str
        Optional peers that cannot run here, such as compiled code without a C++ compiler, and why.
    """
    runners, first, left_out = [], {}, {}
    for label, make in makers:
        try:
            runner = make()
            began = time.perf_counter()
            runner.step()
            first[label] = time.perf_counter() - began
            for kind in kinds:
                runner.pieces(kind, 0.0)
        except Exception as error:
            if "compile" not in label and "JAX" not in label:
                raise
            first.pop(label, None)
            left_out[label] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        else:
            runners.append(runner)
    return runners, first, left_out


def memory_of(runners: list[Runner]) -> dict[str, int]:
    """Return the bytes of a training step of those that can say it: this engine and PyTorch without its compiler."""
    return {r.label: r.step_bytes() for r in runners if r.label in (Handgrad.label, "PyTorch eager")}


class Host:
    """The runners of one network and size in this process, which visits can be made to.

    Parameters
    ----------
    name : str
        Of NETS.
    batch : int
    threads : int
    with_peers : bool, optional
    racing : dict of str to list of str, optional
        For each kind the labels of those who take part; the others need not be made. None when nothing has been
        measured of the network before, and everybody does; then memory is measured as well.
    """

    def __init__(
        self,
        name: str,
        batch: int,
        threads: int,
        with_peers: bool = False,
        racing: dict[str, list[str]] | None = None,
    ):
        self._kinds, self._turns, self._cores = kinds_for(NETS[name].classes), 0, Cores(threads)
        (ours,), first, _ = start([(Handgrad.label, lambda: Handgrad(name, batch, threads))], ["step"])
        memory = {} if racing else memory_of([ours])  # before inference adds buffers of its own
        makers = peers_of(name, batch, threads) if with_peers else []
        if racing:
            makers = [(label, make) for label, make in makers if any(label in labels for labels in racing.values())]
        peers, more, left_out = start(makers, self._kinds)
        if not racing:
            memory |= memory_of(peers)
        self._runners = [ours, *peers]
        runs_per_second(self._cores.gflops, LONGEST)  # shows their peak
        self._about = {
            "process": os.getpid(),
            "threads": threads,
            "tile": TILE,
            "operations": operations(ours.network),
            "left_out": left_out,
        }
        self._about |= {"memory_bytes": memory, "first_step_seconds": first | more}

    def visit(self, repeats: int, seconds: float, racing: dict[str, list[str]] | None = None) -> dict:
        """Return what one visit gives: the pieces of every turn.

        Parameters
        ----------
        repeats, seconds, racing
            As ``take_turns`` takes them.
        """
        turns = take_turns(self._runners, self._kinds, seconds, repeats, racing, self._cores.wait, self._turns)
        self._turns += repeats
        found = self._about | {"peak_gflops": self._cores.peak, "pieces": turns.pieces, "rejected": turns.rejected}
        return found | {"disturbed": sorted(turns.disturbed)}


def main() -> None:
    """Read the command line, and answer each line of the standard input with a visit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=NETS)
    parser.add_argument("batch", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--peers", action="store_true")
    a, host = parser.parse_args(), None
    for line in sys.stdin:
        racing = json.loads(line)
        host = host or Host(a.net, a.batch, a.threads, a.peers, racing)
        answer = json.dumps(host.visit(a.repeats, a.seconds, racing))
        print(f"\n{answer}", flush=True)  # whatever others have printed before


if __name__ == "__main__":
    main()
