"""Simple recurrent layer; equations in ``derivations/simple_rnn.py``.

Ladder: the literal loops of the derivation, then, as in ``dense.py``, tiles of TILE units x LANES samples that stay in
registers. Time is the outermost loop, for a step needs all units of the one before; within a step a row of weights is
read once for all blocks. The sums of a step are stored first and go through the activation function in a second loop,
so that the tile's loop stays small. The weight gradients are sums over samples and time, INPUTS x UNITS of them at
once, whose lanes are added up at the end. Their operands are first copied so that a tile's rows follow one another in
memory; in place they lie a whole time step apart, and with 128 units the sums take twice as long.

On a GPU every time step is a launch of its own, for there the threads of all units have to wait for each other.
"""

from __future__ import annotations

import math

import numpy as np

from ...derivations import simple_rnn as derivation
from .. import initializers
from ..backend import LANES, TILE, index, kernel, registers, scalar
from ..checks import ConfigurationError, ShapeError, require_positive_integers
from ..cuda import REDUCERS, WARP, add_up, cuda, cuda_kernel, flat, maps, position, sum_of_parts_cuda
from ..scalar import tanh
from .layer import Layer, Shape, Share

TILE_SIZE = TILE * LANES
INPUTS = 3  # inputs in a tile of the weight gradient, beside UNITS units
UNITS = 2 if TILE == 4 else 8
WEIGHT_TILE = INPUTS * UNITS * LANES
SIDE = 16 if WARP == 32 else 4  # on a GPU a block of threads has SIDE x SIDE weights, as in dense.py
PITCH = WARP + 1
PARTS = 16  # of the time steps, whose weight gradients are summed apart from each other there
ACTIVATIONS = ("tanh", "sigmoid")


@scalar
def sigmoid(z, one):
    """1 / (1 + exp(-z)), by the exponential of a negative number, which cannot overflow; one has the type of z."""
    e = math.exp(-abs(z))
    return (one if z >= 0 else e) / (one + e)


@kernel
def simple_rnn_forward(x, W_x, W_h, b, a, is_tanh):
    """a_t = f(W_x x_t + W_h a_(t-1) + b); x (blocks, T, F, LANES), a (blocks, T, U, LANES)."""
    blocks, T, F, _ = x.shape
    U, one = W_h.shape[0], x.dtype.type(1)
    acc = registers((TILE, LANES), TILE_SIZE, x)
    for t in range(T):
        for i in range(0, U, TILE):
            for n in range(blocks):
                x_t = x[n, t]
                for v in range(LANES):
                    for r in range(TILE):
                        acc[r, v] = b[min(i + r, U - 1)]
                for j in range(F):
                    x_j = x_t[index(j)]
                    for v in range(LANES):
                        for r in range(TILE):
                            acc[r, v] += W_x[index(min(i + r, U - 1)), index(j)] * x_j[v]  # (simple_rnn.1)
                if t > 0:
                    before = a[n, index(t - 1)]
                    for k in range(U):
                        a_k = before[index(k)]
                        for v in range(LANES):
                            for r in range(TILE):
                                acc[r, v] += W_h[index(min(i + r, U - 1)), index(k)] * a_k[v]  # (simple_rnn.1)
                for r in range(TILE - 1, -1, -1):
                    row = a[n, t, index(min(i + r, U - 1))]
                    for v in range(LANES):
                        row[v] = acc[r, v]
        for n in range(blocks):
            a_t = a[n, t].reshape(-1)  # holds z_t until here
            if is_tanh:
                for k in range(a_t.size):
                    a_t[k] = tanh(a_t[k])  # (simple_rnn.2)
            else:
                for k in range(a_t.size):
                    a_t[k] = sigmoid(a_t[k], one)  # (simple_rnn.2)


@kernel
def simple_rnn_backward(W_h, a, dL_da, delta, is_tanh):
    """δ_t = (u_t + W_hᵀ δ_(t+1)) f'(z_t), from the last step back; dL_da holds the u_t of all steps or of the last."""
    blocks, T, U, _ = a.shape
    unread, one = T - dL_da.shape[1], a.dtype.type(1)
    acc = registers((TILE, LANES), TILE_SIZE, a)
    for t in range(T - 1, -1, -1):
        for i in range(0, U, TILE):
            for n in range(blocks):
                for v in range(LANES):
                    for r in range(TILE):
                        acc[r, v] = 0
                if t < T - 1:
                    after = delta[n, index(t + 1)]
                    for k in range(U):
                        delta_k = after[index(k)]
                        for v in range(LANES):
                            for r in range(TILE):
                                acc[r, v] += W_h[index(k), index(min(i + r, U - 1))] * delta_k[v]  # (simple_rnn.5)
                for r in range(TILE - 1, -1, -1):
                    row = delta[n, t, index(min(i + r, U - 1))]
                    for v in range(LANES):
                        row[v] = acc[r, v]
        for n in range(blocks):
            a_t, delta_t = a[n, t].reshape(-1), delta[n, t].reshape(-1)
            if t >= unread:
                u_t = dL_da[n, index(t - unread)].reshape(-1)
                for k in range(delta_t.size):
                    delta_t[k] += u_t[k]  # (simple_rnn.5)
            if is_tanh:
                for k in range(delta_t.size):
                    delta_t[k] *= one - a_t[k] * a_t[k]  # (simple_rnn.6) (simple_rnn.3)
            else:
                for k in range(delta_t.size):
                    delta_t[k] *= a_t[k] * (one - a_t[k])  # (simple_rnn.6) (simple_rnn.4)


@kernel
def pack_tiles(values, lag, tiles):
    """Copy values (blocks, T, J, LANES) to tiles (tile, block and step, row in the tile, LANES), lag steps later."""
    blocks, T, J, _ = values.shape
    size, zero = tiles.shape[2], values.dtype.type(0)
    for tile in range((J + size - 1) // size):
        for n in range(blocks):
            for t in range(T):
                for q in range(size):
                    copy, row = tiles[tile, n * T + t, q], values[n, max(t - lag, 0), min(tile * size + q, J - 1)]
                    for v in range(LANES):
                        copy[v] = row[v] if t >= lag else zero


@kernel
def simple_rnn_weight_gradient(delta_tiles, value_tiles, dL_dW):
    """dL/dW = Σ over samples and time of δ_t x_tᵀ, or of δ_t a_(t-1)ᵀ: both in tiles."""
    U, J = dL_dW.shape
    acc = registers((INPUTS, UNITS, LANES), WEIGHT_TILE, dL_dW)
    for i in range(0, U, UNITS):
        delta = delta_tiles[i // UNITS]
        for j in range(0, J, INPUTS):
            values = value_tiles[j // INPUTS]
            for v in range(LANES):
                for q in range(INPUTS):
                    for r in range(UNITS):
                        acc[q, r, v] = 0
            for s in range(delta.shape[0]):
                delta_s, values_s = delta[index(s)], values[index(s)]
                for v in range(LANES):
                    for q in range(INPUTS):
                        for r in range(UNITS):
                            acc[q, r, v] += delta_s[r, v] * values_s[q, v]  # (simple_rnn.8) (simple_rnn.9)
            for q in range(INPUTS - 1, -1, -1):
                for r in range(UNITS - 1, -1, -1):
                    total = dL_dW.dtype.type(0)
                    for v in range(LANES):
                        total += acc[q, r, v]
                    dL_dW[index(min(i + r, U - 1)), index(min(j + q, J - 1))] = total


@kernel
def simple_rnn_bias_gradient(delta, dL_db):
    """dL/db = Σ over samples and time of δ_t."""
    blocks, T, U, lanes = delta.shape
    for i in range(U):
        total = delta.dtype.type(0)
        for n in range(blocks):
            for t in range(T):
                for v in range(lanes):
                    total += delta[n, t, i, v]  # (simple_rnn.10)
        dL_db[i] = total


@kernel
def simple_rnn_input_gradient(W_x, delta, dL_dx):
    """dL/dx_t = W_xᵀ δ_t."""
    blocks, T, F, _ = dL_dx.shape
    U = W_x.shape[0]
    acc = registers((TILE, LANES), TILE_SIZE, delta)
    for n in range(blocks):
        for t in range(T):
            delta_t = delta[n, t]
            for j in range(0, F, TILE):
                for v in range(LANES):
                    for r in range(TILE):
                        acc[r, v] = 0
                for i in range(U):
                    delta_i = delta_t[index(i)]
                    for v in range(LANES):
                        for r in range(TILE):
                            acc[r, v] += W_x[index(i), index(min(j + r, F - 1))] * delta_i[v]  # (simple_rnn.11)
                for r in range(TILE - 1, -1, -1):
                    row = dL_dx[n, t, index(min(j + r, F - 1))]
                    for v in range(LANES):
                        row[v] = acc[r, v]


@cuda_kernel
def simple_rnn_step_cuda(x, W_x, W_h, b, t, is_tanh, a):
    """a_t = f(W_x x_t + W_h a_(t-1) + b) for one t, one thread for each unit of each sample."""
    n, _, _, i, v = position(1)
    if i < a.shape[2]:
        z = b[i]
        for j in range(x.shape[2]):
            z += W_x[i, j] * x[n, t, j, v]  # (simple_rnn.1)
        if t > 0:
            for k in range(a.shape[2]):
                z += W_h[i, k] * a[n, t - 1, k, v]  # (simple_rnn.1)
        a[n, t, i, v] = math.tanh(z) if is_tanh else sigmoid(z, x.dtype.type(1))  # (simple_rnn.2)


@cuda_kernel
def last_state_cuda(a, z):
    """z = a_T, one thread for each unit of each sample."""
    n, _, _, i, v = position(1)
    if i < z.shape[1]:
        z[n, i, v] = a[n, a.shape[1] - 1, i, v]


@cuda_kernel
def simple_rnn_step_back_cuda(W_h, a, dL_da, t, is_tanh, delta):
    """δ_t = (u_t + W_hᵀ δ_(t+1)) f'(z_t) for one t, one thread for each unit of each sample."""
    n, _, _, i, v = position(1)
    T, U = a.shape[1], a.shape[2]
    unread, one = T - dL_da.shape[1], a.dtype.type(1)
    if i < U:
        total = a.dtype.type(0)
        if t < T - 1:
            for k in range(U):
                total += W_h[k, i] * delta[n, t + 1, k, v]  # (simple_rnn.5)
        if t >= unread:
            total += dL_da[n, t - unread, i, v]  # (simple_rnn.5)
        a_t = a[n, t, i, v]
        if is_tanh:
            delta[n, t, i, v] = total * (one - a_t * a_t)  # (simple_rnn.6) (simple_rnn.3)
        else:
            delta[n, t, i, v] = total * (a_t * (one - a_t))  # (simple_rnn.6) (simple_rnn.4)


@cuda_kernel
def simple_rnn_weight_gradient_cuda(delta, values, lag, parts):
    """parts[m] = Σ over samples and some time steps of δ_t x_tᵀ, or of δ_t a_(t-1)ᵀ with a lag of 1.

    A block of SIDE x SIDE threads has as many weights, whose rows it first copies side by side, as in ``dense.py``.
    """
    delta_tile = cuda.shared.array((SIDE, PITCH), delta.dtype)
    value_tile = cuda.shared.array((SIDE, PITCH), delta.dtype)
    blocks, T = delta.shape[0], delta.shape[1]
    count, U, J = parts.shape
    m, first_i, first_j = cuda.blockIdx.z, cuda.blockIdx.y * SIDE, cuda.blockIdx.x * SIDE
    thread = cuda.threadIdx.y * SIDE + cuda.threadIdx.x
    zero = delta.dtype.type(0)
    total = zero
    for n in range(blocks):
        for t in range(max(m * T // count, lag), (m + 1) * T // count):
            for k in range(thread, SIDE * WARP, SIDE * SIDE):
                row, v = k // WARP, k % WARP
                delta_tile[row, v] = delta[n, t, first_i + row, v] if first_i + row < U else zero
                value_tile[row, v] = values[n, t - lag, first_j + row, v] if first_j + row < J else zero
            cuda.syncthreads()
            for v in range(WARP):
                total += (
                    delta_tile[cuda.threadIdx.y, v] * value_tile[cuda.threadIdx.x, v]
                )  # (simple_rnn.8) (simple_rnn.9)
            cuda.syncthreads()
    i, j = first_i + cuda.threadIdx.y, first_j + cuda.threadIdx.x
    if i < U and j < J:
        parts[m, i, j] = total


@cuda_kernel
def simple_rnn_bias_gradient_cuda(delta, dL_db):
    """dL/db = Σ over samples and time of δ_t, one block of threads for each unit."""
    partial = cuda.shared.array(REDUCERS, delta.dtype)
    i, v = cuda.blockIdx.x, cuda.threadIdx.x
    total = delta.dtype.type(0)
    for n in range(delta.shape[0]):
        for t in range(cuda.threadIdx.y, delta.shape[1], cuda.blockDim.y):
            total += delta[n, t, i, v]  # (simple_rnn.10)
    thread = cuda.threadIdx.y * WARP + v
    partial[thread] = total
    add_up(partial, thread, REDUCERS)
    if thread == 0:
        dL_db[i] = partial[0]


@cuda_kernel
def simple_rnn_input_gradient_cuda(W_x, delta, dL_dx):
    """dL/dx_t = W_xᵀ δ_t, one thread for each input of each sample."""
    n, _, t, j, v = position(1)
    if j < dL_dx.shape[2]:
        total = delta.dtype.type(0)
        for i in range(delta.shape[2]):
            total += W_x[i, j] * delta[n, t, i, v]  # (simple_rnn.11)
        dL_dx[n, t, j, v] = total


class SimpleRNN(Layer):
    """Simple recurrent layer: reads a sequence step by step, a_t = f(W_x x_t + W_h a_(t-1) + b) with a_0 = 0.

    Parameters
    ----------
    units : int
        Number of units U.
    activation : {"tanh", "sigmoid"}
        The function f.
    return_sequences : bool
        Whether to give the states of all T steps in place of the last one alone.
    initializer : callable, optional
        How W_x and W_h start, from ``handgrad.engine.initializers``; the biases start at 0.
    name : str, optional

    Raises
    ------
    ConfigurationError
        When an option has no meaning.
    ShapeError
        When the input is no sequence (T, F); images and flat vectors become one by a Reshape.

    Notes
    -----
    Input (N, T, F), T time steps of F features; output (N, U), or (N, T, U) with return_sequences. Parameters ``W_x``
    (U, F), ``W_h`` (U, U) and ``b`` (U,): those of PyTorch's RNN, where b is the sum of its two biases.

    References
    ----------
    P. J. Werbos, "Backpropagation through time: what it does and how to do it", 1990.

    Examples
    --------
    >>> from handgrad.engine import Input, SimpleRNN
    >>> rows = Input((28, 28))
    >>> SimpleRNN(64)(rows).shape, SimpleRNN(64, return_sequences=True)(rows).shape
    ((64,), (28, 64))
    """

    kind = "rnn"
    derivation = derivation
    letter = "a"

    def __init__(
        self,
        units: int,
        *,
        activation: str = "tanh",
        return_sequences: bool = False,
        initializer=initializers.xavier,
        name: str | None = None,
    ):
        super().__init__(name)
        require_positive_integers(str(self), units=units)
        if activation not in ACTIVATIONS:
            raise ConfigurationError(f"{self}: activation", got=repr(activation), expected="'tanh' or 'sigmoid'")
        if not isinstance(return_sequences, bool):
            raise ConfigurationError(f"{self}: return_sequences", got=repr(return_sequences), expected="True or False")
        self.units, self.activation, self.return_sequences = units, activation, return_sequences
        self.initializer = initializer

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (U,), or (T, U) for all states."""
        if len(x_shape) != 2:
            rows = x_shape[1:] if len(x_shape) == 3 and x_shape[0] == 1 else "(T, F)"
            raise ShapeError(
                str(self),
                got=f"an input of {' x '.join(map(str, x_shape))}",
                expected="a sequence of T time steps x F features",
                remedy=f"put a Reshape({rows}) before it",
            )
        return (x_shape[0], self.units) if self.return_sequences else (self.units,)

    def parameter_shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of W_x, W_h and b."""
        U = self.units
        return {"W_x": (U, x_shape[1]), "W_h": (U, U), "b": (U,)}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Draw W_x and W_h, each with the fan-in and fan-out of its own product."""
        U, F = parameters["W_x"].shape
        parameters["W_x"][...] = self.initializer(rng, (U, F), F, U)
        parameters["W_h"][...] = self.initializer(rng, (U, U), U, U)
        parameters["b"][...] = 0

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for δ, for tiles and, where the output is the last state alone, for all states."""
        ((T, F),), U = x_shapes, self.units
        names = ("delta",) if self.return_sequences else ("delta", "a")
        return {
            "delta_tiles": np.empty((-(-U // UNITS), blocks * T, UNITS, LANES), dtype),
            "value_tiles": np.empty((-(-max(F, U) // INPUTS), blocks * T, INPUTS, LANES), dtype),
            **{name: np.zeros((blocks, T, U, LANES), dtype) for name in names},
        }

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for δ, for parts of a weight gradient and, for the last state alone, for all states."""
        ((T, F),), U = x_shapes, self.units
        names = ("delta",) if self.return_sequences else ("delta", "a")
        return {
            "parts": np.zeros(min(T, PARTS) * U * max(F, U), dtype),
            **{name: np.zeros((blocks, T, U, WARP), dtype) for name in names},
        }

    def forward(self, share: Share) -> None:
        """Compute the states, from the first step to the last."""
        p, a = share.parameters, share.scratch.get("a", share.z)
        simple_rnn_forward(share.x[0], p["W_x"], p["W_h"], p["b"], a, self.activation == "tanh")
        if not self.return_sequences:
            share.z[...] = a[:, -1]

    def backward(self, share: Share) -> None:
        """Compute the gradients, from the last step to the first."""
        (x,), (dL_dx,), dL_da, p, scratch = share.x, share.dL_dx, share.dL_dz, share.parameters, share.scratch
        a, delta = scratch.get("a", share.z), scratch["delta"]
        delta_tiles, value_tiles = scratch["delta_tiles"], scratch["value_tiles"]
        if not self.return_sequences:
            dL_da = dL_da.reshape(len(dL_da), 1, *dL_da.shape[1:])
        simple_rnn_backward(p["W_h"], a, dL_da, delta, self.activation == "tanh")
        pack_tiles(delta, 0, delta_tiles)
        for name, values, lag in (("W_x", x, 0), ("W_h", a, 1)):
            pack_tiles(values, lag, value_tiles)
            simple_rnn_weight_gradient(delta_tiles, value_tiles, share.gradients[name])
        simple_rnn_bias_gradient(delta, share.gradients["b"])
        if dL_dx is not None:
            simple_rnn_input_gradient(p["W_x"], delta, dL_dx)

    def forward_cuda(self, share: Share) -> None:
        """Compute the states, from the first step to the last."""
        (x,), p, a = share.x, share.parameters, share.scratch.get("a", share.z)
        blocks, T, U, _ = a.shape
        units = maps((blocks, 1, 1, U, WARP))
        for t in range(T):
            simple_rnn_step_cuda[units](x, p["W_x"], p["W_h"], p["b"], t, self.activation == "tanh", a)
        if not self.return_sequences:
            last_state_cuda[units](a, share.z)

    def backward_cuda(self, share: Share) -> None:
        """Compute the gradients, from the last step to the first."""
        (x,), (dL_dx,), dL_da, p = share.x, share.dL_dx, share.dL_dz, share.parameters
        a, delta = share.scratch.get("a", share.z), share.scratch["delta"]
        blocks, T, U, _ = a.shape
        if not self.return_sequences:
            dL_da = dL_da.reshape(blocks, 1, U, WARP)
        for t in range(T - 1, -1, -1):
            simple_rnn_step_back_cuda[maps((blocks, 1, 1, U, WARP))](
                p["W_h"], a, dL_da, t, self.activation == "tanh", delta
            )
        for name, values, lag in (("W_x", x, 0), ("W_h", a, 1)):
            dL_dW, count = share.gradients[name], min(T, PARTS)
            J = dL_dW.shape[1]
            parts = share.scratch["parts"][: count * U * J]
            simple_rnn_weight_gradient_cuda[(-(-J // SIDE), -(-U // SIDE), count), (SIDE, SIDE)](
                delta, values, lag, parts.reshape(count, U, J)
            )
            sum_of_parts_cuda[flat(U * J)](parts.reshape(count, U * J), dL_dW.reshape(-1))
        simple_rnn_bias_gradient_cuda[U, (WARP, REDUCERS // WARP)](delta, share.gradients["b"])
        if dL_dx is not None:
            simple_rnn_input_gradient_cuda[maps((blocks, 1, *x.shape[1:]))](p["W_x"], delta, dL_dx)

    def multiply_adds(self, x_shape: Shape) -> int:
        """Return T U (F + U) - U², as the first step has no state to multiply."""
        (T, F), U = x_shape, self.units
        return T * U * (F + U) - U * U

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return the activation function and which states are the output."""
        return {"activation": self.activation, "return_sequences": self.return_sequences}

    def unused_equations(self, training: bool) -> set[str]:
        """Return the slope of the other activation function."""
        return {"simple_rnn.4" if self.activation == "tanh" else "simple_rnn.3"}

    def settings(self) -> dict[str, object]:
        """Return the hyper-parameters."""
        return {"units": self.units, **self.literal_options()}
