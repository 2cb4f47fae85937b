"""The agreement table: kernel against finite differences, and kernel against the literal code, in float64.

Floor 4. The loss is L, the network's own loss function on random samples. A derivative is compared at chosen elements
with (L(θ + h) - L(θ - h)) / 2h; where a ReLU or a pooling layer decides differently at the two points, the element
lies on a kink and is counted, not compared. The literal code of ``derivations/`` is run through the same graph, sample
by sample, and must give the same numbers for every element. Errors are relative to the largest gradient of the array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import unpack
from .backend import LANES
from .checks import ConfigurationError
from .losses.loss import Loss
from .network import Network
from .passes import Pass

DIFFERENCE_LIMIT = 1e-6  # central differences with h = 1e-6: rounding 1e-10 / h against gradients of about 0.01
LITERAL_LIMIT = 1e-10  # two orders of the same sums in float64


@dataclass(frozen=True)
class Agreement:
    """One row of the table: one parameter or one input.

    Attributes
    ----------
    name : str
        "conv1.W", or the name of an input.
    shape : tuple of int
    largest_gradient : float
    checked, kinks : int
        Elements compared with finite differences, and elements left out because they lie on a kink.
    difference_error, literal_error : float
        Largest absolute error divided by the largest gradient; NaN when every element was a kink.
    difference_index, literal_index : tuple of int
        Where they occur.
    rounding : float
        What rounding can do to a difference quotient, 4 ε max(1, |L|, |z|) / h, divided by the largest gradient.
    """

    name: str
    shape: tuple[int, ...]
    largest_gradient: float
    checked: int
    kinks: int
    difference_error: float
    difference_index: tuple[int, ...]
    literal_error: float
    literal_index: tuple[int, ...]
    rounding: float = 0.0

    @property
    def verdict(self) -> str:
        """Return "ok", "FAIL", or why quotients say nothing: "kink" everywhere, or gradients lost in "rounding"."""
        if not self.literal_error < LITERAL_LIMIT:
            return "FAIL"
        if self.checked == 0:
            return "kink"
        if self.difference_error < DIFFERENCE_LIMIT:
            return "ok"
        return "rounding" if self.difference_error < DIFFERENCE_LIMIT + self.rounding else "FAIL"


class GradientCheck:
    """Compare all gradients of a network at one random point.

    Parameters
    ----------
    network : Network
        float64; its parameters are perturbed and restored.
    loss : Loss
    x : list of numpy.ndarray
        Samples for each input.
    target : numpy.ndarray
        For the loss.
    training : bool
        Whether layers such as dropout behave as in training; the random numbers are the same in every evaluation.
    h : float
        Step of the central difference.

    Raises
    ------
    ConfigurationError
        When the network is not float64 or has several outputs.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        x: list[np.ndarray],
        target: np.ndarray,
        *,
        training: bool = False,
        h: float = 1e-6,
    ):
        if network.dtype != np.float64:
            raise ConfigurationError("gradcheck", got=str(network.dtype), expected="a float64 network")
        if len(network.outputs) != 1:
            raise ConfigurationError("gradcheck", got=f"{len(network.outputs)} outputs", expected="one")
        self.network, self.loss, self.target, self.training, self.h = network, loss, target, training, h
        self.x = [np.array(array, dtype=np.float64) for array in x]
        self._draw = network.draw
        L, dL_dz = loss(self._forward(), target)
        dL_dx = network.backward(dL_dz)
        self.L = L
        z = network.values[network.outputs[0].name]
        self.rounding = 4 * np.finfo(np.float64).eps * max(1.0, abs(L), np.abs(z).max()) / h
        self._pass: Pass = network.last_pass
        self.kernel = {name: array.copy() for name, array in network.gradients.items()}
        for node, gradient in zip(network.inputs, dL_dx if isinstance(dL_dx, list) else [dL_dx], strict=True):
            self.kernel[node.name] = gradient

    def _forward(self) -> np.ndarray:
        self.network.draw = self._draw
        return self.network.forward(self.x if len(self.x) > 1 else self.x[0], training=self.training)

    def run(self, elements: int | None = 200, seed: int = 0):
        """Yield one Agreement per parameter and input.

        Parameters
        ----------
        elements : int or None
            How many elements of each array to compare with finite differences, chosen at random; None: all.
        seed : int
            Of that choice.
        """
        literal = self.literal()
        rng = np.random.default_rng(seed)
        for name, kernel in self.kernel.items():
            everything = elements is None or elements >= kernel.size
            flat = np.arange(kernel.size) if everything else np.sort(rng.choice(kernel.size, elements, replace=False))
            yield self._compare(name, kernel, literal[name], flat)

    def _compare(self, name: str, kernel: np.ndarray, literal: np.ndarray, flat: np.ndarray) -> Agreement:
        scale = max(np.abs(kernel).max(), np.abs(literal).max(), np.finfo(np.float64).tiny)
        errors, kinks = {}, 0
        for position in flat:
            place = tuple(int(i) for i in np.unravel_index(position, kernel.shape))
            quotient = self.difference(name, place)
            if quotient is None:
                kinks += 1
            else:
                errors[place] = abs(quotient - kernel[place]) / scale
        worst = max(errors, key=lambda place: np.nan_to_num(errors[place], nan=np.inf)) if errors else ()
        off = np.abs(kernel - literal) / scale
        where = tuple(int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
        return Agreement(
            name,
            kernel.shape,
            float(np.abs(kernel).max()),
            len(errors),
            kinks,
            float(errors[worst]) if errors else float("nan"),
            worst,
            float(off[where]),
            where,
            float(self.rounding / scale),
        )

    def difference(self, name: str, place: tuple[int, ...]) -> float | None:
        """Return (L(θ + h) - L(θ - h)) / 2h for one element, or None on a kink.

        Parameters
        ----------
        name : str
            A parameter, "conv1.W", or any node, "relu1"; only the layers behind it are computed again.
        place : tuple of int
            The element; for a node the sample comes first.
        """
        array, cell, readers = self._locate(name, place)
        before = array[cell]
        values, decisions = [], []
        try:
            for value in (before + self.h, before - self.h):
                array[cell] = value
                self._compute(readers)
                values.append(self.loss(self._pass.value(self.network.outputs[0].name), self.target)[0])
                decisions.append(self._decisions(readers))
        finally:
            array[cell] = before
            self._compute(readers)
        if any((high != low).any() for high, low in zip(*decisions, strict=True)):
            return None
        return (values[0] - values[1]) / (2 * self.h)

    def _compute(self, steps: list) -> None:
        """Run some layers forward, in their order."""

        def forward(part):
            for name, layer in steps:
                layer.forward(part.shares[name])

        self._pass.run(forward)

    def _readers(self, name: str, including: bool) -> list:
        """Return the (name, layer) pairs that depend on a node, with the node's own layer where it is wanted."""
        found = {name}
        for node_name, node in self.network.nodes.items():
            if any(source.name in found for source in node.inputs):
                found.add(node_name)
        return [(step, layer) for step, layer in self._pass.steps if step in found and (including or step != name)]

    def _locate(self, name: str, place: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...], list]:
        """Return the array that holds an element, where it is in there, and the layers that depend on it."""
        if name not in self.network.nodes:
            return self.network.parameters[name], place, self._readers(name.rpartition(".")[0], including=True)
        n, *rest = place
        part = self._part_of(n)
        block, lane = divmod(n - part.first_sample, LANES)
        return part.values[name], (block, *rest, lane), self._readers(name, including=False)

    def _part_of(self, n: int):
        return next(p for p in self._pass.active if p.first_sample <= n < p.first_sample + p.samples)

    def _decisions(self, steps: list) -> list[np.ndarray]:
        found = []
        for name, layer in steps:
            for part in self._pass.active:
                decisions = layer.decisions(part.shares[name])
                if decisions is not None:
                    found.append(unpack(decisions, part.samples))  # lanes without a sample decide nothing
        return found

    def literal(self) -> dict[str, np.ndarray]:
        """Return all gradients computed by the literal code of the derivations, by name."""
        N = len(self.x[0])
        columns = [self._literal_forward(n) for n in range(N)]
        output = self.network.outputs[0].name
        z = np.stack([values[output] for values in columns])
        dL_dz = self.loss.derivation.backward(z, self.loss.check_target(self.target, z.shape))
        totals = {name: np.zeros(array.shape) for name, array in self.kernel.items()}
        for n in range(N):
            self._literal_backward(n, columns[n], dL_dz[n], totals)
        return totals

    def _literal_forward(self, n: int) -> dict[str, np.ndarray]:
        """Values of all nodes for sample n."""
        network, values = self.network, {}
        for node, x in zip(network.inputs, self.x, strict=True):
            values[node.name] = x[n].astype(object)
        for name, layer in self._pass.steps:
            inputs = [values[source.name] for source in network.nodes[name].inputs]
            parameters = [p.astype(object) for p in network.layer_arrays(name, network.theta).values()]
            values[name] = layer.derivation.forward(*inputs, *parameters, **self._options(name, layer, n))
        return values

    def _literal_backward(self, n: int, values: dict, dL_dz: np.ndarray, totals: dict[str, np.ndarray]) -> None:
        """Add the gradients of sample n to the totals."""
        network = self.network
        gradients = {name: 0 for name in values} | {network.outputs[0].name: dL_dz}
        for name, layer in reversed(self._pass.steps):
            sources = network.nodes[name].inputs
            inputs = [values[source.name] for source in sources]
            parameters = network.layer_arrays(name, network.theta)
            if isinstance(gradients[name], int):  # no path from here to the loss
                continue
            results = layer.derivation.backward(
                gradients[name],
                *inputs,
                *(p.astype(object) for p in parameters.values()),
                **self._options(name, layer, n),
            )
            for source, dL_dx in zip(sources, results, strict=False):
                gradients[source.name] = gradients[source.name] + dL_dx
            for part, dL_dp in zip(parameters, results[len(sources) :], strict=True):
                totals[f"{name}.{part}"] += dL_dp.astype(np.float64)
        for node in network.inputs:
            totals[node.name][n] = gradients[node.name]

    def _options(self, name: str, layer, n: int) -> dict[str, object]:
        part = self._part_of(n)
        return layer.literal_options(part.shares[name], n - part.first_sample)
