"""The same networks in JAX, where it is installed: one jitted training step whose parameters are donated.

The functions are made from this engine's own graph, with its starting parameters; images are (N, rows, columns, C), in
which XLA convolves fastest on a CPU. The running statistics of batch normalization are not moved, which costs nothing.
"""

from __future__ import annotations

import os
import time

import numpy as np

from ..engine.cores import available_cores
from ..engine.network import Network
from .nets import NETS, graph
from .ours import BATCHES
from .runner import Runner

RATE = 0.01


def image(x):
    """Return (N, C, rows, columns) as (N, rows, columns, C); flat samples as they are."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def convolution(layer, x, W, b):
    """Return the cross-correlation with W (O, C / groups, rows, columns)."""
    from jax import lax

    top, bottom, left, right = layer.settings()["padding"]
    z = lax.conv_general_dilated(
        x,
        W,
        layer.stride,
        ((top, bottom), (left, right)),
        rhs_dilation=layer.dilation,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        feature_group_count=layer.groups,
    )
    return z + b


def pooling(layer, x, start, combine):
    """Return the windows of a pooling layer reduced by a binary function."""
    from jax import lax

    top, bottom, left, right = layer.settings()["padding"]
    sides = ((0, 0), (top, bottom), (left, right), (0, 0))
    return lax.reduce_window(x, start, combine, (1, *layer.size, 1), (1, *layer.stride, 1), sides)


def batch_norm(layer, x, parameters, statistics, training):
    """Return gamma (x - mean) / sqrt(variance + eps) + beta over all axes but the channels."""
    import jax.numpy as jnp

    axes = tuple(range(x.ndim - 1))
    mean, variance = statistics["running_mean"], statistics["running_variance"]
    if training:
        mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
    normalized = (x - mean) / jnp.sqrt(variance + layer.eps)
    return parameters["gamma"] * normalized + parameters["beta"]


def apply_layer(layer, inputs, parameters, statistics, key):
    """Return a layer's output; ``key`` is None in inference."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    x = inputs[0]
    match layer.kind:
        case "conv":
            return convolution(layer, x, parameters["W"], parameters["b"])
        case "dense":
            return x @ parameters["W"].T + parameters["b"]
        case "relu":
            return jnp.maximum(x, 0)
        case "tanh":
            return jnp.tanh(x)
        case "maxpool":
            return pooling(layer, x, -jnp.inf, lax.max)
        case "avgpool":
            return pooling(layer, x, 0.0, lax.add) / (layer.size[0] * layer.size[1])
        case "flatten":
            return x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        case "add":
            return sum(inputs[1:], start=x)
        case "batchnorm":
            return batch_norm(layer, x, parameters, statistics, key is not None)
        case "dropout" if key is None:
            return x
        case "dropout":
            return jnp.where(jax.random.bernoulli(key, 1 - layer.rate, x.shape), x / (1 - layer.rate), 0)
    raise NotImplementedError(f"the JAX peer has no {layer.kind}")


def outputs(network: Network, parameters: dict, x, key=None):
    """Return what a network computes for a mini-batch; with a key as in training."""
    import jax

    values = {network.inputs[0].name: x}
    for number, (name, node) in enumerate(network.nodes.items()):
        if node.layer is not None:
            own = None if key is None else jax.random.fold_in(key, number)
            inputs = [values[source.name] for source in node.inputs]
            values[name] = apply_layer(node.layer, inputs, parameters[name], network.layer_statistics[name], own)
    return values[network.outputs[0].name]


class Jax(Runner):
    """Train one network in JAX.

    Parameters
    ----------
    name : str
        Of NETS.
    batch : int
    threads : int
        All cores, or one; XLA knows nothing between.
    """

    label = "JAX"

    def __init__(self, name: str, batch: int, threads: int):
        if threads not in (1, available_cores()):
            raise RuntimeError(f"XLA cannot be told to use {threads} threads")
        if threads == 1:
            own = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()
        import jax

        self.batch, self._turn, self._key, rng = batch, 0, jax.random.key(0), np.random.default_rng(0)
        net, self.network = NETS[name], Network(*graph(name), seed=0, threads=1)
        x = rng.normal(size=(BATCHES, batch, *net.shape)).astype(np.float32)
        target = rng.integers(0, 10, (BATCHES, batch))
        if not net.classes:
            target = rng.normal(size=(BATCHES, batch, *self.network.outputs[0].shape)).astype(np.float32)
            target = np.array([image(u) for u in target])
        self._batches = [jax.device_put((image(x), t)) for x, t in zip(x, target, strict=True)]
        self._one = self._batches[0][0][:1]
        theta = self.network.theta.copy()
        layers = [name for name, node in self.network.nodes.items() if node.layer is not None]
        self.parameters = jax.device_put({layer: self.network.layer_arrays(layer, theta) for layer in layers})
        self._compile(net.classes)

    def _compile(self, classes: bool) -> None:
        """Make the jitted functions; without classes the gradient of the input is wanted as well."""
        import jax
        import jax.numpy as jnp

        def loss(parameters, x, target, key):
            z = outputs(self.network, parameters, x, key)
            if not classes:
                return (z * target).sum()
            return -jnp.take_along_axis(jax.nn.log_softmax(z), target[:, None], 1).mean()

        def step(parameters, x, target, key):
            gradients = gradient(parameters, x, target, key)
            moved = jax.tree.map(lambda p, g: p - RATE * g, parameters, gradients[0])
            return moved, gradients[1:]

        gradient = jax.grad(loss, argnums=(0,) if classes else (0, 1))
        self.gradient, self._step = jax.jit(gradient), jax.jit(step, donate_argnums=0)
        self._linearize = jax.jit(lambda p, x, target, key: jax.vjp(lambda *a: loss(*a, target, key), p, x))
        self._pull = jax.jit(lambda pull: pull(jnp.float32(1))[: 1 if classes else 2])
        self._infer = jax.jit(lambda parameters, x: outputs(self.network, parameters, x))
        self._wait = jax.block_until_ready

    def _next(self):
        self._turn += 1
        return self._batches[self._turn % BATCHES]

    def step(self) -> None:
        """Train on the next mini-batch."""
        import jax

        key = jax.random.fold_in(self._key, self._turn)
        self.parameters, rest = self._step(self.parameters, *self._next(), key)
        self._wait((self.parameters, rest))

    def forward(self) -> None:
        """Compute the outputs of a mini-batch, in inference."""
        self._wait(self._infer(self.parameters, self._batches[0][0]))

    def backward_seconds(self) -> float:
        """Run both passes."""
        _, pull = self._wait(self._linearize(self.parameters, *self._next(), self._key))
        start = time.perf_counter()
        self._wait(self._pull(pull))
        return time.perf_counter() - start

    def classify_one(self) -> None:
        """Compute the outputs of one sample."""
        self._wait(self._infer(self.parameters, self._one))
