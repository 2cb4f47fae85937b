"""Every intermediate value and gradient of a few samples, layer by layer, with the formulas that computed them.

Floor 4. A trace is taken in float64, so that the finite differences beside the gradients are right to nine digits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .checks import ConfigurationError
from .gradcheck import GradientCheck
from .losses.loss import Loss
from .network import Network


@dataclass(frozen=True)
class Element:
    """One number of the trace, with its gradient and the finite difference beside it.

    Attributes
    ----------
    name : str
        A parameter, "conv1.W", or a node, "relu1".
    place : tuple of int
        For a node the sample comes first.
    value, gradient : float
    difference : float or None
        None on a kink.
    """

    name: str
    place: tuple[int, ...]
    value: float
    gradient: float
    difference: float | None

    def __str__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.place))}]"


@dataclass(frozen=True)
class TracedNode:
    """What one layer computed.

    Attributes
    ----------
    name, kind : str
        Name of the node; class of its layer, or "Input".
    letter : str
        What the equations call its value.
    settings : dict
        Hyper-parameters.
    inputs : tuple of str
        Names of the nodes that it reads.
    value, gradient : numpy.ndarray of shape (N, ...)
        The layer's output, and the gradient of the loss with respect to it: the layer's upstream gradient.
    parameters : dict of str to (numpy.ndarray, numpy.ndarray)
        Each parameter with its gradient, by full name.
    forward, backward : list of (str, str)
        Tag and text of the equations that the layer computed.
    """

    name: str
    kind: str
    letter: str
    settings: dict[str, object]
    inputs: tuple[str, ...]
    value: np.ndarray
    gradient: np.ndarray
    parameters: dict[str, tuple[np.ndarray, np.ndarray]]
    forward: list[tuple[str, str]]
    backward: list[tuple[str, str]]


class Trace:
    """One forward and one backward pass over a few samples, kept.

    Parameters
    ----------
    network : Network
        float64, one input and one output.
    loss : Loss
    x : numpy.ndarray of shape (N, ...)
    target : numpy.ndarray
        For the loss.
    h : float
        Step of the finite differences.
    training : bool
        Whether layers such as dropout and batch normalization behave as in training.

    Attributes
    ----------
    L : float
        The loss, averaged over the samples.
    rounding : float
        About how much rounding alone changes a difference quotient.
    nodes : list of TracedNode
        In topological order.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        x: np.ndarray,
        target: np.ndarray,
        h: float = 1e-6,
        *,
        training: bool = False,
    ):
        self.network, self.loss, self.target, self.training = network, loss, target, training
        self._check = GradientCheck(network, loss, [x], target, h=h, training=training)
        self.L, self.h, self.rounding = self._check.L, h, self._check.rounding / 4
        self.nodes = [self._look_at(name) for name in network.nodes]
        unused = loss.unused_equations(self._check.z.shape)
        self.loss_forward, self.loss_backward = equations_of(loss.derivation, unused)

    def _look_at(self, name: str) -> TracedNode:
        network, node = self.network, self.network.nodes[name]
        parts = network.layer_arrays(name, network.theta) if node.layer is not None else {}
        layer = node.layer
        forward, backward = [], []
        if layer is not None:
            forward, backward = equations_of(layer.derivation, layer.unused_equations(self.training))
        return TracedNode(
            name=name,
            kind="Input" if node.layer is None else type(node.layer).__name__,
            letter="x" if node.layer is None else node.layer.letter,
            settings={} if node.layer is None else node.layer.settings(),
            inputs=tuple(source.name for source in node.inputs),
            value=network.values[name],
            gradient=network.value_gradients[name],
            parameters={
                f"{name}.{part}": (array.copy(), network.gradients[f"{name}.{part}"].copy())
                for part, array in parts.items()
            },
            forward=forward,
            backward=backward,
        )

    def array(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (value, gradient) of a node or a parameter.

        Raises
        ------
        ConfigurationError
            When there is nothing of that name.
        """
        for node in self.nodes:
            if node.name == name:
                return node.value, node.gradient
            if name in node.parameters:
                return node.parameters[name]
        known = [entry for node in self.nodes for entry in (node.name, *node.parameters)]
        raise ConfigurationError(f"the trace has no '{name}'", expected=f"one of {', '.join(known)}")

    def element(self, name: str, place: tuple[int, ...]) -> Element:
        """Return one element with its finite difference.

        Raises
        ------
        ConfigurationError
            When it does not exist.
        """
        value, gradient = self.array(name)
        if len(place) != value.ndim or any(not 0 <= i < n for i, n in zip(place, value.shape, strict=False)):
            raise ConfigurationError(
                f"element {name}[{','.join(map(str, place))}]",
                expected=f"{value.ndim} indices from 0 up to below {value.shape}"
                + (" (the sample comes first)" if name in self.network.nodes else ""),
            )
        return Element(name, place, float(value[place]), float(gradient[place]), self._check.difference(name, place))

    def largest(self, name: str, tries: int = 10) -> Element:
        """Return the element with the largest gradient of a node or a parameter, passing over up to ``tries`` kinks."""
        gradient = self.array(name)[1]
        order = np.argsort(-np.abs(gradient), axis=None, kind="stable")[:tries]
        for position in order:
            element = self.element(name, tuple(int(i) for i in np.unravel_index(position, gradient.shape)))
            if element.difference is not None:
                return element
        return self.element(name, tuple(int(i) for i in np.unravel_index(order[0], gradient.shape)))

    def parse_element(self, text: str) -> Element:
        """Return the element of a text such as "conv1.W[3,0,2,2]".

        Raises
        ------
        ConfigurationError
            When the text is no element.
        """
        match = re.fullmatch(r"\s*([\w.]+)\s*\[([\d,\s]+)\]\s*", text)
        if not match or not all(part.strip().isdecimal() for part in match[2].split(",")):
            raise ConfigurationError(f"element '{text}'", expected="a name with indices, such as conv1.W[3,0,2,2]")
        return self.element(match[1], tuple(int(part) for part in match[2].split(",")))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as named arrays, to be saved."""
        result = {"target": np.asarray(self.target), "loss": np.array(self.L)}
        for node in self.nodes:
            result[f"value/{node.name}"], result[f"gradient/{node.name}"] = node.value, node.gradient
            for name, (value, gradient) in node.parameters.items():
                result[f"parameter/{name}"], result[f"parameter_gradient/{name}"] = value, gradient
        return result


def equations_of(derivation, unused: set[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (forward, backward): tag and text of the equations that a layer or a loss computes.

    Parameters
    ----------
    derivation : module
    unused : set of str
        Tags that the configuration leaves out.
    """
    computed = [equation for equation in derivation.EQUATIONS if equation.computed and equation.tag not in unused]
    backward = [(e.tag, e.text) for e in computed if e.text.startswith("∂L")]
    forward = [(e.tag, e.text) for e in computed if not e.text.startswith("∂L")]
    return forward, backward


def statistics(array: np.ndarray) -> dict[str, float]:
    """Return shape, least, mean, largest, standard deviation, Euclidean norm and share of zeros of an array."""
    return {
        "shape": list(array.shape),
        "min": float(array.min()),
        "mean": float(array.mean()),
        "max": float(array.max()),
        "std": float(array.std()),
        "norm": float(np.sqrt((array * array).sum())),
        "zeros": float((array == 0).mean()),
    }
