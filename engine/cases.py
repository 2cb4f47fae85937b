"""Every layer and loss of the curriculum in small configurations, at which all views of its gradients are compared.

Floor 5. A layer is checked alone, with L = Σ u z for random numbers u, so that its upstream gradient is u. Shapes are
so small that SymPy can differentiate the literal code; the tests try larger and random ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from .agreement import Agreement
from .gradcheck import GradientCheck
from .graph import Input, Node
from .invariants import Invariant, invariants_of
from .layers.add import Add
from .layers.avgpool2d import AvgPool2D
from .layers.batch_norm import BatchNorm
from .layers.concat import Concat
from .layers.conv2d import Conv2D
from .layers.conv_transpose2d import ConvTranspose2D
from .layers.dense import Dense
from .layers.dropout import Dropout
from .layers.flatten import Flatten
from .layers.global_avgpool2d import GlobalAvgPool2D
from .layers.global_maxpool2d import GlobalMaxPool2D
from .layers.layer import Layer, Shape
from .layers.leaky_relu import LeakyReLU
from .layers.linear import Linear
from .layers.local_response_norm import LocalResponseNorm
from .layers.log_softmax import LogSoftmax
from .layers.maxpool2d import MaxPool2D
from .layers.multiply import Multiply
from .layers.relu import ReLU
from .layers.reshape import Reshape
from .layers.sigmoid import Sigmoid
from .layers.simple_rnn import SimpleRNN
from .layers.softmax import Softmax
from .layers.step import Step
from .layers.tanh import Tanh
from .layers.upsample2d import Upsample2D
from .losses.binary_cross_entropy import BinaryCrossEntropy
from .losses.cross_entropy import CrossEntropy
from .losses.hinge import Hinge
from .losses.loss import Loss, LossOfValues
from .losses.mean_absolute_error import MeanAbsoluteError
from .losses.mean_squared_error import MeanSquaredError
from .losses.perceptron import Perceptron
from .losses.softmax_cross_entropy import SoftmaxCrossEntropy
from .network import Network

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Projection(LossOfValues):
    """L = Σ u z with fixed numbers u, which makes the upstream gradient u."""

    kind = "projection"
    derivation = SimpleNamespace(forward=lambda z, u: (u * z).sum(), backward=lambda z, u: u)

    def call_cuda(self, z: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        """Return L and u: there is nothing for a GPU to do."""
        return self(z, target)

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Fill L with N Σ u z, which the caller divides by N, and dL/dz = u."""
        dL_dz[...] = target
        L[0] = N * (target * np.where(target == 0, 0, z)).sum()


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normally distributed numbers."""
    return rng.normal(size=shape)


def shares(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers between .05 and .95."""
    return rng.uniform(0.05, 0.95, size=shape)


def probabilities(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return positive rows that sum to 1."""
    p = rng.uniform(0.1, 1.0, size=shape)
    return p / p.sum(axis=1, keepdims=True)


def labels(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return a class for each sample; for a single output 0 or 1."""
    return rng.integers(0, max(2, shape[1]), size=shape[0])


def bits(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros and ones."""
    return rng.integers(0, 2, size=shape).astype(np.float64)


@dataclass(frozen=True)
class Case:
    """One configuration of one layer or loss.

    Attributes
    ----------
    title : str
        What is special about it.
    layer : callable
        Makes the layer.
    shapes : tuple of Shape
        Of one sample of each input.
    samples : int
    training : bool
    loss : Loss
    x, target : callable
        Draw the samples and what the loss compares with.
    """

    title: str
    layer: Callable[[], Layer]
    shapes: tuple[Shape, ...]
    samples: int = 2
    training: bool = True
    loss: Loss = field(default_factory=Projection)
    x: Draw = normal
    target: Draw = normal

    def check(self, seed: int = 0, h: float = 1e-6, dtype: str = "float64", device: str = "cpu") -> GradientCheck:
        """Return the check at a random point."""
        rng = np.random.default_rng([seed, 3])
        nodes: list[Node] = [Input(shape, name="x" if len(self.shapes) == 1 else f"x{k}")
                             for k, shape in enumerate(self.shapes)]  # fmt: skip
        output = self.layer()(*nodes)
        network = Network(nodes if len(nodes) > 1 else nodes[0], output, dtype=dtype, seed=seed, threads=1)
        for arrays in (network.parameters, network.statistics):
            for name, array in arrays.items():
                array[...] = rng.uniform(0.5, 2, array.shape) if "variance" in name else rng.normal(size=array.shape)
        x = [self.x(rng, (self.samples, *shape)) for shape in self.shapes]
        target = self.target(rng, (self.samples, *output.shape))
        return GradientCheck(network, self.loss, x, target, training=self.training, h=h, dtype=dtype, device=device)


@dataclass(frozen=True)
class Result:
    """What the check of one case found.

    Attributes
    ----------
    subject : str
        Name of the layer or loss, "conv2d".
    title : str
    rows : list of Agreement
    invariants : list of Invariant
    """

    subject: str
    title: str
    rows: list[Agreement]
    invariants: list[Invariant]

    @property
    def ok(self) -> bool:
        """Whether nothing failed and everything could be compared."""
        return all(row.agrees for row in self.rows) and all(i.ok for i in self.invariants)


def examine(
    subject: str,
    case: Case,
    *,
    seed: int = 0,
    h: float = 1e-6,
    elements=None,
    exact: bool = True,
    device: str = "cpu",
) -> Result:
    """Compare all views of one case; the parameters are those of ``GradientCheck`` and its ``run``."""
    check = case.check(seed, h, device=device)
    return Result(
        subject, case.title, list(check.run(elements, seed, exact)), invariants_of(subject, check, case.training)
    )


def _flat(layer: Callable[[], Layer], title: str = "") -> Case:
    return Case(title, layer, ((5,),))


LAYERS: dict[str, tuple[Case, ...]] = {
    "dense": (
        Case("", lambda: Dense(3), ((4,),)),
        Case("one sample, one input, one output", lambda: Dense(1), ((1,),), 1),
    ),
    "conv2d": (
        Case("", lambda: Conv2D(3, 3), ((2, 4, 4),)),
        Case("same padding, even kernel", lambda: Conv2D(2, 2, padding="same"), ((1, 3, 3),)),
        Case("kernel 2x3, stride (2, 1)", lambda: Conv2D(2, (2, 3), stride=(2, 1)), ((2, 4, 4),)),
        Case("padding (1, 0, 2, 1)", lambda: Conv2D(1, 2, padding=(1, 0, 2, 1)), ((1, 3, 3),)),
        Case("dilation 2, stride 2", lambda: Conv2D(2, 2, dilation=2, stride=2, padding=1), ((1, 4, 4),)),
        Case("2 groups", lambda: Conv2D(4, 2, groups=2), ((2, 3, 3),)),
        Case("kernel 1x1, one sample", lambda: Conv2D(3, 1), ((2, 2, 2),), 1),
    ),
    "conv_transpose2d": (
        Case("", lambda: ConvTranspose2D(2, 2), ((2, 2, 2),)),
        Case("stride 2, same padding", lambda: ConvTranspose2D(1, 3, stride=2, padding="same"), ((2, 2, 2),)),
        Case("stride 3, output padding 1", lambda: ConvTranspose2D(2, 2, stride=3, output_padding=1), ((1, 2, 2),)),
        Case("dilation 2, groups 2", lambda: ConvTranspose2D(2, 2, dilation=2, groups=2), ((2, 2, 2),)),
    ),
    "maxpool2d": (
        Case("size 2", lambda: MaxPool2D(2), ((2, 4, 4),)),
        Case("size 3, stride 2: overlapping", lambda: MaxPool2D(3, stride=2), ((2, 5, 5),)),
        Case("size 3x2, padding (1, 0, 0, 1)", lambda: MaxPool2D((3, 2), padding=(1, 0, 0, 1)), ((1, 5, 5),)),
    ),
    "avgpool2d": (
        Case("size 2", lambda: AvgPool2D(2), ((2, 4, 4),)),
        Case("size 3, stride 2: overlapping", lambda: AvgPool2D(3, stride=2), ((2, 5, 5),)),
        Case("size 3x2, padding (1, 0, 0, 1)", lambda: AvgPool2D((3, 2), padding=(1, 0, 0, 1)), ((1, 5, 5),)),
    ),
    "global_avgpool2d": (Case("", GlobalAvgPool2D, ((3, 2, 3),)),),
    "global_maxpool2d": (Case("", GlobalMaxPool2D, ((3, 2, 3),)),),
    "batch_norm": (
        Case("flat samples, training", BatchNorm, ((2,),), 4),
        Case("images, training", lambda: BatchNorm(eps=0.1), ((2, 1, 2),), 2),
        Case("images, inference", BatchNorm, ((2, 1, 2),), training=False),
    ),
    "local_response_norm": (
        Case("", lambda: LocalResponseNorm(3, alpha=0.5), ((4, 1, 2),)),
        Case("even size", lambda: LocalResponseNorm(2, alpha=0.5, k=2.0), ((3, 1, 2),)),
    ),
    "dropout": (
        Case("rate .4, training", lambda: Dropout(0.4), ((3, 2, 2),)),
        Case("inference", lambda: Dropout(0.4), ((4,),), training=False),
    ),
    "flatten": (Case("", Flatten, ((2, 2, 3),)),),
    "reshape": (Case("", lambda: Reshape((3, -1)), ((2, 3, 2),)),),
    "add": (
        Case("two inputs", Add, ((2, 2, 2), (2, 2, 2))),
        Case("three inputs", Add, ((4,), (4,), (4,))),
    ),
    "concat": (
        Case("images of 1 and 2 channels", Concat, ((1, 2, 2), (2, 2, 2))),
        Case("three flat inputs", Concat, ((2,), (3,), (1,))),
    ),
    "multiply": (
        Case("two inputs", Multiply, ((2, 2, 2), (2, 2, 2))),
        Case("three inputs", Multiply, ((4,), (4,), (4,))),
    ),
    "upsample2d": (
        Case("nearest, 2x3", lambda: Upsample2D((2, 3)), ((2, 2, 2),)),
        Case("bilinear, 2", lambda: Upsample2D(2, method="bilinear"), ((1, 3, 2),)),
    ),
    "simple_rnn": (
        Case("tanh, last state", lambda: SimpleRNN(2), ((3, 2),)),
        Case("sigmoid, all states", lambda: SimpleRNN(2, activation="sigmoid", return_sequences=True), ((3, 2),)),
    ),
    "linear": (_flat(Linear),),
    "step": (
        _flat(Step, "true derivative"),
        _flat(lambda: Step(surrogate="straight-through"), "surrogate straight-through"),
        _flat(lambda: Step(surrogate="sigmoid"), "surrogate sigmoid"),
        _flat(lambda: Step(surrogate="triangle"), "surrogate triangle"),
    ),
    "sigmoid": (_flat(Sigmoid),),
    "tanh": (_flat(Tanh),),
    "relu": (_flat(ReLU),),
    "leaky_relu": (_flat(LeakyReLU), _flat(lambda: LeakyReLU(0.3), "slope .3")),
    "softmax": (_flat(Softmax),),
    "log_softmax": (_flat(LogSoftmax),),
}


def _loss(title: str, loss: Loss, shape: Shape, target: Draw, x: Draw = normal, samples: int = 3) -> Case:
    return Case(title, Linear, (shape,), samples, True, loss, x, target)


LOSSES: dict[str, tuple[Case, ...]] = {
    "mean_squared_error": (_loss("", MeanSquaredError(), (4,), normal),),
    "mean_absolute_error": (_loss("", MeanAbsoluteError(), (4,), normal),),
    "softmax_cross_entropy": (_loss("", SoftmaxCrossEntropy(), (4,), labels),),
    "cross_entropy": (_loss("", CrossEntropy(), (4,), labels, probabilities),),
    "binary_cross_entropy": (
        _loss("of probabilities", BinaryCrossEntropy(), (3,), shares, shares),
        _loss("of logits", BinaryCrossEntropy(logits=True), (3,), shares),
    ),
    "hinge": (
        _loss("", Hinge(), (4,), labels),
        _loss("one output", Hinge(), (1,), labels, samples=5),
    ),
    "perceptron": (_loss("", Perceptron(), (3,), bits),),
}

CASES = LAYERS | LOSSES
