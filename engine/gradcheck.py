"""The agreement table: kernel against the literal code, finite differences and exact derivatives, in float64.

Floor 4. The loss is L, the network's own loss function on random samples. A derivative is compared at chosen elements
with (L(θ + h) - L(θ - h)) / 2h; where a ReLU or a pooling layer decides differently at the two points, the element
lies on a kink and is counted, not compared. The literal code of ``derivations/`` is run through the same graph and must
give the same numbers for every element; run on symbols, it gives an expression whose exact derivative SymPy knows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import symbolic
from .agreement import FLOOR, Agreement, Comparison, compare, largest
from .arrays import unpack
from .checks import ConfigurationError
from .losses.loss import Loss
from .network import Network
from .passes import Pass


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
    dtype : {"float64", "float32"}
        Of the network; the limits of the verdicts are those of float64.
    device : {"cpu", "cuda"}
        With "cuda" the CUDA kernels are one more view, on a GPU or in the simulator.

    Attributes
    ----------
    L : float
    z : numpy.ndarray
        The network's output.
    kernel : dict of str to numpy.ndarray
        The kernels' gradient of each parameter and input.
    cuda : dict of str to numpy.ndarray, or None
        The same of the CUDA kernels, with the value of the output under its name.

    Raises
    ------
    ConfigurationError
        When the network is of another dtype or has several outputs.
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
        dtype: str = "float64",
        device: str = "cpu",
    ):
        if network.dtype != dtype:
            raise ConfigurationError("gradcheck", got=str(network.dtype), expected=f"a {dtype} network")
        if len(network.outputs) != 1:
            raise ConfigurationError("gradcheck", got=f"{len(network.outputs)} outputs", expected="one")
        self.network, self.loss, self.training, self.h = network, loss, training, h
        self.x = [np.array(array, dtype=np.float64) for array in x]
        self._draw = network.draw
        self._statistics = {name: array.copy() for name, array in network.statistics.items()}
        self.z = self._forward()
        self.target = loss.check_target(target, self.z.shape)
        self.L, dL_dz = loss(self.z, self.target)
        dL_dx = network.backward(dL_dz)
        self.rounding = 4 * np.finfo(np.float64).eps * max(1.0, abs(self.L), np.abs(self.z).max()) / h
        self._pass: Pass = network.last_pass
        self.kernel = {name: array.copy() for name, array in network.gradients.items()}
        for node, gradient in zip(network.inputs, dL_dx if isinstance(dL_dx, list) else [dL_dx], strict=True):
            self.kernel[node.name] = gradient
        self._restore_statistics()
        self.cuda = self._on_gpu() if device == "cuda" else None

    def _forward(self) -> np.ndarray:
        self.network.draw = self._draw
        return self.network.forward(self.x if len(self.x) > 1 else self.x[0], training=self.training)

    def _on_gpu(self) -> dict[str, np.ndarray]:
        """Return the output and all gradients by name, computed by CUDA kernels at the same point."""
        network = self.network
        twin = Network(network.inputs, network.outputs, dtype=network.dtype.name, device="cuda", seed=network.seed)
        twin.load_state(network.state())
        twin.draw = self._draw
        (z,) = twin.forward(self.x, training=self.training)
        _, dL_dz = self.loss.call_cuda(z, self.target)
        dL_dx = dict(zip((node.name for node in network.inputs), twin.backward([dL_dz]), strict=True))
        return {network.outputs[0].name: z, **{name: array.copy() for name, array in twin.gradients.items()}, **dL_dx}

    def _restore_statistics(self) -> None:
        """Undo what forward passes in training did to running statistics."""
        for name, array in self._statistics.items():
            self.network.statistics[name] = array

    def run(self, elements: int | None = 200, seed: int = 0, exact: bool = False) -> Iterator[Agreement]:
        """Yield one Agreement for the value of the output, then one per parameter and input.

        Parameters
        ----------
        elements : int or None
            How many elements of each array to compare with finite differences, chosen at random; None: all.
        seed : int
            Of that choice.
        exact : bool
            Whether to compare with exact derivatives, for small networks; SymPy must be there.
        """
        exactly = self.exact() if exact else None
        z, literal = self.literal()
        output = self.network.outputs[0].name
        views = {"literal": compare(self.z, z)} | ({} if self.cuda is None else {"cuda": compare(self.cuda[output], z)})
        yield Agreement(f"value of {output}", self.z.shape, largest(self.z), views)
        rng = np.random.default_rng(seed)
        floor = FLOOR * max(map(largest, self.kernel.values()))
        for name, kernel in self.kernel.items():
            views = {"literal": compare(kernel, literal[name], floor)}
            if self.cuda is not None:
                views["cuda"] = compare(self.cuda[name], literal[name], floor)
            everything = elements is None or elements >= kernel.size
            flat = np.arange(kernel.size) if everything else np.sort(rng.choice(kernel.size, elements, replace=False))
            views["difference"], checked = self._compare_quotients(name, kernel, flat, floor)
            if exactly is not None:
                views["symbolic"] = compare(kernel, exactly[name], floor)
            yield Agreement(
                name,
                kernel.shape,
                largest(kernel),
                views,
                checked,
                len(flat) - checked,
                float(self.rounding / max(largest(kernel), floor, np.finfo(np.float64).tiny)),
                largest(kernel) < floor,
                self.meets_surrogate(name),
            )

    def meets_surrogate(self, name: str) -> bool:
        """Return whether a declared surrogate lies between a parameter or input and the loss."""
        including = name not in self.network.nodes
        start = name.rpartition(".")[0] if including else name
        return any(layer.is_surrogate for _, layer in self._readers(start, including))

    def _compare_quotients(
        self, name: str, kernel: np.ndarray, flat: np.ndarray, floor: float
    ) -> tuple[Comparison, int]:
        """Return the comparison with difference quotients at some elements, and how many were no kinks."""
        quotients = np.full(kernel.shape, np.nan)
        checked = np.zeros(kernel.shape, dtype=bool)
        for position in flat:
            place = tuple(int(i) for i in np.unravel_index(position, kernel.shape))
            quotient = self.difference(name, place)
            if quotient is not None:
                quotients[place], checked[place] = quotient, True
        if not checked.any():
            return Comparison(float("nan"), float("nan"), ()), 0
        return compare(kernel, np.where(checked, quotients, kernel), floor), int(checked.sum())

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
        machine = self.network.machine
        before = machine.read_number(array, cell)
        values, decisions = [], []
        try:
            for value in (before + self.h, before - self.h):
                machine.write_number(array, cell, value)
                self._compute(readers)
                z = self._pass.value(self.network.outputs[0].name)
                values.append(self.loss(z, self.target)[0])
                decisions.append(self._decisions(readers, z))
        finally:
            machine.write_number(array, cell, before)
            self._compute(readers)
            self._restore_statistics()
        if any((high != low).any() for high, low in zip(*decisions, strict=True)):
            return None
        return (values[0] - values[1]) / (2 * self.h)

    def _compute(self, steps: list) -> None:
        """Run some layers forward, in their order."""

        def forward(part):
            for name, layer in steps:
                self.network.machine.forward(layer, part.shares[name])

        self.network.upload()
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
        block, lane = divmod(n - part.first_sample, self.network.machine.lanes)
        return part.values[name], (block, *rest, lane), self._readers(name, including=False)

    def _part_of(self, n: int):
        return next(p for p in self._pass.active if p.first_sample <= n < p.first_sample + p.samples)

    def _decisions(self, steps: list, z: np.ndarray) -> list[np.ndarray]:
        of_loss = self.loss.decisions(z, self.target)
        found = [] if of_loss is None else [of_loss]
        for name, layer in steps:
            for part in self._pass.active:
                decisions = layer.decisions(self.network.machine.on_host(part.shares[name]))
                if decisions is not None:
                    found.append(unpack(decisions, part.samples))  # lanes without a sample decide nothing
        return found

    def literal(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the output and all gradients by name, computed by the literal code of the derivations."""
        parameters = {name: array.astype(object) for name, array in self.network.parameters.items()}
        values = self._literal_forward([x.astype(object) for x in self.x], parameters)
        z = values[self.network.outputs[0].name]
        dL_dz = self.loss.derivation.backward(z, self.target.astype(object), **self.loss.literal_options())
        gradients = self._literal_backward(values, parameters, np.asarray(dL_dz, dtype=object))
        return z.astype(np.float64), {name: gradients[name].astype(np.float64) for name in self.kernel}

    def exact(self) -> dict[str, np.ndarray]:
        """Return all gradients by name from exact derivatives of the literal forward pass; for small networks alone."""
        variables = {name: symbolic.variables(name, array) for name, array in self.network.parameters.items()}
        inputs = {node.name: symbolic.variables(node.name, x) for node, x in zip(self.network.inputs, self.x)}
        z = self._literal_forward(list(inputs.values()), variables)[self.network.outputs[0].name]
        L = self.loss.derivation.forward(z, self.target.astype(object), **self.loss.literal_options())
        return symbolic.gradients(symbolic.Expression.of(L), variables | inputs)

    def _literal_forward(self, x: list[np.ndarray], parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the values of all nodes, (N, ...) arrays of objects."""
        network, values = self.network, {node.name: array for node, array in zip(self.network.inputs, x)}
        for name, layer in self._pass.steps:
            inputs = [values[source.name] for source in network.nodes[name].inputs]
            own = [parameters[f"{name}.{part}"] for part in network.layer_arrays(name, network.theta)]
            if layer.coupled:
                values[name] = layer.derivation.forward(*inputs, *own, **self._options(name, layer, 0))
                continue
            values[name] = np.empty((len(inputs[0]), *network.nodes[name].shape), dtype=object)
            for n in range(len(inputs[0])):
                one = [array[n] for array in inputs]
                values[name][n] = layer.derivation.forward(*one, *own, **self._options(name, layer, n))
        return values

    def _literal_backward(self, values: dict, parameters: dict, dL_dz: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gradients of all nodes and parameters."""
        network = self.network
        gradients = {name: np.zeros(array.shape, dtype=object) for name, array in (values | parameters).items()}
        gradients[network.outputs[0].name] = dL_dz
        for name, layer in reversed(self._pass.steps):
            sources = [source.name for source in network.nodes[name].inputs]
            own = [f"{name}.{part}" for part in network.layer_arrays(name, network.theta)]
            for n in [slice(None)] if layer.coupled else range(len(dL_dz)):
                results = layer.derivation.backward(
                    gradients[name][n],
                    *(values[source][n] for source in sources),
                    *(parameters[part] for part in own),
                    **self._options(name, layer, 0 if layer.coupled else n),
                )
                for source, dL_dx in zip(sources, results, strict=False):
                    gradients[source][n] = gradients[source][n] + dL_dx
                for part, dL_dp in zip(own, results[len(sources) :], strict=True):
                    gradients[part] = gradients[part] + dL_dp
        return gradients

    def _options(self, name: str, layer, n: int) -> dict[str, object]:
        part = self._part_of(n)
        return layer.literal_options(self.network.machine.on_host(part.shares[name]), n - part.first_sample)
