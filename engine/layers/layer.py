"""What every layer promises: it states its shapes, its parameters, its forward and its backward pass.

Floor 2. A layer object holds the hyper-parameters alone. The arrays belong to the network, which gives each worker a
:class:`Share` of them; ``forward`` and ``backward`` pass its arrays to kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import ClassVar

import numpy as np

from ..checks import ConfigurationError, ShapeError, require_name
from ..graph import Node
from ..program import states

Shape = tuple[int, ...]
LARGEST = 2**31  # values in one sample


@dataclass
class Share:
    """One worker's arrays of one layer, all in lane layout (blocks, ..., LANES); on a GPU (blocks, ..., WARP).

    A single sample in inference has (1, ..., 1), where all layers state ``takes_one``; a worker that shares it with
    others may have some rows of z and of the parameters.

    Attributes
    ----------
    x : tuple of numpy.ndarray
        The layer's inputs.
    z : numpy.ndarray
        Its output, to be filled by ``forward``.
    dL_dz : numpy.ndarray or None
        Upstream gradient, of the shape of z; None before the first backward pass.
    dL_dx : tuple of (numpy.ndarray or None)
        Gradients of the inputs, to be filled by ``backward``; None where nobody needs one.
    parameters, gradients : dict of str to numpy.ndarray
        Parameters, shared by all workers, and this worker's part of their gradients.
    scratch : dict of str to numpy.ndarray
        What the layer asked for in ``scratch``.
    training : bool
        Whether layers that behave differently in training do so.
    draw : int
        Names the random numbers of this layer in this step, 64 bits; on a GPU an array of that one number.
    first_sample, samples : int
        Position in the mini-batch of the first sample of this share, and the number of samples here; the lanes behind
        them are empty.
    N : int
        Samples of the whole mini-batch.
    statistics : dict of str to numpy.ndarray
        What the layer keeps between mini-batches without learning it, shared by all workers.
    common : dict of str to numpy.ndarray
        What the layer asked for in ``common_scratch``, one for all workers.
    activation : Layer or None
        The activation that follows, where this layer applies it as well: then z is its output, and dL_dz, which arrives
        as the gradient of that output, is overwritten by the gradient of the sum before it, unless ``is_undone``.
    is_undone : bool
        Whether the layer behind has gone back through that activation: then dL_dz arrives as the gradient before it.
    before : Layer or None
        The activation in front, where this layer's backward pass goes back through it: then x is its value, and dL_dx
        is to be the gradient of what it was applied to.
    all_reduce_sum : callable
        Replaces an array by its sum over the workers' shares; every share of the mini-batch must call it.
    """

    x: tuple[np.ndarray, ...]
    z: np.ndarray
    dL_dz: np.ndarray | None = None
    dL_dx: tuple[np.ndarray | None, ...] = ()
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    scratch: dict[str, np.ndarray] = field(default_factory=dict)
    training: bool = False
    draw: int = 0
    first_sample: int = 0
    samples: int = 0
    N: int = 0
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    common: dict[str, np.ndarray] = field(default_factory=dict)
    activation: Layer | None = None
    is_undone: bool = False
    before: Layer | None = None
    all_reduce_sum: Callable[[np.ndarray], None] = lambda array: None

    @property
    def activation_gradient(self) -> Callable | None:
        """The formula with which the backward pass goes back through the activation behind; None where it need not."""
        return None if self.activation is None or self.is_undone else self.activation.formulas[1]


class Layer:
    """Base of all layers; calling a layer on nodes adds a node to the graph.

    Parameters
    ----------
    name : str, optional
        By default the kind of the layer with a number: conv1, relu1, ...

    Attributes
    ----------
    kind : str
        Stem of automatic names.
    derivation : module
        The module of ``handgrad.derivations`` whose equations the layer computes.
    """

    kind: ClassVar[str]
    derivation: ClassVar[ModuleType]
    inputs: ClassVar[int | None] = 1  # number of nodes the layer is called on; None: any number from two up
    letter: ClassVar[str] = "z"  # what the equations call the output
    random: ClassVar[bool] = False  # whether the layer draws random numbers in training
    is_surrogate: ClassVar[bool] = False  # whether the backward pass is declared not to be the derivative
    coupled: ClassVar[bool] = False  # whether samples act on each other; then the literal code takes whole mini-batches
    finishes: ClassVar[bool] = False  # whether parameter gradients are taken over the whole mini-batch, by ``finish``
    # what every class has to state itself, because one that is derived from it may do otherwise:
    kernels_alone: ClassVar[bool] = False  # whether its passes only call kernels, always the same on the same arrays
    takes_one: ClassVar[bool] = False  # whether its forward pass also takes a single sample without lanes
    kernels_alone_one: ClassVar[bool] = False  # whether that only calls kernels, where its other passes do not
    # what of ``scratch`` holds nothing from one pass to the next, and of ``common_scratch`` nothing behind ``finish``,
    # and the names under which others may use it as well
    passing: ClassVar[dict[str, str]] = {}
    only_for_dL_dx: ClassVar[tuple[str, ...]] = ()  # what of ``scratch`` is not used where nobody wants dL/dx
    takes_activation: ClassVar[bool] = False  # whether it can apply the activation behind it, where nobody else reads z
    takes_activation_cuda: ClassVar[bool] = False  # the same on a GPU
    undoes_activation: ClassVar[bool] = False  # whether its backward pass can go back through the activation in front

    def __init__(self, name: str | None = None):
        require_name(type(self).__name__, name)
        self.name = name
        self._node: Node | None = None

    def __call__(self, *nodes: Node) -> Node:
        """Add this layer to the graph.

        Parameters
        ----------
        *nodes : Node
            What it reads.

        Returns
        -------
        Node

        Raises
        ------
        ShapeError
            When the shapes do not fit the layer.
        ConfigurationError
            When the layer is already in a graph, or the number of inputs is wrong.
        """
        if len(nodes) == 1 and isinstance(nodes[0], (list, tuple)):
            nodes = tuple(nodes[0])
        wrong = [node for node in nodes if not isinstance(node, Node)]
        if wrong:
            raise ConfigurationError(
                f"{self}", got=type(wrong[0]).__name__, expected="a Node: an Input or a layer's result"
            )
        if (self.inputs is None and len(nodes) < 2) or (self.inputs is not None and len(nodes) != self.inputs):
            expected = "two or more" if self.inputs is None else str(self.inputs)
            raise ConfigurationError(f"{self}", got=f"{len(nodes)} inputs", expected=expected)
        if self._node is not None:
            raise ConfigurationError(
                f"{self} is already in a graph",
                remedy="make a second layer: two places cannot share parameters",
            )
        shapes = [node.shape for node in nodes]
        shape = self.output_shape(*shapes)
        if math.prod(shape) > LARGEST:
            raise ShapeError(
                str(self), got=f"an output of {' x '.join(map(str, shape))}", expected=f"at most {LARGEST} values"
            )
        self.settle(*shapes)
        self._node = Node(self, nodes, shape, self.name)
        return self._node

    def states(self, what: str):
        """Return whether this very class states ``kernels_alone``, ``takes_one`` and so on, or what as ``passing``."""
        return states(self, what)

    def __str__(self) -> str:
        return f"{type(self).__name__} '{self.name}'" if self.name else type(self).__name__

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """Return the shape of one output sample, or raise a ShapeError that names the layer."""
        raise NotImplementedError

    def settle(self, *x_shapes: Shape) -> None:
        """Fix what depends on the input's shape, once, when the layer is put into a graph."""

    def parameter_shapes(self, *x_shapes: Shape) -> dict[str, Shape]:
        """Return the shape of each parameter, in the order in which the derivation takes them."""
        return {}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Fill the parameters with their starting values."""

    def statistics(self, x_shapes: tuple[Shape, ...], dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return new arrays that the layer keeps between mini-batches, is saved with, and does not learn."""
        return {}

    def check_samples(self, samples: int) -> None:
        """Raise a ShapeError when the layer cannot be trained on mini-batches of so few samples."""

    def scratch(self, x_shapes: tuple[Shape, ...], blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return the arrays beside input and output that the kernels need, allocated once."""
        return {}

    def common_scratch(self, x_shapes: tuple[Shape, ...], blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return arrays for all blocks of the mini-batch, in which every worker has its stretch."""
        return {}

    def forward(self, share: Share) -> None:
        """Fill ``share.z`` from ``share.x``."""
        raise NotImplementedError

    def backward(self, share: Share) -> None:
        """Fill ``share.gradients`` and ``share.dL_dx`` from ``share.dL_dz``."""
        raise NotImplementedError

    def scratch_one(self, x_shapes: tuple[Shape, ...], dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return what ``forward_one`` needs beside input and output."""
        return {}

    def forward_one(self, share: Share) -> None:
        """Fill ``share.z`` from ``share.x`` for one sample in inference, both (1, ..., 1); no backward pass follows."""
        self.forward(share)

    def part_of_one(self, share: Share, rank: int, size: int) -> Share | None:
        """Return what one of several workers computes of a single sample by ``forward_one``; None where it is nothing.

        Asked only of classes that state it themselves; of other layers the first worker does all.
        """
        raise NotImplementedError

    def scratch_cuda(self, x_shapes: tuple[Shape, ...], blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return what ``scratch`` returns, for the CUDA kernels; the arrays are then copied to the GPU."""
        return {}

    def forward_cuda(self, share: Share) -> None:
        """Fill ``share.z`` from ``share.x``, by CUDA kernels; all arrays of the share are on the GPU."""
        raise NotImplementedError

    def backward_cuda(self, share: Share) -> None:
        """Fill ``share.gradients`` and ``share.dL_dx`` from ``share.dL_dz``, by CUDA kernels."""
        raise NotImplementedError

    def finish(self, share: Share, rank: int, size: int) -> None:
        """Fill one of ``size`` parts of ``share.gradients``, which all workers share, after the ``backward`` of all."""

    def view(self, z: np.ndarray, shape: Shape) -> np.ndarray | None:
        """Return an array in another shape over the same memory, for layers that only rename positions."""
        return None

    def view_back(self, dL_dz: np.ndarray, shape: Shape, position: int) -> np.ndarray | None:
        """Return the gradient of the input at this position over the memory of dL/dz, where it is the same numbers."""
        return self.view(dL_dz, shape)

    def decisions(self, share: Share) -> np.ndarray | None:
        """Return which branch of a piecewise formula each value took; a change of it is a kink."""
        return None

    def unused_equations(self, training: bool) -> set[str]:
        """Return the tags of computed equations that this layer's options, or training, leave out."""
        return set()

    def multiply_adds(self, *x_shapes: Shape) -> int:
        """Return the multiplications, each with its addition, of the forward pass for one sample."""
        return 0

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return the hyper-parameters as the keyword arguments of the derivation's literal code.

        Parameters
        ----------
        share : Share, optional
            For layers whose literal code needs a value that the forward pass drew.
        sample : int
            Position within the share.
        """
        return {}

    def settings(self) -> dict[str, object]:
        """Return the hyper-parameters for summaries."""
        return {}


def some_outputs(share: Share, tile: int, rank: int, size: int) -> Share | None:
    """Return a worker's part of a single sample where each output has its own row of all parameters.

    Parameters
    ----------
    share : Share
        Of all outputs, z (1, O, ...).
    tile : int
        Outputs that a kernel computes together; no tile is divided, and the last workers may have none.
    rank, size : int
        Of the worker, and how many there are.
    """
    O = share.z.shape[1]
    most = -(-O // (tile * size)) * tile
    first, stop = min(O, rank * most), min(O, (rank + 1) * most)
    if first == stop:
        return None
    parameters = {name: array[first:stop] for name, array in share.parameters.items()}
    return replace(share, z=share.z[:, first:stop], parameters=parameters)


def require_features(layer: Layer, shape: Shape) -> int:
    """Return the number of features of a flat shape, or raise a ShapeError that says how to flatten."""
    if len(shape) != 1:
        raise ShapeError(
            str(layer),
            got=f"an input of {' x '.join(map(str, shape))}",
            expected="a flat one",
            remedy="put a Flatten before it",
        )
    return shape[0]


def require_image(layer: Layer, shape: Shape) -> tuple[int, int, int]:
    """Return (C, H, W), or raise a ShapeError."""
    if len(shape) != 3:
        raise ShapeError(
            str(layer),
            got=f"an input of {' x '.join(map(str, shape))}",
            expected="an image of channels x rows x columns",
        )
    return shape
