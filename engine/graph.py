"""Input and Node: layers called on nodes build a directed acyclic graph, before any number is computed.

Floor 1: it knows nothing of what a layer computes.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import TYPE_CHECKING

from .checks import ConfigurationError, ShapeError, require_name, require_positive_integers

if TYPE_CHECKING:
    from .layers.layer import Layer


class Node:
    """The output of one layer in the graph.

    Attributes
    ----------
    layer : Layer or None
        What computes it; None for an input.
    inputs : tuple of Node
        What the layer reads, in order.
    shape : tuple of int
        Shape of one sample: (C, H, W) or (features,).
    name : str or None
        None until the network names it, where the user has not.
    """

    def __init__(self, layer: Layer | None, inputs: tuple[Node, ...], shape: tuple[int, ...], name: str | None):
        self.layer, self.inputs, self.shape, self.name = layer, inputs, tuple(shape), name

    @property
    def size(self) -> int:
        """Number of values in one sample."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        kind = "Input" if self.layer is None else type(self.layer).__name__
        return f"<{kind} {self.name or ''} {' x '.join(map(str, self.shape))}>"


class Input(Node):
    """Where samples enter the graph.

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample, (C, H, W) or (features,), without the mini-batch.
    name : str, optional

    Raises
    ------
    ConfigurationError
        When a size is not a positive integer.

    Examples
    --------
    >>> Input((1, 28, 28)).size
    784
    """

    def __init__(self, shape: tuple[int, ...], name: str | None = None):
        shape = (shape,) if isinstance(shape, Integral) else tuple(shape)
        if not shape:
            raise ShapeError("Input", got="an empty shape", expected="(channels, rows, columns) or (features,)")
        require_positive_integers("Input", **{f"size {axis}": size for axis, size in enumerate(shape)})
        require_name("Input", name)
        super().__init__(None, (), shape, name)


def topological_order(inputs: list[Node], outputs: list[Node]) -> list[Node]:
    """Return every node that the outputs need, each after all that it reads.

    Parameters
    ----------
    inputs, outputs : list of Node

    Raises
    ------
    ConfigurationError
        When an output needs an input that is not listed, or a listed input is not needed.
    """
    order: list[Node] = []
    seen: set[int] = set()
    stack = [(node, False) for node in reversed(outputs)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((source, False) for source in reversed(node.inputs))
    listed = {id(node) for node in inputs}
    for node in order:
        if node.layer is None and id(node) not in listed:
            raise ConfigurationError(
                f"Network: the outputs need {node!r}, which is not among the inputs",
                remedy="pass it as an input",
            )
    for node in inputs:
        if id(node) not in seen:
            raise ConfigurationError(
                f"Network: no output depends on the input {node!r}", remedy="connect it or leave it out"
            )
    return order
