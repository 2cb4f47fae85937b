"""The networks that are measured, as graphs of this engine; ``peers.py`` has the same ones for PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..engine.graph import Input, Node
from ..engine.models.text import chain

LATENCY_GOAL = 1.0  # PyTorch's time for one image divided by ours
MEMORY_GOAL = 1.5  # bytes of a training step: ours divided by PyTorch's, at most

LENET = "conv 6@5x5 same > relu > maxpool 2 > conv 16@5x5 > relu > maxpool 2 > {} > dense 84 > relu > dense 10"
LENET_1998 = "conv 6@5x5 same > tanh > avgpool 2 > conv 16@5x5 > tanh > avgpool 2 > {} > dense 84 > tanh > dense 10"


@dataclass(frozen=True)
class Net:
    """One network and what is expected of it.

    Attributes
    ----------
    title : str
    shape : tuple of int
        Of one sample.
    build : callable
        Node to Node.
    batches : tuple of int
    goal : float
        Ratio to the strongest peer that the project wants, whole training step, 2 threads.
    classes : bool
        Whether it is trained on labels with softmax cross entropy; otherwise L = Σ u z with fixed u, and the gradient
        of the input is computed as well, as inside a larger network.
    """

    title: str
    shape: tuple[int, ...]
    build: Callable[[Node], Node]
    batches: tuple[int, ...]
    goal: float
    classes: bool = True


def residual_block(x: Node) -> Node:
    """Return relu(f(x) + x) with two 3 x 3 convolutions of 16 channels, each with batch normalization."""
    from ..engine import Add, ReLU

    y = chain("conv 16@3x3 same > batchnorm > relu > conv 16@3x3 same > batchnorm", x)
    return ReLU()(Add()(y, x))


def text(words: str) -> Callable[[Node], Node]:
    """Return what builds a chain of layers from its text."""
    return lambda x: chain(words, x)


NETS = {
    "lenet5": Net(
        "LeNet-5, ReLU, max pooling", (1, 28, 28), text(LENET.format("dense 120 > relu")), (64, 128, 256), 3.0
    ),
    "lenet5-1998": Net(
        "LeNet-5, tanh, average pooling", (1, 28, 28), text(LENET_1998.format("dense 120 > tanh")), (64, 128, 256), 3.0
    ),
    "mlp": Net("784-512-512-10", (784,), text("dense 512 > relu > dense 512 > relu > dense 10"), (128, 256), 1.2),
    "two-conv": Net(
        "conv 32, conv 64, dense 128, dropout",
        (1, 28, 28),
        text(
            "conv 32@3x3 > relu > conv 64@3x3 > relu > maxpool 2 > dropout 0.25"
            " > dense 128 > relu > dropout 0.5 > dense 10"
        ),
        (64,),
        1.3,
    ),
    "alexnet-small": Net(
        "small AlexNet on 32 x 32 x 3",
        (3, 32, 32),
        text(
            "conv 16@3x3 same > relu > maxpool 2 > conv 32@3x3 same > relu > maxpool 2 > conv 64@3x3 same > relu"
            " > maxpool 2 > dense 500 > relu > dense 10"
        ),
        (32, 128),
        1.5,
    ),
    "residual-block": Net("residual block, batch norm, 16 x 32 x 32", (16, 32, 32), residual_block, (128,), 1.3, False),
    "conv-stride2": Net(
        "conv 32@3x3 stride 2 on 16 x 32 x 32", (16, 32, 32), text("conv 32@3x3 stride 2 pad 1"), (128,), 1.0, False
    ),
    "conv-1x1": Net("conv 32@1x1 on 16 x 32 x 32", (16, 32, 32), text("conv 32@1x1"), (128,), 1.0, False),
    "conv-1x1-stride2": Net(
        "conv 32@1x1 stride 2 on 16 x 32 x 32", (16, 32, 32), text("conv 32@1x1 stride 2"), (128,), 1.0, False
    ),
}


def graph(name: str) -> tuple[Node, Node]:
    """Return (input, output) nodes of a new graph of a net."""
    x = Input(NETS[name].shape)
    return x, NETS[name].build(x)
