"""What is timed on a GPU, and how: launches between two events of the device, training steps by the clock.

``Work`` and ``TorchWork`` are launches of this engine and of PyTorch in a graph, and ``median_seconds`` times them in
turns. ``recorded`` and ``event_seconds`` take a step apart, launch by launch. ``Handgrad`` and ``PyTorch`` are the
runners of whole training steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..engine import cuda
from ..engine.cuda_training import CudaTrainingStep
from ..engine.feed import Feed
from ..engine.losses.mean_squared_error import MeanSquaredError
from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from ..engine.network import Network
from ..engine.optimizers.sgd import SGD
from . import parity
from .nets import NETS, graph
from .peers import modules
from .runner import WARM, Runner

REPEATS = 10  # of everything that is timed by itself; of these the median
DATA_SAMPLES, DATA_BYTES = 60_000, 2**26  # of the data set on the GPU, as large as MNIST; fewer where they are large


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


# Training steps


def set_precision(tf32: bool) -> None:
    """Let PyTorch's matrix products and convolutions in float32 round their factors to TF32, or forbid it."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


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
