"""Network: a graph of layers with its parameters, run forward in topological order and backward in the reversed one.

Floor 3. All parameters lie in one flat array ``theta``, all gradients in ``dL_dtheta``; ``parameters["conv1.W"]`` is a
view. Every node's value and gradient has its own named buffer, which stays after a pass, so whoever wants to look
inside only has to look.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from . import cuda
from .arrays import aligned_zeros
from .checks import ConfigurationError, DeviceError, ShapeError, require_positive_integers
from .graph import Node, topological_order
from .machines import Cpu, Cuda
from .named import NamedArrays, NodeArrays
from .passes import Pass
from .workers import shared_workers

DTYPES = ("float32", "float64")
PASSES = 6  # sizes of mini-batches whose buffers are kept: training and evaluation use two each
ALIGNMENT = 16  # numbers; every parameter starts on a cache line


class Network:
    """A directed acyclic graph of layers.

    Parameters
    ----------
    inputs, outputs : Node or list of Node
        Where samples enter and what the network computes from them.
    dtype : {"float32", "float64"}
    device : {"cpu", "cuda"}
        Where the network computes. On a GPU the arrays of this object are still the host's: each forward pass copies
        parameters and statistics there, each backward pass copies gradients back; a training keeps them there.
    seed : int
        Of the starting parameters and of dropout, from 0 up.
    threads : int, optional
        Worker threads; by default one per core.

    Attributes
    ----------
    nodes : dict of str to Node
        In topological order.
    machine : Cpu or Cuda
        What computes.
    theta, dL_dtheta : numpy.ndarray
        All parameters and, after ``backward``, their gradients, flat.
    theta_there, gradients_there, statistics_there : arrays
        The same, and the statistics, where the machine has them: on the CPU they are the same arrays.
    parameters, gradients : mapping of str to numpy.ndarray
        Views of them by name, "conv1.W"; dense (out, in), convolution (out, in, rows, columns); assignable in place.
    statistics : mapping of str to numpy.ndarray
        What layers keep and save beside parameters, "batchnorm1.running_mean"; forward passes in training change it.
    values, value_gradients : mapping of str to numpy.ndarray
        Of every node after ``forward`` and ``backward``, in user layout.
    draw : int
        Number of the next random draw of layers such as dropout; a forward pass in training increases it.

    Raises
    ------
    ConfigurationError
        When two layers have one name, or an option has no meaning.
    DeviceError
        When the device is not available.

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import Dense, Input, Network, ReLU
    >>> x = Input((2,))
    >>> network = Network(x, Dense(1)(ReLU()(Dense(3)(x))), dtype="float64", threads=1)
    >>> network.forward(np.ones((5, 2))).shape, network.backward(np.ones((5, 1))).shape
    ((5, 1), (5, 2))
    >>> list(network.gradients)
    ['dense1.W', 'dense1.b', 'dense2.W', 'dense2.b']
    """

    def __init__(
        self,
        inputs: Node | Sequence[Node],
        outputs: Node | Sequence[Node],
        *,
        dtype: str = "float32",
        device: str = "cpu",
        seed: int = 0,
        threads: int | None = None,
    ):
        self._single_input, self._single_output = isinstance(inputs, Node), isinstance(outputs, Node)
        self.inputs = [inputs] if isinstance(inputs, Node) else list(inputs)
        self.outputs = [outputs] if isinstance(outputs, Node) else list(outputs)
        if getattr(dtype, "name", getattr(dtype, "__name__", dtype)) not in DTYPES:
            raise ConfigurationError("Network: dtype", got=repr(dtype), expected=" or ".join(DTYPES))
        if device not in ("cpu", "cuda"):
            raise DeviceError("Network: device", got=repr(device), expected="'cpu' or 'cuda'")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ConfigurationError("Network: seed", got=repr(seed), expected="an integer from 0 up")
        self.dtype, self.device, self.seed = np.dtype(dtype), device, int(seed)
        self.machine = Cuda() if device == "cuda" else Cpu()
        self.order = topological_order(self.inputs, self.outputs)
        self.nodes = self._name_nodes()
        self.workers = shared_workers(threads)
        self._allocate_parameters()
        self.draw = 0
        self.last_pass: Pass | None = None
        self._passes: dict[tuple[int, bool, bool, bool], Pass] = {}
        layers = [node.layer for node in self.order if node.layer is not None]
        self._takes_one = device == "cpu" and all(layer.states("takes_one") for layer in layers)
        self.values = NodeArrays(self, "value", Pass.value)
        self.value_gradients = NodeArrays(self, "gradient", Pass.gradient)

    def _name_nodes(self) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        counts: dict[str, int] = {}
        given = [node.name for node in self.order if node.name is not None]
        for node in self.order:
            if node.name is None:
                kind = "input" if node.layer is None else node.layer.kind
                while True:
                    counts[kind] = counts.get(kind, 0) + 1
                    alone = kind == "input" and len(self.inputs) == 1 and "input" not in given
                    name = kind if alone else f"{kind}{counts[kind]}"
                    if name not in given:
                        break
                node.name = name
                if node.layer is not None:
                    node.layer.name = name
            if node.name in nodes:
                raise ConfigurationError(f"Network: two layers are called '{node.name}'", remedy="rename one of them")
            nodes[node.name] = node
        return nodes

    def _allocate_parameters(self) -> None:
        self._stretches: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {}
        size = 0
        for name, node in self.nodes.items():
            if node.layer is None:
                continue
            self._stretches[name] = {}
            for part, shape in node.layer.parameter_shapes(*(source.shape for source in node.inputs)).items():
                self._stretches[name][part] = (size, shape)
                size += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
        try:
            self.theta, self.dL_dtheta = aligned_zeros(size, self.dtype), aligned_zeros(size, self.dtype)
        except (MemoryError, ValueError) as error:
            raise ConfigurationError(f"Network: no memory for {size:,} parameters") from error
        self.parameters = NamedArrays("parameter", self._by_name(self.theta))
        self.gradients = NamedArrays("gradient", self._by_name(self.dL_dtheta))
        self.layer_statistics = {
            name: self.nodes[name].layer.statistics(tuple(s.shape for s in self.nodes[name].inputs), self.dtype)
            for name in self._stretches
        }
        by_name = {f"{name}.{part}": a for name, arrays in self.layer_statistics.items() for part, a in arrays.items()}
        self.statistics = NamedArrays("statistic", by_name)
        for position, (name, node) in enumerate(self.nodes.items()):
            if node.layer is not None:
                rng = np.random.default_rng([self.seed, position])
                node.layer.initialize(self.layer_arrays(name, self.theta), rng)
        self.theta_there, self.gradients_there = self.theta, self.dL_dtheta
        self.statistics_there = self.layer_statistics
        if self.machine.is_gpu:
            self.theta_there, self.gradients_there = self.machine.put(self.theta), self.machine.put(self.dL_dtheta)
            self.statistics_there = {
                name: {part: self.machine.put(array) for part, array in arrays.items()}
                for name, arrays in self.layer_statistics.items()
            }

    def upload(self) -> None:
        """Copy parameters and statistics to the GPU, if that is where the network computes."""
        if self.machine.is_gpu:
            write = cuda.device().write
            write(self.theta_there, self.theta)
            for name, arrays in self.layer_statistics.items():
                for part, array in arrays.items():
                    write(self.statistics_there[name][part], array)

    def download(self, *, parameters: bool = False, gradients: bool = False, statistics: bool = False) -> None:
        """Copy what a pass or a training has changed back from the GPU, if that is where the network computes."""
        if not self.machine.is_gpu:
            return
        get = cuda.device().get
        if parameters:
            self.theta[...] = get(self.theta_there)
        if gradients:
            self.dL_dtheta[...] = get(self.gradients_there)
        if statistics:
            for name, arrays in self.layer_statistics.items():
                for part, array in arrays.items():
                    array[...] = get(self.statistics_there[name][part])

    def layer_arrays(self, name: str, flat: np.ndarray, first: int = 0) -> dict[str, np.ndarray]:
        """Return one layer's views, ``{"W": ..., "b": ...}``, into a flat array laid out like ``theta[first:]``."""
        return {
            part: flat[start - first : start - first + math.prod(shape)].reshape(shape)
            for part, (start, shape) in self._stretches[name].items()
        }

    def layer_stretch(self, name: str) -> slice:
        """Return where in ``theta`` the parameters of a layer lie."""
        ends = [(start, start + math.prod(shape)) for start, shape in self._stretches[name].values()]
        return slice(min(start for start, _ in ends), max(end for _, end in ends)) if ends else slice(0, 0)

    def _by_name(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        return {
            f"{name}.{part}": array for name in self._stretches for part, array in self.layer_arrays(name, flat).items()
        }

    @property
    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self.parameters.values())

    def pass_for(self, samples: int, *, input_gradient: bool = True, fused: bool = False, one: bool = False) -> Pass:
        """Return the buffers for mini-batches of this size, allocating them on the first call.

        Parameters
        ----------
        samples : int
        input_gradient : bool
            Whether a backward pass also computes gradients that no parameter needs, those of the inputs.
        fused : bool
            Whether activations may be computed by the layers before them, whose own values are then nowhere to be seen.
        one : bool
            Whether a single sample goes forward without lanes, see ``Pass``.
        """
        key = (samples, input_gradient, fused, one)
        found = self._passes.pop(key, None) or Pass(self, *key)
        self._passes[key] = found
        while len(self._passes) > PASSES:
            del self._passes[next(iter(self._passes))]
        return found

    def forward(self, x, training: bool = False):
        """Compute the outputs for a mini-batch.

        Parameters
        ----------
        x : numpy.ndarray or list of numpy.ndarray
            Samples for each input, (N, C, H, W) or (N, features); converted to the network's dtype.
        training : bool
            Whether layers such as dropout behave as in training.

        Returns
        -------
        numpy.ndarray or list of numpy.ndarray
            (N, ...) for each output.

        Raises
        ------
        ShapeError
            When the samples do not have the shape of the input.
        """
        arrays = self._check_arrays([x] if self._single_input else list(x), self.inputs, "input")
        if training:
            self.check_samples(len(arrays[0]))
        current = self.pass_for(len(arrays[0]), one=self._takes_one and len(arrays[0]) == 1 and not training)
        self._forward(current, arrays, training)
        if training:
            self.draw += 1
        z = [current.value(node.name) for node in self.outputs]
        return z[0] if self._single_output else z

    def _forward(self, current: Pass, arrays: list[np.ndarray], training: bool) -> None:
        """Compute all values of a pass, which is the last one from now on."""
        for node, array in zip(self.inputs, arrays, strict=True):
            current.load(node.name, array)
        current.prepare(training, self.draw)
        self.upload()
        current.run_all("forward")
        self.download(statistics=training)
        current.is_complete = False
        self.last_pass = current

    def check_samples(self, samples: int) -> None:
        """Raise a ShapeError when a layer cannot be trained on mini-batches of so few samples."""
        for node in self.nodes.values():
            if node.layer is not None:
                node.layer.check_samples(samples)

    def backward(self, dL_dz):
        """Compute all gradients of the last forward pass; the parameters have to be those that it used.

        Parameters
        ----------
        dL_dz : numpy.ndarray or list of numpy.ndarray
            Gradient of the loss with respect to each output, of its shape.

        Returns
        -------
        numpy.ndarray or list of numpy.ndarray
            Gradient with respect to each input. ``gradients`` and ``value_gradients`` hold the others.

        Raises
        ------
        ShapeError
            When the shapes are not those of the last outputs.
        ConfigurationError
            When there was no forward pass.
        """
        current = self.last_pass
        if current is None:
            raise ConfigurationError("Network: backward before any forward pass", remedy="call forward first")
        arrays = self._check_arrays(
            [dL_dz] if self._single_output else list(dL_dz), self.outputs, "gradient of", current.samples
        )
        if current.is_one:  # its values are not laid out for the backward kernels
            current, x = self.pass_for(1), [current.value(node.name) for node in self.inputs]
            self._forward(current, x, training=False)
        current.allocate_gradients()
        for position, array in enumerate(arrays):
            current.load_seed(position, array)
        current.run_all("backward")
        current.reduce_gradients()
        self.download(gradients=True)
        current.is_complete = True
        dL_dx = [current.gradient(node.name) for node in self.inputs]
        return dL_dx[0] if self._single_input else dL_dx

    def predict(self, x, batch_size: int = 256) -> np.ndarray:
        """Return the outputs for any number of samples, a mini-batch at a time; see ``forward``."""
        require_positive_integers("Network.predict", batch_size=batch_size)
        if not self._single_input or not self._single_output:
            raise ConfigurationError("Network.predict: works for one input and one output", remedy="use forward")
        x = np.asarray(x)
        parts = [self.forward(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
        return np.concatenate(parts) if parts else np.empty((0, *self.outputs[0].shape), self.dtype)

    def _check_arrays(self, arrays, nodes, what: str, samples: int | None = None) -> list[np.ndarray]:
        if len(arrays) != len(nodes):
            raise ShapeError(f"Network: {what}", got=f"{len(arrays)} arrays", expected=f"{len(nodes)}, one per node")
        checked = []
        for node, array in zip(nodes, arrays, strict=True):
            array = np.asarray(array, dtype=self.dtype)
            expected = "N" if samples is None else str(samples)
            if array.shape[1:] != node.shape or array.ndim == 0 or samples not in (None, len(array)):
                raise ShapeError(
                    f"Network: {what} '{node.name}'",
                    got=f"shape {array.shape}",
                    expected=f"({', '.join([expected, *map(str, node.shape)])})",
                )
            samples = len(array)
            checked.append(array)
        if samples == 0:
            raise ShapeError(f"Network: {what}", got="0 samples", expected="at least one")
        return checked

    def draw_key(self, name: str, draw: int) -> int:
        """Return 64 bits that name the random numbers of one layer in one draw."""
        text = f"{self.seed} {name} {draw}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter and statistic by name, to be saved."""
        return {name: array.copy() for arrays in (self.parameters, self.statistics) for name, array in arrays.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Set every parameter and statistic.

        Raises
        ------
        ShapeError
            When a name is missing or unknown, or a shape is different; then nothing is changed.
        """
        own = {**self.parameters, **self.statistics}
        missing, unknown = set(own) - set(state), set(state) - set(own)
        if missing or unknown:
            raise ShapeError(
                "Network: parameters do not belong to this network",
                got=f"unknown {sorted(unknown)}" if unknown else "",
                expected=f"also {sorted(missing)}" if missing else "",
            )
        for name, array in own.items():
            if np.shape(state[name]) != array.shape:
                raise ShapeError(f"parameter '{name}'", got=f"shape {np.shape(state[name])}", expected=str(array.shape))
        for name, array in own.items():
            array[...] = state[name]
