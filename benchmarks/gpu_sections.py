"""The sections of the report about a GPU.

About the machine; parity of the CUDA kernels with those of the CPU; what a launch costs; where LeNet-5's step spends
its time; training steps beside PyTorch's; matrix products beside cuBLAS; convolutions beside cuDNN; MNIST to 99 %. Each
is a function that yields its pieces, a title and what yields rows; a row with "ok" false is wrong, a "note" is a
remark. SECTIONS has them in their order, with their shares of the time.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import numpy as np

from ..datasets import load
from ..engine import cuda, schedules
from ..engine.checks import DataError
from ..engine.cuda_training import CudaTrainingStep
from ..engine.feed import Feed, standardize
from ..engine.graph import Input
from ..engine.layers.conv2d import Conv2D, input_gradient_cuda, weight_gradient_cuda
from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from ..engine.metrics import evaluate
from ..engine.models.build import build
from ..engine.network import Network
from ..engine.optimizers.adam import Adam
from ..engine.training import Training
from . import parity
from .gpu_process import Asked, Piece, Row, Section, facts, one_line
from .gpu_runners import (
    REPEATS,
    GpuRunner,
    Handgrad,
    PyTorch,
    TorchWork,
    Work,
    device_seconds,
    event_seconds,
    median_seconds,
    recorded,
    set_precision,
)

TURN, TURNS = 0.1, 7  # seconds of a turn of one runner, and how many each has
CALLS = 20  # launches in a graph that is timed
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


def about(asked: Asked) -> Iterator[Piece]:
    """Yield what the machine is."""
    yield "machine", lambda: [{"what": what, "value": value} for what, value in facts().items()]


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


def without_torch(asked: Asked) -> str:
    """Return why PyTorch cannot be measured, or an empty text."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"PyTorch is left out: {one_line(error)}"
    if asked.torch_device == "cuda" and not torch.cuda.is_available():
        return "PyTorch is left out: torch.cuda.is_available() says no"
    return ""


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
        found = {"ratio": 1.0, "lower": 1.0, "upper": 1.0}
        if label != Handgrad.label:
            ratios = [ours / theirs for ours, theirs in zip(rates[Handgrad.label], values, strict=True)]
            found = dict(zip(("lower", "ratio", "upper"), np.percentile(ratios, (25, 50, 75)).tolist(), strict=True))
        row = {"net": name, "batch": batch, "runner": label, "microseconds": 1e6 * batch / statistics.median(values)}
        yield row | {key: found[key] for key in ("ratio", "lower", "upper")}


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
