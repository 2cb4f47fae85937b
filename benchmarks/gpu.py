"""Everything about a GPU in one command: ``python -m handgrad.benchmarks.gpu``, at most eight minutes.

Sections, one after the other: about the machine; parity of the CUDA kernels with those of the CPU; what a launch costs;
where LeNet-5's step spends its time; training steps beside PyTorch's; matrix products beside cuBLAS; convolutions
beside cuDNN; MNIST to 99 %. Each has a share of the time. The work is done by a second process, so that a crash, a
broken context or a kernel that never ends costs what was being measured then, and nothing else: a new process goes on
with what comes next. Everything that was measured is in the JSON file after each section.

Times are those of the device between two events wherever work can be captured in a graph, and of the clock for training
steps, whose host is part of them. The exit code is 1 where something failed or was wrong, 4 without a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from .. import __version__
from ..datasets import load
from ..engine import cuda, schedules
from ..engine.checkpoint import write_atomically
from ..engine.checks import DataError, DeviceError, HandgradError
from ..engine.cuda_training import CudaTrainingStep
from ..engine.feed import Feed, standardize
from ..engine.graph import Input
from ..engine.layers.conv2d import Conv2D, input_gradient_cuda, weight_gradient_cuda
from ..engine.losses.mean_squared_error import MeanSquaredError
from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from ..engine.metrics import evaluate
from ..engine.models.build import build
from ..engine.network import Network
from ..engine.optimizers.adam import Adam
from ..engine.optimizers.sgd import SGD
from ..engine.training import Training
from . import parity
from .nets import NETS, graph
from .peers import modules
from .runner import WARM, Runner
from .turns import Turns

SECONDS_IN_ALL = 480.0
RESERVE = 10.0  # of these stay for the last table and the file
GRACE = 20.0  # that a section may go on beyond its share with what it has begun, before its process is ended
START = 120.0  # to import everything and to find the GPU
RESTARTS = 4  # of a section's process
PACKAGES = ("numba", "numba-cuda", "numpy", "torch", "cuda-bindings", "cuda-core")

TURN, TURNS = 0.1, 7  # seconds of a turn of one runner, and how many each has
CALLS, REPEATS = 20, 10  # launches in a graph that is timed, and how often
DATA_SAMPLES, DATA_BYTES = 60_000, 2**26  # of the data set on the GPU, as large as MNIST; fewer where they are large
MNIST_BATCHES = 468.75  # of 128 images in an epoch
PLAIN = (("eager", False), ("CUDA graph", False), ("CUDA graph", True))  # modes, and whether with TF32
COMPILED = (("compile", False), ("compile, CUDA graph", False))
NETWORKS = (
    ("lenet5", 128), ("lenet5", 64), ("lenet5", 256), ("mlp", 128), ("mlp", 256), ("two-conv", 64),
    ("residual-block", 128), ("lenet5-1998", 128),
)  # fmt: skip
COMPILED_NETWORKS = (("lenet5", 128), ("mlp", 128), ("two-conv", 64), ("residual-block", 128), ("lenet5-1998", 128))
PRODUCTS = (
    *(("forward", side, n) for n in (4096, 1024, 2048, 8192) for side in (128, 64)),
    *((kind, side, 4096) for kind in ("weights", "input") for side in (128, 64)),
)
CONVOLUTIONS = (
    ("LeNet's first", (1, 28, 28), partial(Conv2D, 6, 5, padding=2), 128),
    ("LeNet's second", (6, 14, 14), partial(Conv2D, 16, 5), 128),
    ("64 to 64 channels", (64, 32, 32), partial(Conv2D, 64, 3, padding=1), 64),
    ("16 to 16 channels", (16, 32, 32), partial(Conv2D, 16, 3, padding=1), 128),
)
PRODUCT_LIMIT = 1e-3  # float32 against float64 or cuDNN, of the largest number: sums of up to 65,536 products
RECIPES = ((64, 0), (64, 1), (64, 2), (128, 0))  # batch size and seed; epochs, optimiser and schedule are fixed
EPOCHS, LEARNING_RATE = 4, 0.003
GOALS = {"eager": 5.0, "CUDA graph": 1.5, "epoch": 0.1, "sgemm": 0.7, "accuracy": 0.99, "mnist": 2.0}

Row = dict[str, object]
Piece = tuple[str, Callable[[], Iterable[Row]]]


@dataclass(frozen=True)
class Asked:
    """What the command line asked for.

    Attributes
    ----------
    data_dir : str or None
        Folder with MNIST; by default ``$HANDGRAD_DATA``.
    torch_device : str
        Where PyTorch computes; "cpu" only where there is no GPU to be measured, in tests.
    """

    data_dir: str | None = None
    torch_device: str = "cuda"


# Timing


def device_seconds(run: Callable[[], object]) -> float:
    """Return the device's seconds from before to after what a function enqueues; the host's where there is no GPU."""
    device = cuda.device()
    if not isinstance(device, cuda.Gpu):
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    start, end = device.cuda.event(), device.cuda.event()
    start.record(device.stream)
    run()
    end.record(device.stream)
    end.synchronize()
    return device.cuda.event_elapsed_time(start, end) / 1e3


class Work:
    """Launches of this engine in one graph, so that the host's share of a launch is not in their time.

    Parameters
    ----------
    run : callable
        Enqueues what is timed.
    calls : int
        How often in the graph.
    before : callable, optional
        What has to be done before each replay, untimed.
    """

    def __init__(self, run: Callable[[], object], calls: int, before: Callable[[], object] | None = None):
        self.calls, self.before = calls, before or (lambda: None)
        self.before()
        run()  # compiles
        cuda.device().synchronize()
        with parity.keeping_garbage(), cuda.device().capture() as self.graph:
            for _ in range(calls):
                run()
        self.seconds()

    def seconds(self) -> float:
        """Return the seconds of one call."""
        self.before()
        return device_seconds(self.graph.replay) / self.calls


class TorchWork:
    """The same for PyTorch; without a GPU the function is called as it is."""

    def __init__(self, run: Callable[[], object], calls: int, torch_device: str):
        import torch

        self.calls, self._torch, self._graph, self._run = calls, torch, None, run
        if torch_device != "cuda":
            return
        with torch.no_grad(), parity.keeping_garbage():
            warm_up(run)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                for _ in range(calls):
                    run()
        self.seconds()

    def seconds(self) -> float:
        """Return the seconds of one call."""
        if self._graph is None:
            begin = time.perf_counter()
            self._run()
            return time.perf_counter() - begin
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / self.calls


def median_seconds(works: Sequence[Work | TorchWork]) -> list[float]:
    """Return the median seconds of each, measured in turns, A B and then B A."""
    times = {k: [] for k in range(len(works))}
    for turn in range(REPEATS):
        for k in list(times) if turn % 2 == 0 else list(times)[::-1]:
            times[k].append(works[k].seconds())
    return [statistics.median(values) for values in times.values()]


# PyTorch


def set_precision(tf32: bool) -> None:
    """Let PyTorch's matrix products and convolutions in float32 round their factors to TF32, or forbid it."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def without_torch(asked: Asked) -> str:
    """Return why PyTorch cannot be measured, or an empty text."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"PyTorch is left out: {one_line(error)}"
    if asked.torch_device == "cuda" and not torch.cuda.is_available():
        return "PyTorch is left out: torch.cuda.is_available() says no"
    return ""


def warm_up(run: Callable[[], object], times: int = 5) -> None:
    """Call a function on a side stream, as PyTorch demands of what will be captured."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(times):
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


class GpuRunner(Runner):
    """A runner whose turns end when the GPU has done everything.

    Attributes
    ----------
    steps : int
        That one call of ``step`` makes.
    """

    steps = 1

    def synchronize(self) -> None:
        """Wait until the GPU has done everything."""
        cuda.device().synchronize()

    def rate(self, kind: str, seconds: float) -> float:
        """Return how many samples a second go through training steps, in a turn of about so many seconds."""
        self.enter(kind)
        self._run_for(WARM * seconds)
        count, seconds = self._run_for(seconds)
        return self.batch * self.steps * count / seconds

    def _run_for(self, seconds: float) -> tuple[int, float]:
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds:
            self.step()
            count += 1
        self.synchronize()
        return count, time.perf_counter() - start


class Handgrad(GpuRunner):
    """The training step of this engine, with all that the host does, on bytes that lie on the GPU.

    Each step gathers its samples, scales them, computes loss, gradients and update, and counts what is right; after
    each stretch of steps parameters, gradients and losses go back to the host.

    Parameters
    ----------
    name : str
        Of NETS; those without classes are trained on fixed targets with the mean squared error.
    batch : int
    steps : int
        Of one stretch.
    """

    label = "handgrad"

    def __init__(self, name: str, batch: int, steps: int = CudaTrainingStep.at_once):
        net, rng, (x, z) = NETS[name], np.random.default_rng(0), graph(name)
        self.batch, self.steps = batch, steps
        self.network = Network(x, z, device="cuda")
        bytes_each = x.size + (0 if net.classes else 4 * z.size)
        count = max(2 * batch, min(DATA_SAMPLES, DATA_BYTES // bytes_each, 8 * batch * steps))
        images, loss, targets = rng.integers(0, 256, (count, *net.shape), np.uint8), SoftmaxCrossEntropy(), None
        if net.classes:
            targets = rng.integers(0, 10, count)
        else:
            loss, targets = MeanSquaredError(), rng.standard_normal((count, *z.shape), np.float32)
        feed = Feed(images, targets, np.full(1, 1 / 128), np.full(1, -1.0))
        self.training = CudaTrainingStep(self.network, loss, SGD(0.01), feed)
        self.batches = [rng.permutation(count)[:batch] for _ in range(steps)]

    def step(self) -> None:
        """Train on a stretch of mini-batches."""
        self.training.run(self.batches, [0.01] * self.steps)

    def ready(self) -> Handgrad:
        """Launch everything once and capture it, and return itself."""
        with parity.keeping_garbage():
            for _ in range(2):
                self.step()
        return self

    @property
    def plan(self):
        """What the steps with these mini-batches have on the GPU."""
        return self.training._plans[self.batch]

    def begin(self) -> None:
        """Go back to the first row of the tables: without this, more steps than there are rows read beyond them."""
        self.plan.batches.choose(self.batches)

    def replay(self) -> None:
        """Enqueue a stretch of steps and nothing else, after ``begin``."""
        for _ in range(self.steps):
            self.plan.step()


class PyTorch(GpuRunner):
    """The training step of PyTorch, on one mini-batch of floats that lies on the GPU: no gathering and no counting.

    Parameters
    ----------
    name : str
        Of NETS.
    batch : int
    mode : str
        "eager", "compile", "CUDA graph" or "compile, CUDA graph".
    tf32 : bool
    device : str
    """

    steps = 16

    def __init__(self, name: str, batch: int, mode: str, tf32: bool = False, device: str = "cuda"):
        import torch

        self._torch, self.tf32, self.device, self.batch = torch, tf32, device, batch
        self.label = f"PyTorch {mode}{', TF32' if tf32 else ''}"
        self.enter("step")
        torch.manual_seed(0)
        net, (_, z) = NETS[name], graph(name)
        module = modules(name).to(device).train()
        criterion = torch.nn.CrossEntropyLoss() if net.classes else torch.nn.MSELoss()
        self.x = torch.randn(batch, *net.shape, device=device)
        self.target = torch.randn(batch, *z.shape, device=device)
        if net.classes:
            self.target = torch.randint(0, 10, (batch,), device=device)
        self._loss = lambda x, target: criterion(module(x), target)
        if "compile" in mode:
            import torch._dynamo

            torch._dynamo.config.automatic_dynamic_shapes = False  # every size gets code of its own
            self._loss = torch.compile(self._loss)
        self.module = module
        self.optimizer = torch.optim.SGD(module.parameters(), lr=0.01, fused=True)  # the fastest of its variants
        self._once = self._train
        if "CUDA graph" in mode:
            self._once = self._captured()

    def _train(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._loss(self.x, self.target).backward()
        self.optimizer.step()

    def _captured(self) -> Callable[[], None]:
        """Return the replay of a step; its gradients are made in the graph's own memory, which each replay fills."""
        with parity.keeping_garbage():
            warm_up(self._train)
            self.optimizer.zero_grad(set_to_none=True)
            captured = self._torch.cuda.CUDAGraph()
            with self._torch.cuda.graph(captured):
                self._loss(self.x, self.target).backward()
                self.optimizer.step()
        return captured.replay

    def enter(self, kind: str) -> None:
        """Set the precision that is this runner's."""
        set_precision(self.tf32)

    def step(self) -> None:
        """Train some steps."""
        for _ in range(self.steps):
            self._once()

    def synchronize(self) -> None:
        """Wait until the GPU has done everything."""
        if self.device == "cuda":
            self._torch.cuda.synchronize()


# Sections: each yields its pieces, a title and what yields rows; a row with "ok" false is wrong, a "note" is a remark


def about(asked: Asked) -> Iterator[Piece]:
    """Yield what the machine is."""
    yield "machine", lambda: [{"what": what, "value": value} for what, value in facts().items()]


def facts() -> dict[str, object]:
    """Return what is known of the machine, and the versions of everything that takes part."""
    device = cuda.device()
    found: dict[str, object] = {"device": device.name}
    if isinstance(device, cuda.Gpu):
        gpu, context = device.cuda.get_current_device, device.cuda.current_context
        found |= {
            "compute capability": known(lambda: "{}.{}".format(*gpu().compute_capability)),
            "multiprocessors": known(lambda: gpu().MULTIPROCESSOR_COUNT),
            "clock, MHz": known(lambda: gpu().CLOCK_RATE / 1e3),
            "second cache, MiB": known(lambda: gpu().L2_CACHE_SIZE / 2**20),
            "memory, GiB": known(lambda: context().get_memory_info().total / 2**30),
            "driver": driver_version(),
        }
    found |= {"platform": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    return found | {"handgrad": __version__} | {name: known(partial(metadata.version, name)) for name in PACKAGES}


def known(read: Callable[[], object]) -> object:
    """Return what a function reads, or None where it cannot: a fact that is missing must not stop a measurement."""
    try:
        return read()
    except Exception:
        return None


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, where its own tool is installed."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0] or None
    except (OSError, subprocess.SubprocessError):
        return None


def compared(asked: Asked) -> Iterator[Piece]:
    """Yield the comparisons of the CUDA kernels with those of the CPU."""
    for title, piece in parity.pieces():
        yield title, lambda piece=piece: ({**asdict(found), "ok": found.ok} for found in piece())


def launches(asked: Asked) -> Iterator[Piece]:
    """Yield what launches and replays cost."""
    yield "a small kernel", small_launches
    yield "LeNet-5's step", lambda: replays(Handgrad("lenet5", 128).ready())


def small_launches(count: int = 500) -> Iterator[Row]:
    """Yield the times of a kernel that does next to nothing."""
    device = cuda.device()
    array = device.zeros(cuda.FLAT, np.float32)

    def launch() -> None:
        cuda.clear_cuda[1, cuda.FLAT](array)

    launch()
    device.synchronize()
    hosts, walls = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(count):
            launch()
        hosts.append((time.perf_counter() - start) / count)
        device.synchronize()
        walls.append((time.perf_counter() - start) / count)
    yield {"what": "one launch, host until it is enqueued", "microseconds": 1e6 * statistics.median(hosts)}
    yield {"what": "one launch of many in a row, until all are done", "microseconds": 1e6 * statistics.median(walls)}
    (seconds,) = median_seconds([Work(launch, 100)])
    yield {"what": "one launch in a graph of 100, device", "microseconds": 1e6 * seconds}


def replays(runner: Handgrad) -> Iterator[Row]:
    """Yield the times of a network's step: a replay for the host, for the device, and everything."""
    hosts, devices, alls = [], [], []
    for _ in range(REPEATS):
        runner.begin()
        start = time.perf_counter()
        runner.replay()
        hosts.append(time.perf_counter() - start)
        runner.synchronize()
        runner.begin()
        devices.append(device_seconds(runner.replay))
        start = time.perf_counter()
        runner.step()
        alls.append(time.perf_counter() - start)
    for what, seconds in (("enqueued by the host", hosts), ("on the device", devices), ("everything", alls)):
        yield {"what": f"one step, {what}", "microseconds": 1e6 * statistics.median(seconds) / runner.steps}


def profile(asked: Asked) -> Iterator[Piece]:
    """Yield every launch of LeNet-5's step at 128 with its time."""
    yield "LeNet-5's step, launch by launch", lambda: profiled(Handgrad("lenet5", 128).ready())


def profiled(runner: Handgrad) -> Iterator[Row]:
    """Yield a step's launches, the slowest first, then their sum beside the step's own time on the device.

    ``microseconds`` is the time between two events around a launch; ``repeated`` that of one launch among many of the
    same in a graph.
    """
    runner.plan.current.prepare_layers(training=True)
    made = recorded(lambda: runner.training.enqueue(runner.plan))
    times, launch, rows = event_seconds(made, runner.begin), cuda.device().launch, []
    for (kernel, grid, block, arguments), seconds in zip(made, times, strict=True):
        (repeated,) = median_seconds([Work(partial(launch, kernel, grid, block, arguments), CALLS, runner.begin)])
        row = {"kernel": kernel.__name__, "grid": list(grid), "block": list(block), "microseconds": 1e6 * seconds}
        rows.append(row | {"repeated": 1e6 * repeated, "share": seconds / sum(times)})
    yield from sorted(rows, key=lambda row: -row["microseconds"])
    steps = []
    for _ in range(REPEATS):
        runner.begin()
        steps.append(device_seconds(runner.replay) / runner.steps)
    total = {"launches": len(rows), "sum of microseconds": sum(row["microseconds"] for row in rows)}
    total["sum of repeated"] = sum(row["repeated"] for row in rows)
    yield total | {"step in a graph": 1e6 * statistics.median(steps)}


def recorded(work: Callable[[], object]) -> list[tuple]:
    """Return the launches that a function makes, as the device's ``launch`` takes them; none of them is made."""
    device, made = cuda.device(), []
    device.launch = lambda *launch: made.append(launch)  # hides the method of its class
    try:
        work()
    finally:
        del device.launch
    return made


def event_seconds(made: list[tuple], begin: Callable[[], object]) -> list[float]:
    """Return the median seconds of each launch between events, in passes over all of them in their order.

    Before each pass the GPU gets enough to do for the host to enqueue all of it: otherwise the events would say how
    long the GPU waits for the host.
    """
    device, times = cuda.device(), [[] for _ in made]
    if not isinstance(device, cuda.Gpu):
        begin()
        return [device_seconds(partial(device.launch, *launch)) for launch in made]
    array = device.zeros(2**26, np.float32)
    busy = Work(lambda: cuda.clear_cuda[cuda.flat(array.size)](array), 60)
    events = [(device.cuda.event(), device.cuda.event()) for _ in made]
    for _ in range(REPEATS + 1):
        begin()
        busy.graph.replay()
        for (start, end), launch in zip(events, made, strict=True):
            start.record(device.stream)
            device.launch(*launch)
            end.record(device.stream)
        device.synchronize()
        for (start, end), found in zip(events, times, strict=True):
            found.append(device.cuda.event_elapsed_time(start, end) / 1e3)
    return [statistics.median(found[1:]) for found in times]


def networks(asked: Asked) -> Iterator[Piece]:
    """Yield training steps beside those of PyTorch."""
    for name, batch in NETWORKS:
        yield f"{name}, {batch}", partial(beside_peers, name, batch, PLAIN, asked)
    if not without_torch(asked):
        for name, batch in COMPILED_NETWORKS:
            yield f"{name}, {batch}, compiled", partial(beside_peers, name, batch, COMPILED, asked)


def beside_peers(name: str, batch: int, modes, asked: Asked, steps: int = CudaTrainingStep.at_once) -> Iterator[Row]:
    """Yield a row for each runner: the time of a step, and how many times as long it takes as this engine's."""
    runners: list[GpuRunner] = [Handgrad(name, batch, steps).ready()]
    missing = without_torch(asked)
    if missing:
        yield {"note": missing}
    elif any("compile" in mode for mode, _ in modes):
        import torch._dynamo

        torch._dynamo.reset()  # after some versions of one function it would compile no more
    for mode, tf32 in () if missing else modes:
        try:
            peer = PyTorch(name, batch, mode, tf32, asked.torch_device)
            peer.rate("step", 0.0)
            runners.append(peer)
        except Exception as error:  # a compiler that is missing, a capture that is not allowed: the others go on
            yield {"note": f"{name}, {batch}: PyTorch {mode} is left out: {one_line(error)}"}
    rates = {runner.label: [] for runner in runners}
    for k in range(TURNS):
        for runner in runners if k % 2 == 0 else runners[::-1]:
            rates[runner.label].append(runner.rate("step", TURN))
    for label, values in rates.items():
        found = {"ratio": 1.0, "least": 1.0, "largest": 1.0}
        if label != Handgrad.label:
            found = Turns({"step": {Handgrad.label: rates[Handgrad.label], label: values}}).compare("step")
        row = {"net": name, "batch": batch, "runner": label, "microseconds": 1e6 * batch / statistics.median(values)}
        yield row | {key: found[key] for key in ("ratio", "least", "largest")}


def products(asked: Asked) -> Iterator[Piece]:
    """Yield matrix products of dense layers beside those of PyTorch."""
    for kind, side, n in PRODUCTS:
        yield f"{kind}, {n}, tiles of {side}", partial(product, kind, side, n, asked)


def product(kind: str, side: int, n: int, asked: Asked) -> Iterator[Row]:
    """Yield the speed of a product of n features with n features and n samples, and of PyTorch's."""
    flops, missing = 2 * n**3, without_torch(asked)
    calls = max(1, min(CALLS, int(2e11 / flops)))  # some milliseconds in a graph
    matrices = parity.Matrices.random(kind, (n, n, n), "float32")
    works: list = [Work(partial(matrices.multiply, side), calls)]
    error = matrices.error(np.linspace(0, n - 1, 16).astype(int), (0, -1 % (n // cuda.WARP)))
    if missing:
        yield {"note": missing}
    else:
        works.append(TorchWork(torch_product(kind, n, asked.torch_device), calls, asked.torch_device))
    seconds = median_seconds(works)
    row = {"product": kind, "n": n, "side": side, "microseconds": 1e6 * seconds[0], "tflops": flops / seconds[0] / 1e12}
    theirs = flops / seconds[1] / 1e12 if len(seconds) > 1 else None
    row |= {"torch_tflops": theirs, "share": theirs and row["tflops"] / theirs}
    yield row | {"error": error, "ok": error < PRODUCT_LIMIT}
    del matrices, works
    gc.collect()  # networks and graphs are rings of references, and hundreds of megabytes hang on them


def torch_product(kind: str, n: int, device: str) -> Callable[[], object]:
    """Return the same product in PyTorch, samples as columns."""
    import torch

    set_precision(tf32=False)
    A, B, C = (torch.randn(n, n, device=device) for _ in range(3))
    left, right = {"forward": (A, B), "input": (A.T, B), "weights": (A, B.T)}[kind]
    return lambda: torch.matmul(left, right, out=C)


def convolutions(asked: Asked) -> Iterator[Piece]:
    """Yield convolutions beside those of cuDNN."""
    for title, shape, make, samples in CONVOLUTIONS:
        yield title, partial(convolution, title, shape, make, samples, asked)


def convolution(title: str, shape, make: Callable[[], Conv2D], samples: int, asked: Asked) -> Iterator[Row]:
    """Yield the speed of a convolution's forward pass, input gradient and weight gradient, and of PyTorch's."""
    image, layer, rng, missing = Input(shape), make(), np.random.default_rng(0), without_torch(asked)
    network = Network(image, layer(image), device="cuda")
    name, current = network.outputs[0].name, network.pass_for(samples)
    current.allocate_gradients()
    x, dL_dz = (rng.standard_normal((samples, *node.shape), np.float32) for node in (image, network.outputs[0]))
    current.load(image.name, x)
    current.load_seed(0, dL_dz)
    (part,) = current.active
    share, sizes = part.shares[name], layer._sizes
    runs = {
        "forward": (lambda: layer.forward_cuda(share), lambda: current.value(name)),
        "input gradient": (
            lambda: input_gradient_cuda(sizes, share.parameters["W"], share.dL_dz, share.dL_dx[0], share.scratch),
            lambda: current.gradient(image.name),
        ),
        "weight gradient": (
            lambda: weight_gradient_cuda(sizes, share.x[0], share.dL_dz, share.gradients["W"], share.scratch),
            lambda: cuda.device().get(share.gradients["W"]),
        ),
    }
    flops = 2 * samples * layer.multiply_adds(shape)
    theirs = {} if missing else torch_convolution(network.parameters, name, layer, x, dL_dz, asked.torch_device)
    if missing:
        yield {"note": missing}
    for what, (run, result) in runs.items():
        works: list = [Work(run, CALLS)]
        error, row = None, {"convolution": title, "samples": samples, "pass": what}
        if theirs:
            works.append(TorchWork(theirs[what], CALLS, asked.torch_device))
            error = parity.error_of(result(), theirs[what]().detach().cpu().numpy())
        seconds = median_seconds(works)
        row |= {"microseconds": 1e6 * seconds[0], "gflops": flops / seconds[0] / 1e9}
        other = flops / seconds[1] / 1e9 if theirs else None
        row |= {"torch_gflops": other, "ratio": other and row["gflops"] / other}
        yield row | {"error": error, "ok": error is None or error < PRODUCT_LIMIT}


def torch_convolution(parameters, name: str, layer: Conv2D, x, dL_dz, device: str) -> dict[str, Callable]:
    """Return the three passes of PyTorch on the same numbers."""
    import torch

    set_precision(tf32=False)
    arrays = x, dL_dz, parameters[f"{name}.W"], parameters[f"{name}.b"]
    x, dL_dz, W, b = (torch.tensor(np.asarray(array), device=device) for array in arrays)
    (top, _, left, _), stride, dilation = layer._sizes.padding, list(layer.stride), list(layer.dilation)

    def gradients(*mask: bool):
        rest = [len(b)], stride, [top, left], dilation, False, [0, 0], layer.groups, list(mask)
        return torch.ops.aten.convolution_backward(dL_dz, x, W, *rest)

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, W, b, layer.stride, (top, left), layer.dilation, layer.groups),
        "input gradient": lambda: gradients(True, False, False)[0],
        "weight gradient": lambda: gradients(False, True, False)[1],
    }


def mnist(asked: Asked) -> Iterator[Piece]:
    """Yield trainings of LeNet-5 on MNIST to their test accuracy."""
    for batch, seed in RECIPES:
        yield f"batch {batch}, seed {seed}", partial(train_mnist, asked, batch, seed)


def train_mnist(asked: Asked, batch: int, seed: int, name: str = "mnist", model: str = "lenet5") -> Iterator[Row]:
    """Yield accuracy and seconds of one training; the first in a process compiles its kernels.

    ``training`` are the seconds of all steps without compiling, ``everything`` those of data, building, compiling,
    training, validation and test, but not of Python's start.
    """
    start, compiling = time.perf_counter(), cuda.compile_seconds()
    try:
        splits = load(name, folder=asked.data_dir, download=False)
    except DataError as error:
        yield {"note": f"left out: {one_line(error)}"}
        return
    scale, shift = standardize(splits.train.images)
    train, validation, test = (
        Feed(part.images, part.labels, scale, shift) for part in (splits.train, splits.validation, splits.test)
    )
    network = build(model, splits.train.sample_shape, len(splits.train.classes), device="cuda", seed=seed)
    loss, options = SoftmaxCrossEntropy(), {"epochs": EPOCHS, "batch_size": batch, "schedule": schedules.cosine}
    training = Training(network, loss, Adam(LEARNING_RATE), train, validation, seed=seed, **options)
    best = network.state()
    with parity.keeping_garbage():
        for word in training.run():
            if word == "epoch" and training.progress.best_epoch == training.progress.epoch:
                best = network.state()
    network.load_state(best)
    accuracy = evaluate(network, test, loss).accuracy
    everything, compiling = time.perf_counter() - start, cuda.compile_seconds() - compiling
    row = {"batch": batch, "seed": seed, "epochs": EPOCHS, "accuracy": accuracy}
    row["training"] = sum(entry["seconds"] for entry in training.progress.history)
    yield row | {"compiling": compiling, "everything": everything}


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes
    ----------
    run : callable
        From an Asked to pieces.
    share : float
        Seconds of the whole when all sections run; what one leaves is divided among the others.
    fresh : bool
        Whether it wants a process in which nothing has been compiled.
    shown : callable, optional
        Which rows the text shows; the file has all.
    """

    run: Callable[[Asked], Iterator[Piece]]
    share: float
    fresh: bool = False
    shown: Callable[[list[Row]], list[Row]] = list


def worst_rows(rows: list[Row], count: int = 12) -> list[Row]:
    """Return the comparisons that failed, then those that came nearest to it."""
    return sorted(rows, key=lambda row: (row["ok"], -row["error"] / (row["limit"] or 1.0)))[
        : max(count, sum(not row["ok"] for row in rows))
    ]


SECTIONS = {
    "about": Section(about, 5),
    "parity": Section(compared, 130, shown=worst_rows),
    "launch": Section(launches, 20),
    "profile": Section(profile, 20),
    "networks": Section(networks, 170),
    "sgemm": Section(products, 45),
    "conv": Section(convolutions, 30),
    "mnist99": Section(mnist, 40, fresh=True),
}


# The process that works, and the one that waits for it


def one_line(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def perform(run: Callable[[Asked], Iterator[Piece]], asked: Asked, skip: int, seconds: float, send: Callable) -> None:
    """Make a section's pieces from some number on, as long as there is time, and tell of everything that happens.

    Parameters
    ----------
    run : callable
        Of a Section.
    asked : Asked
    skip : int
        Pieces that have been made.
    seconds : float
    send : callable
        Gets pairs of a word and a value: "piece" (its title), "row", "failure" (dict), "done", "late" (the title of the
        first piece that was left out), "broken" where the GPU answers no more.
    """
    begin, title = time.perf_counter(), "its beginning"
    try:
        for title, piece in islice(run(asked), skip, None):
            if time.perf_counter() - begin > seconds:
                send(("late", title))
                return
            send(("piece", title))
            try:
                for row in piece():
                    send(("row", row))
            except Exception as error:
                send(("failure", failure(title, one_line(error), traceback.format_exc())))
                if is_broken():
                    send(("broken", None))
                    return
            send(("done", None))
    except Exception as error:
        send(("failure", failure(title, one_line(error), traceback.format_exc())))


def failure(piece: str, reason: str, trace: str = "") -> dict[str, str]:
    """Return what is kept of something that went wrong."""
    return {"piece": piece, "reason": reason, "traceback": trace}


def is_broken() -> bool:
    """Return whether the GPU answers no more: after an access outside of its memory it refuses everything."""
    try:
        cuda.device().put(np.zeros(1))
        cuda.device().synchronize()
    except Exception:
        return True
    return False


def serve(connection) -> None:
    """Make the sections that another process asks for, until it asks no more."""
    try:
        connection.send(("ready", facts()))
    except DeviceError as error:
        connection.send(("refused", str(error)))
        return
    while True:
        try:
            section, asked, skip, seconds = connection.recv()
        except EOFError:
            return
        perform(section, asked, skip, seconds, connection.send)
        connection.send(("end", None))


class Worker:
    """A process that measures.

    Attributes
    ----------
    facts : dict
        As ``facts`` returns them.
    is_usable : bool
        Whether it can be asked for another section.

    Raises
    ------
    DeviceError
        Where there is no GPU.
    """

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there,))
        self.process.start()
        there.close()
        self.is_usable = True
        for word, value in self._events(START):
            self.facts = value
            if word != "ready":
                self.stop()
                raise DeviceError(value if word == "refused" else f"device cuda: {value}")
            return

    def events(self, run, asked: Asked, skip: int, seconds: float, most: float) -> Iterator[tuple[str, object]]:
        """Yield what ``perform`` sends, then "end"; or "died" or "hung" with a reason.

        Parameters
        ----------
        run, asked, skip, seconds
            As ``perform`` takes them.
        most : float
            Seconds after which the process is ended.
        """
        self.connection.send((run, asked, skip, seconds))
        for word, value in self._events(most):
            yield word, value
            self.is_usable = self.is_usable and word not in ("broken", "died", "hung", "failure")
            if word == "end":
                return

    def _events(self, most: float) -> Iterator[tuple[str, object]]:
        end = time.perf_counter() + most
        while True:
            try:
                if not self.connection.poll(max(0.0, end - time.perf_counter())):
                    self.stop()
                    yield "hung", f"ended after {most:.0f} s without an answer"
                    return
                message = self.connection.recv()
            except (EOFError, OSError):
                self.process.join(10)
                yield "died", f"its process ended with exit code {self.process.exitcode}"
                return
            yield message

    def stop(self) -> None:
        """End the process."""
        self.is_usable = False
        self.process.kill()
        self.process.join()
        self.connection.close()


def measure(
    names: Sequence[str],
    asked: Asked,
    seconds: float = SECONDS_IN_ALL,
    *,
    sections: dict[str, Section] = SECTIONS,
    make_worker: Callable[[], Worker] = Worker,
    finished: Callable[[dict, str], None] = lambda report, name: None,
) -> dict:
    """Make some sections, each in its share of the time that is left, and return the report.

    Parameters
    ----------
    names : sequence of str
    asked : Asked
    seconds : float
        For everything.
    sections : dict of str to Section
    make_worker : callable
    finished : callable
        Called with the report and a name after each section.

    Raises
    ------
    DeviceError
        Where there is no GPU at the beginning.
    """
    end, worker = time.perf_counter() + seconds - RESERVE, make_worker()
    report = {"status": "measured on a GPU", "date": datetime.now(UTC).isoformat(timespec="seconds")}
    report |= {"machine": worker.facts, "seconds_in_all": seconds, "sections": {}}
    try:
        for position, name in enumerate(names):
            section, start = sections[name], time.perf_counter()
            left = sum(sections[other].share for other in names[position:])
            record = {"status": "ok", "seconds": 0.0, "rows": [], "notes": [], "failures": []}
            report["sections"][name] = record
            if section.fresh and position:
                worker.stop()
            soft = start + (end - start) * section.share / left
            worker = make_section(section, record, asked, worker, make_worker, soft, end, name)
            record["seconds"] = time.perf_counter() - start
            record["status"] = status_of(record)
            report["goals"] = goals(report)
            finished(report, name)
    finally:
        worker.stop()
    return report


def make_section(section: Section, record: dict, asked: Asked, worker, make_worker, soft: float, end: float, name: str):
    """Fill a section's record and return the worker that did; where one breaks down, the next goes on behind it.

    Parameters
    ----------
    section : Section
    record : dict
    asked : Asked
    worker, make_worker
    soft, end : float
        When no new piece is begun, and when all has to be over, on the clock ``time.perf_counter``.
    name : str
    """
    skip = 0
    for _ in range(RESTARTS + 1):
        now = time.perf_counter()
        if now >= soft:
            record["failures"].append(failure("", "out of time"))
            return worker
        title, is_over = "its beginning", True
        try:
            if not worker.is_usable:
                worker.stop()
                worker = make_worker()
            most = min(soft + GRACE, end) - time.perf_counter()
            for word, value in worker.events(section.run, asked, skip, soft - time.perf_counter(), most):
                if word == "piece":
                    title = value
                    print(f"handgrad: {name}: {title}", file=sys.stderr, flush=True)
                elif word == "row":
                    if "note" in value:
                        record["notes"] += [value["note"]] if value["note"] not in record["notes"] else []
                    else:
                        record["rows"].append(value)
                elif word == "failure":
                    record["failures"].append(value)
                elif word == "late":
                    record["failures"].append(failure(value, "out of time"))
                elif word in ("hung", "died"):
                    record["failures"].append(failure(title, "out of time" if word == "hung" else value, value))
                skip += word in ("done", "broken", "died")
                is_over = word not in ("broken", "died")
        except DeviceError as error:
            record["failures"].append(failure(title, one_line(error)))
            return worker
        if is_over:
            return worker
    record["failures"].append(failure("", f"given up after {RESTARTS} new processes"))
    return worker


def status_of(record: dict) -> str:
    """Return "ok", "failed", "out of time" or "left out", the worst that is true."""
    wrong = sum(row.get("ok") is False for row in record["rows"])
    if wrong:
        record["failures"].append(failure("", f"{wrong} of {len(record['rows'])} rows are wrong"))
    reasons = {entry["reason"] for entry in record["failures"]}
    if reasons - {"out of time"}:
        return "failed"
    if reasons:
        return "out of time"
    return "ok" if record["rows"] else "left out"


# The report as text


def goals(report: dict) -> list[Row]:
    """Return what the project wants to reach on a GPU, and what was measured of it."""
    rows = {name: section["rows"] for name, section in report["sections"].items()}
    found = []

    def add(what: str, wanted: float, values: Iterable[float], is_least: bool = True) -> None:
        reached = statistics.fmean(values) if (values := list(values)) else None
        is_reached = None if reached is None else reached >= wanted if is_least else reached <= wanted
        found.append({"goal": what, "wanted": wanted, "measured": reached, "reached": is_reached})

    def lenet(label: str, key: str) -> list[float]:
        wanted = {"net": "lenet5", "batch": 128, "runner": label}
        return [row[key] for row in rows.get("networks", []) if wanted.items() <= row.items()][:1]

    for mode in ("eager", "CUDA graph"):
        add(f"LeNet-5 at 128, times as fast as PyTorch {mode}", GOALS[mode], lenet(f"PyTorch {mode}", "ratio"))
    epochs = [us * MNIST_BATCHES / 1e6 for us in lenet(Handgrad.label, "microseconds")]
    add("LeNet-5 at 128, seconds of an epoch of MNIST", GOALS["epoch"], epochs, is_least=False)
    for n in sorted({n for _, _, n in PRODUCTS}):
        shares = [row["share"] for row in rows.get("sgemm", []) if (row["product"], row["n"]) == ("forward", n)]
        best = [max(share for share in shares if share)] if any(shares) else []
        add(f"matrix product of {n}, share of PyTorch's speed in float32", GOALS["sgemm"], best)
    runs = [row for row in rows.get("mnist99", []) if row["batch"] == RECIPES[0][0]]
    add("MNIST, mean test accuracy", GOALS["accuracy"], [row["accuracy"] for row in runs])
    add("MNIST, seconds of training to it", GOALS["mnist"], [row["training"] for row in runs], is_least=False)
    return found


def as_text(value: object) -> str:
    """Return a cell of a table."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "NO"}[value]
    if isinstance(value, (list, tuple)):
        return " x ".join(map(str, value))
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:.1e}"


def table(rows: list[Row]) -> list[str]:
    """Return rows as lines, with a header wherever their keys change; numbers are set flush right."""
    lines = []
    for keys, group in groupby(rows, key=tuple):
        values = [list(row.values()) for row in group]
        cells = [list(keys), *([as_text(value) for value in line] for line in values)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        right = [all(not isinstance(value, str) for value in column) for column in zip(*values, strict=True)]
        for line in cells:
            padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
            lines.append("  ".join(padded).rstrip())
    return lines


def render_section(name: str, record: dict, shown: Callable[[list[Row]], list[Row]] = list) -> str:
    """Return one section of a report as text."""
    rows = shown(record["rows"])
    more = f", {len(rows)} of {len(record['rows'])} rows" if len(rows) < len(record["rows"]) else ""
    lines = [f"== {name}: {record['status']}, {record['seconds']:.0f} s{more}"]
    lines += [f"! {entry['piece'] or name}: {entry['reason']}" for entry in record["failures"]]
    return "\n".join([*lines, *record["notes"], *table(rows)])


def render(report: dict, sections: dict[str, Section] = SECTIONS) -> str:
    """Return a report as text."""
    if "sections" not in report:
        return report["status"]
    parts = [
        render_section(name, record, sections[name].shown if name in sections else list)
        for name, record in report["sections"].items()
    ]
    return "\n\n".join([*parts, "\n".join(["== goals", *table(report.get("goals", []))])])


def main() -> int:
    """Read the command line, measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m handgrad.benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE.json", help="write everything to this file, after each section")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with MNIST; else $HANDGRAD_DATA")
    parser.add_argument("--only", metavar="SECTION", nargs="+", choices=SECTIONS, help=", ".join(SECTIONS))
    parser.add_argument("--seconds-in-all", type=float, default=SECONDS_IN_ALL, help="default %(default)g")
    a = parser.parse_args()

    def finished(report: dict, name: str) -> None:
        print(render_section(name, report["sections"][name], SECTIONS[name].shown), flush=True)
        if a.out:
            write_atomically(Path(a.out), (json.dumps(report, indent=1, default=float) + "\n").encode())

    try:
        if cuda.IS_SIMULATED:
            raise DeviceError("device cuda: the simulator is no GPU", remedy="unset NUMBA_ENABLE_CUDASIM")
        cuda.import_numba_cuda()  # or say here what is not installed
        if a.out and not os.access(Path(a.out).absolute().parent, os.W_OK):
            raise DataError(f"cannot write {a.out}", remedy="choose another place")  # before minutes of measuring
        report = measure(a.only or list(SECTIONS), Asked(a.data_dir), a.seconds_in_all, finished=finished)
    except HandgradError as error:
        print(f"handgrad: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{render(report)}", flush=True)
    return int(any(record["status"] == "failed" for record in report["sections"].values()))


if __name__ == "__main__":
    from .gpu import main as main_by_name  # the other process looks for everything in the module of this name

    sys.exit(main_by_name())
