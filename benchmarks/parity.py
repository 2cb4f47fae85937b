"""Whether the CUDA kernels compute what the CPU kernels compute: every layer, loss and optimiser, and whole trainings.

The reference is the CPU kernel in float64, on numbers that the GPU's dtype holds exactly, so that what is compared is
rounding on the GPU alone. Every pass runs twice, the second time into buffers full of NaN: the two must have the same
bits, so that a number that no thread writes is found as well as a sum whose order changes. The same functions run in
the simulator, on small cases.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..engine import cuda
from ..engine.cases import LAYERS, LOSSES, Case
from ..engine.checks import ShapeError
from ..engine.cuda_training import CudaTrainingStep
from ..engine.feed import Feed
from ..engine.graph import Input
from ..engine.layers.avgpool2d import AvgPool2D
from ..engine.layers.batch_norm import BatchNorm
from ..engine.layers.conv2d import Conv2D
from ..engine.layers.conv_transpose2d import ConvTranspose2D
from ..engine.layers.dense import Dense, multiply_matrices
from ..engine.layers.dropout import Dropout
from ..engine.layers.global_avgpool2d import GlobalAvgPool2D
from ..engine.layers.global_maxpool2d import GlobalMaxPool2D
from ..engine.layers.local_response_norm import LocalResponseNorm
from ..engine.layers.log_softmax import LogSoftmax
from ..engine.layers.maxpool2d import MaxPool2D
from ..engine.layers.simple_rnn import SimpleRNN
from ..engine.layers.softmax import Softmax
from ..engine.layers.upsample2d import Upsample2D
from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from ..engine.models.build import build
from ..engine.network import Network
from ..engine.optimizers.adam import Adam
from ..engine.optimizers.momentum import Momentum
from ..engine.optimizers.optimizer import STATE_NAME, Optimizer
from ..engine.optimizers.sgd import SGD
from ..engine.training import TrainingStep

# Of the largest number of an array. A sum of n products, rounded after each, is off by about eps √n of their size, and
# by eps n where all roundings conspire: for a thousand products 2e-6 and 6e-5 in float32, 4e-15 and 1e-13 in float64.
# A wrong index or a product too few changes a number by a share of itself, 1e-2 and more.
LIMITS = {"float32": 2e-4, "float64": 1e-10}
FLOOR = 1e-3  # of the largest number of all arrays: a gradient that is 0 but for rounding has no size of its own
TRAINING_LIMIT = 1e-8  # float64: each of a few steps goes on from what the last one has rounded, Adam divides by it
SAMPLES = (1, 5, 33, 70)  # less than a warp, a little more than one, and more than two
NEVER = 1e300  # an error that no limit allows: NaN where there should be a number

# Shapes that take the kernels which small configurations never reach: tiles of 8 channels x 4 columns and of 8 filters,
# odd sizes at every border, several blocks of threads, each of the three ways to multiply matrices
LARGER: dict[str, tuple[Case, ...]] = {
    "conv2d": (
        Case("LeNet's first", lambda: Conv2D(6, 5, padding="same"), ((1, 28, 28),), 70),
        Case("LeNet's second", lambda: Conv2D(16, 5), ((6, 14, 14),), 70),
        Case("wide", lambda: Conv2D(16, 3, padding="same"), ((8, 32, 32),), 70),
        Case("64 to 64 channels", lambda: Conv2D(64, 3, padding="same"), ((64, 16, 16),), 33),
        Case("2 groups, odd sizes", lambda: Conv2D(20, 3, padding=1, groups=2), ((6, 17, 19),), 33),
        Case("everything uneven", lambda: Conv2D(12, (3, 5), stride=(2, 1), padding=(1, 2, 0, 3), dilation=(1, 2)),
             ((5, 15, 18),), 33),
        Case("stride, dilation, 3 groups", lambda: Conv2D(9, 3, stride=2, padding=1, dilation=2, groups=3),
             ((6, 13, 13),), 5),
        Case("one filter for each channel", lambda: Conv2D(10, 3, padding=1, groups=10), ((10, 9, 9),), 33),
        Case("kernel 11, stride 4", lambda: Conv2D(96, 11, stride=4), ((3, 59, 59),), 5),
        Case("kernel 1", lambda: Conv2D(32, 1), ((16, 12, 12),), 33),
    ),
    "conv_transpose2d": (
        Case("stride 2", lambda: ConvTranspose2D(10, 4, stride=2, padding=1), ((12, 9, 7),), 33),
        Case("wide", lambda: ConvTranspose2D(16, 3, padding=1), ((16, 24, 24),), 70),
        Case("dilation 2, groups 2", lambda: ConvTranspose2D(8, 3, dilation=2, groups=2), ((4, 9, 9),), 33),
    ),
    "dense": (
        Case("features by fours", lambda: Dense(256), ((256,),), 512),
        Case("odd features", lambda: Dense(75), ((131,),), 70),
        Case("features by fours, outputs not", lambda: Dense(33), ((68,),), 70),
        Case("so wide that it takes tiles", lambda: Dense(1280), ((1280,),), 1280),
    ),
    "maxpool2d": (Case("overlapping, odd", lambda: MaxPool2D(3, stride=2, padding=1), ((5, 27, 31),), 33),),
    "avgpool2d": (Case("overlapping, odd", lambda: AvgPool2D(3, stride=2, padding=1), ((5, 27, 31),), 33),),
    "global_avgpool2d": (Case("larger", GlobalAvgPool2D, ((10, 9, 13),), 33),),
    "global_maxpool2d": (Case("larger", GlobalMaxPool2D, ((10, 9, 13),), 33),),
    "batch_norm": (
        Case("images", BatchNorm, ((8, 9, 11),), 70),
        Case("flat", BatchNorm, ((300,),), 70),
    ),
    "local_response_norm": (Case("larger", lambda: LocalResponseNorm(5), ((12, 7, 5),), 33),),
    "dropout": (Case("larger", lambda: Dropout(0.5), ((6, 14, 14),), 70),),
    "simple_rnn": (Case("larger", lambda: SimpleRNN(33, return_sequences=True), ((11, 20),), 70),),
    "upsample2d": (Case("bilinear, 3", lambda: Upsample2D(3, method="bilinear"), ((3, 5, 7),), 33),),
    "softmax": (Case("100 classes", Softmax, ((100,),), 70),),
    "log_softmax": (Case("100 classes", LogSoftmax, ((100,),), 70),),
}  # fmt: skip
MATRICES = ((132, 68, 70), (256, 256, 512), (384, 1024, 160))  # outputs, inputs, samples
OPTIMIZERS = (lambda: SGD(0.1), lambda: Momentum(0.1, 0.9), lambda: Adam(0.01))
MODEL = (
    "conv 6@5x5 same > relu > maxpool 2 > batchnorm > conv 16@5x5 > relu > avgpool 2 > dropout 0.25"
    " > dense 60 > tanh > dropout 0.5 > dense 10"
)  # no bias right before a batch normalization: its gradient is rounding alone, which Adam divides by itself


@dataclass(frozen=True)
class Comparison:
    """What was compared once, and how well it agreed.

    Attributes
    ----------
    subject, title : str
        The layer, loss or optimiser, and what is special about the case.
    dtype : {"float32", "float64"}
    samples : int
    worst : str
        The array with the largest error.
    error, limit : float
        The error, relative to the largest number, and what is allowed.
    repeatable : bool
        Whether a second pass gave the same bits.
    """

    subject: str
    title: str
    dtype: str
    samples: int
    worst: str
    error: float
    limit: float
    repeatable: bool

    @property
    def ok(self) -> bool:
        """Whether it agreed."""
        return self.error <= self.limit and self.repeatable


@contextmanager
def keeping_garbage() -> Iterator[None]:
    """Keep Python from collecting garbage in the block: no GPU memory may be freed while launches are captured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def error_of(found: np.ndarray, expected: np.ndarray, largest: float = 0.0) -> float:
    """Return the largest difference, relative to the largest expected number, or to FLOOR of one still larger.

    Parameters
    ----------
    found, expected : numpy.ndarray
        Of one shape.
    largest : float
        Of all arrays that belong together.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return NEVER
    differ = ~((found == expected) | (np.isnan(found) & np.isnan(expected)))
    if not differ.any():
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)])
    error = np.abs(found[differ] - expected[differ]).max() / max(finite.max(initial=0.0), FLOOR * largest, 1e-300)
    return float(error) if np.isfinite(error) else NEVER


def largest_error(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[str, float]:
    """Return the name of the array with the largest error, and that error."""
    largest = max(float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) for array in expected.values())
    errors = {name: error_of(found[name], array, largest) for name, array in expected.items()}
    return max(errors.items(), key=lambda item: item[1])


def have_same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Return whether two passes gave the same numbers; NaN is the same as NaN."""
    return all(np.array_equal(array, second[name], equal_nan=True) for name, array in first.items())


def both_passes(network: Network, x: list[np.ndarray], dL_dz: np.ndarray, training: bool) -> dict[str, np.ndarray]:
    """Return a copy of the value, all gradients and all statistics, by name."""
    network.draw = 0
    found = {"value": network.forward(x, training=training)}
    found |= {f"gradient of x{k}": dL_dx for k, dL_dx in enumerate(network.backward(dL_dz))}
    found |= {f"gradient of {name}": array.copy() for name, array in network.gradients.items()}
    return found | {name: array.copy() for name, array in network.statistics.items()}


def spoil(network: Network) -> None:
    """Fill everything that a pass on the GPU has to write with NaN."""
    (part,), device = network.last_pass.active, cuda.device()
    edges = [array for array in part.edges.values() if array is not None]
    for array in (part.values[network.outputs[0].name], *edges, network.gradients_there):
        device.write(array, np.full(array.shape, np.nan, array.dtype))


def compare_layer(subject: str, case: Case, dtype: str, samples: int, threads: int | None = None) -> Comparison | None:
    """Return the comparison of one configuration of a layer, or None where it cannot have so few samples."""
    rng = np.random.default_rng(samples)
    nodes = [Input(shape) for shape in case.shapes]
    output = case.layer()(*nodes)
    exact = Network(nodes, output, dtype="float64", threads=threads)
    for arrays in (exact.parameters, exact.statistics):
        for name, array in arrays.items():
            numbers = rng.uniform(0.5, 2, array.shape) if "variance" in name else rng.normal(size=array.shape)
            array[...] = numbers.astype(dtype)
    x = [case.x(rng, (samples, *shape)).astype(dtype) for shape in case.shapes]
    dL_dz = rng.normal(size=(samples, *output.shape)).astype(dtype)
    if case.training:
        try:
            exact.check_samples(samples)
        except ShapeError:
            return None
    network = Network(nodes, output, dtype=dtype, device="cuda", threads=threads)
    state = exact.state()
    network.load_state(state)
    expected = both_passes(exact, x, dL_dz, case.training)
    first = both_passes(network, x, dL_dz, case.training)
    network.load_state(state)
    spoil(network)
    second = both_passes(network, x, dL_dz, case.training)
    worst, error = largest_error(first, expected)
    return Comparison(subject, case.title, dtype, samples, worst, error, LIMITS[dtype], have_same_bits(first, second))


def compare_loss(subject: str, case: Case, dtype: str, samples: int) -> Comparison:
    """Return the comparison of a loss and its gradient."""
    rng, shape = np.random.default_rng(samples), (samples, *case.shapes[0])
    z, target = case.x(rng, shape).astype(dtype), case.target(rng, shape)
    if target.dtype.kind == "f":
        target = target.astype(dtype)
    L, dL_dz = case.loss(z.astype(np.float64), target)
    names = "value", "gradient"
    runs = [case.loss.call_cuda(z, case.loss.check_target(target, shape)) for _ in range(2)]
    first, second = (dict(zip(names, map(np.asarray, run), strict=True)) for run in runs)
    worst, error = largest_error(first, {"value": np.asarray(L), "gradient": dL_dz})
    return Comparison(subject, case.title, dtype, samples, worst, error, LIMITS[dtype], have_same_bits(first, second))


def compare_optimizer(make: Callable[[], Optimizer], dtype: str, size: int = 1000, steps: int = 3) -> Comparison:
    """Return the comparison of some steps of an optimiser; "samples" are parameters here."""
    device, exact = cuda.device(), make()
    results = []
    for _ in range(2):
        rng, optimizer = np.random.default_rng(size), make()
        start, gradients = rng.normal(size=size).astype(dtype), rng.normal(size=(steps, size)).astype(dtype)
        theta, state = device.put(start), {name: device.zeros(size, dtype) for name in optimizer.state_names}
        for g in gradients:
            optimizer.begin_step(STATE_NAME, start)
            constants = np.array(optimizer.constants(STATE_NAME, start.dtype.type), dtype)
            optimizer.update_cuda(theta, device.put(g), state, device.put(constants))
        results.append({"parameters": device.get(theta)} | {name: device.get(array) for name, array in state.items()})
    reference = start.astype(np.float64)
    for g in gradients:
        exact.update(STATE_NAME, reference, g.astype(np.float64))
    worst, error = largest_error(results[0], {"parameters": reference, **exact.state[STATE_NAME]})
    repeatable = have_same_bits(*results)
    return Comparison(exact.kind, f"{steps} steps", dtype, size, worst, error, LIMITS[dtype], repeatable)


@dataclass(frozen=True)
class Matrices:
    """The operands of one matrix product of a dense layer, on the host and on the GPU.

    Attributes
    ----------
    kind : {"forward", "input", "weights"}
        As in ``dense.matrix_kernel``.
    A, B, bias, C : numpy.ndarray
        W (outputs, inputs); x and dL/dz (blocks, features, WARP); C begins as NaN.
    there : list of arrays
        The same four on the GPU.
    """

    kind: str
    A: np.ndarray
    B: np.ndarray
    bias: np.ndarray
    C: np.ndarray
    there: list

    @classmethod
    def random(cls, kind: str, sizes: tuple[int, int, int], dtype: str, seed: int = 0) -> Matrices:
        """Return normally distributed operands.

        Parameters
        ----------
        kind : str
        sizes : (outputs, inputs, samples)
            The samples are filled up to whole warps, with numbers as well.
        dtype : str
        seed : int
        """
        (I, J, samples), rng = sizes, np.random.default_rng(seed)
        blocks = -(-samples // cuda.WARP)
        shapes = {"W": (I, J), "x": (blocks, J, cuda.WARP), "dL_dz": (blocks, I, cuda.WARP)}
        names = {"forward": ("W", "x", "dL_dz"), "input": ("W", "dL_dz", "x"), "weights": ("dL_dz", "x", "W")}[kind]
        A, B = (rng.standard_normal(shapes[name], np.dtype(dtype)) for name in names[:2])
        bias, C = rng.standard_normal(I, np.dtype(dtype)), np.full(shapes[names[2]], np.nan, dtype)
        return cls(kind, A, B, bias, C, [cuda.device().put(array) for array in (A, B, bias, C)])

    def multiply(self, side: int) -> None:
        """Launch the product in tiles of side x side."""
        multiply_matrices(self.kind, *self.there, side)

    def error(self, rows: Sequence[int], blocks: Sequence[int]) -> float:
        """Return the error of what lies in C on the GPU, in some rows of the result and some blocks of samples.

        For the weights, whose sums go over all samples, the columns are those of ``rows``.
        """
        rows, blocks = list(rows), list(blocks)
        found = cuda.device().get(self.there[3])
        if self.kind == "weights":
            columns = [k for k in rows if k < self.B.shape[1]]
            dL_dz, x = _as_matrix(self.A[:, rows]), _as_matrix(self.B[:, columns])
            return error_of(found[np.ix_(rows, columns)], dL_dz @ x.T)
        W = (self.A if self.kind == "forward" else self.A.T)[rows].astype(np.float64)
        expected = W @ _as_matrix(self.B[blocks])
        if self.kind == "forward":
            expected += self.bias[rows].astype(np.float64)[:, None]
        return error_of(_as_matrix(found[np.ix_(blocks, rows)]), expected)


def _as_matrix(lanes: np.ndarray) -> np.ndarray:
    """Return (blocks, features, WARP) as (features, samples) in float64."""
    return lanes.astype(np.float64).transpose(1, 0, 2).reshape(lanes.shape[1], -1)


def compare_matrices(kind: str, side: int, sizes: tuple[int, int, int], dtype: str) -> Comparison:
    """Return the comparison of a matrix product with that of NumPy."""
    matrices, device = Matrices.random(kind, sizes, dtype), cuda.device()
    matrices.multiply(side)
    first = device.get(matrices.there[3])
    rows = range(first.shape[0] if kind == "weights" else first.shape[1])
    error = matrices.error(rows, range(len(matrices.B)))
    device.write(matrices.there[3], matrices.C)
    matrices.multiply(side)
    repeatable = np.array_equal(first, device.get(matrices.there[3]))
    title = "{} x {}, tiles of {}".format(*sizes[:2], side)
    return Comparison(f"matrices, {kind}", title, dtype, sizes[2], "product", error, LIMITS[dtype], repeatable)


class _Launched(CudaTrainingStep):
    """Training in which every step is launched kernel by kernel, and none is replayed."""

    def run(self, batches, rates):
        results = []
        for chosen, rate in zip(batches, rates, strict=True):
            results += super().run([chosen], [rate])
            self._plans[len(chosen)]._is_warm = False
        return results


def compare_training(
    model: str = MODEL, shape=(1, 28, 28), batch: int = 40, steps: int = 6, make=lambda: Adam(0.01), dtype="float64"
) -> list[Comparison]:
    """Return how well trainings agree: CPU and GPU; steps launched and replayed from a graph; the same once more.

    The model ends with ten classes; its samples are bytes, as in training.
    """
    rng, kind = np.random.default_rng(0), make().kind
    pixels, labels = rng.integers(0, 256, (2 * batch + 3, *shape), dtype=np.uint8), rng.integers(0, 10, 2 * batch + 3)
    batches = [rng.permutation(len(labels))[:batch] for _ in range(steps)]
    rates = [0.01 / (1 + k) for k in range(steps)]

    def train(step_class, device: str, of_dtype: str) -> dict[str, np.ndarray]:
        network, optimizer = build(model, shape, 10, dtype=of_dtype, device=device, seed=1), make()
        feed = Feed(pixels, labels, np.full(shape[0], 1 / 128), np.full(shape[0], -1.0))
        step = step_class(network, SoftmaxCrossEntropy(), optimizer, feed)
        with keeping_garbage():
            results = step.run(batches, rates)
        found = {"losses": np.array([loss for loss, _ in results]), "right": np.array([right for _, right in results])}
        return found | network.state() | optimizer.state[STATE_NAME]

    on_cpu = train(TrainingStep, "cpu", "float64")
    replayed, again = (train(CudaTrainingStep, "cuda", dtype) for _ in range(2))
    launched = train(_Launched, "cuda", dtype)
    same = have_same_bits(replayed, again)
    allowed = TRAINING_LIMIT if dtype == "float64" else LIMITS[dtype]
    found = []
    for title, other, limit in (("CPU and GPU", on_cpu, allowed), ("launched and replayed", launched, 0.0)):
        worst, error = largest_error(replayed, other)
        title = f"{title}, {steps} steps"
        found.append(Comparison(f"training, {kind}", title, dtype, batch, worst, error, limit, same))
    return found


Piece = tuple[str, Callable[[], list[Comparison]]]


def pieces(dtypes: Sequence[str] = ("float32", "float64")) -> Iterator[Piece]:
    """Yield everything that is compared on a GPU, the most telling first: a title, and what compares it."""
    yield "training", compare_training
    for dtype in dtypes:
        for subject, cases in LAYERS.items():
            for case in cases:
                sizes = sorted({case.samples, *SAMPLES})
                yield f"{subject} {case.title} {dtype}", partial(_layers, subject, case, dtype, sizes)
        for subject, cases in LOSSES.items():
            for case in cases:
                yield f"{subject} {case.title} {dtype}", partial(_losses, subject, case, dtype)
        yield f"optimisers {dtype}", partial(_optimizers, dtype)
        for subject, cases in LARGER.items():
            for case in cases:
                yield f"{subject} {case.title} {dtype}", partial(_layers, subject, case, dtype, [case.samples])
        for kind in ("forward", "weights", "input"):
            for side in (128, 64):
                yield f"matrices, {kind}, {side} {dtype}", partial(_matrices, kind, side, dtype)


def _layers(subject: str, case: Case, dtype: str, sizes: Sequence[int]) -> list[Comparison]:
    found = (compare_layer(subject, case, dtype, samples) for samples in sizes)
    return [comparison for comparison in found if comparison is not None]


def _losses(subject: str, case: Case, dtype: str) -> list[Comparison]:
    return [compare_loss(subject, case, dtype, samples) for samples in sorted({case.samples, *SAMPLES})]


def _optimizers(dtype: str) -> list[Comparison]:
    return [compare_optimizer(make, dtype) for make in OPTIMIZERS]


def _matrices(kind: str, side: int, dtype: str) -> list[Comparison]:
    return [compare_matrices(kind, side, sizes, dtype) for sizes in MATRICES]
