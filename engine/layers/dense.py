"""Dense (fully connected) layer; equations in ``derivations/dense.py``.

Ladder: the literal loops of the derivation, then these tiles of TILE outputs x LANES samples that stay in registers.
The tile loop is outside the loop over blocks, so that a row of W is read once for the whole mini-batch. Both gradients
read copies in which what one tile needs follows one another: in rows of all features those numbers are a power of two
apart for the usual sizes, and push each other out of the cache (49 GFLOP/s before for the weights, 52 for the input).
"""

from __future__ import annotations

import numpy as np

from ...derivations import dense as derivation
from .. import initializers
from ..backend import LANES, TILE, index, kernel, registers
from ..checks import require_positive_integers
from .layer import Layer, Shape, Share, require_features

TILE_SIZE = TILE * LANES


@kernel
def dense_forward(x, W, b, z):
    """z = W x + b; x (blocks, J, LANES), W (I, J), b (I,), z (blocks, I, LANES)."""
    blocks, J, _ = x.shape
    I = W.shape[0]
    acc = registers((TILE, LANES), TILE_SIZE, x)
    for i in range(0, I, TILE):
        for n in range(blocks):
            x_n = x[n]
            for v in range(LANES):
                for t in range(TILE):
                    acc[t, v] = b[min(i + t, I - 1)]
            for j in range(J):
                for v in range(LANES):
                    for t in range(TILE):
                        acc[t, v] += W[index(min(i + t, I - 1)), index(j)] * x_n[index(j), v]  # (dense.1)
            for t in range(TILE - 1, -1, -1):
                row = z[n, index(min(i + t, I - 1))]
                for v in range(LANES):
                    row[v] = acc[t, v]


@kernel
def dense_forward_one(x, W, b, one, z):
    """The same for the sample in lane 0 alone: lanes are neighbouring features here, which W holds side by side."""
    I, J = W.shape
    whole = J // LANES * LANES
    acc = registers((TILE, LANES), TILE_SIZE, x)
    for j in range(J):
        one[j] = x[0, j, 0]
    for i in range(0, I, TILE):
        for v in range(LANES):
            for t in range(TILE):
                acc[t, v] = 0
        for j in range(0, whole, LANES):
            for v in range(LANES):
                for t in range(TILE):
                    acc[t, v] += W[index(min(i + t, I - 1)), index(j + v)] * one[index(j + v)]  # (dense.1)
        for t in range(TILE - 1, -1, -1):
            last = min(i + t, I - 1)
            total = b[last]
            for v in range(LANES):
                total += acc[t, v]
                z[0, last, v] = b[last]
            for j in range(whole, J):
                total += W[last, j] * one[j]  # (dense.1)
            z[0, last, 0] = total


@kernel(short_loops=True)
def copy_columns(W, j, columns):
    """Copy LANES columns of W from j on to columns (tiles, I, TILE), so that a tile reads its TILE numbers in order."""
    I, J = W.shape
    tiles = columns.shape[0]
    some = registers((TILE,), TILE, W)
    for i in range(I):
        row = W[i]
        if j + tiles * TILE <= J:
            for k in range(tiles):
                target = columns[k, i]
                for t in range(TILE):
                    some[t] = row[index(j + k * TILE + t)]
                for t in range(TILE):
                    target[t] = some[t]
        else:
            for k in range(J - j):
                columns[k // TILE, i, k % TILE] = row[index(j + k)]


@kernel
def dense_input_gradient(W, dL_dz, dL_dx, columns):
    """dL/dx = Wᵀ dL/dz."""
    blocks, J, _ = dL_dx.shape
    I = W.shape[0]
    acc = registers((TILE, LANES), TILE_SIZE, dL_dz)
    for first in range(0, J, LANES):
        copy_columns(W, first, columns)
        for n in range(blocks):
            dL_dz_n = dL_dz[n]
            for j in range(first, min(first + LANES, J), TILE):
                w = columns[(j - first) // TILE]
                for v in range(LANES):
                    for t in range(TILE):
                        acc[t, v] = 0
                for i in range(I):
                    for v in range(LANES):
                        for t in range(TILE):
                            acc[t, v] += w[index(i), t] * dL_dz_n[index(i), v]  # (dense.6)
                for t in range(TILE - 1, -1, -1):
                    row = dL_dx[n, index(min(j + t, J - 1))]
                    for v in range(LANES):
                        row[v] = acc[t, v]


@kernel
def as_panels(x, panels, first):
    """Copy x (blocks, J, LANES) to panels (tiles, samples, width) from a sample on; what a tile reads is in one row."""
    blocks, J, lanes = x.shape
    width = panels.shape[2]
    for j in range(J):
        panel, k = panels[j // width], j % width
        for n in range(blocks):
            for v in range(lanes):
                panel[index(first + n * lanes + v), index(k)] = x[n, j, v]


@kernel
def dense_weight_gradient(x_panels, dL_dz_panels, tiles, dL_dW):
    """dL/dW = Σ over samples of dL/dz xᵀ for some tiles of outputs; a panel of x stays in the cache as they go by."""
    samples = x_panels.shape[1]
    I, J = dL_dW.shape
    acc = registers((TILE, LANES), TILE_SIZE, x_panels)
    for j in range(0, J, LANES):
        x, width = x_panels[j // LANES], min(LANES, J - j)
        for tile in range(tiles[0], tiles[1]):
            i, dL_dz = tile * TILE, dL_dz_panels[tile]
            for v in range(LANES):
                for t in range(TILE):
                    acc[t, v] = 0
            for m in range(samples):
                for v in range(LANES):
                    for t in range(TILE):
                        acc[t, v] += dL_dz[index(m), t] * x[index(m), v]  # (dense.4)
            for t in range(TILE - 1, -1, -1):
                row = dL_dW[index(min(i + t, I - 1))]
                for v in range(width):
                    row[index(j + v)] = acc[t, v]


@kernel
def dense_bias_gradient(dL_dz_panels, tiles, dL_db):
    """dL/db = Σ over samples of dL/dz, for the same tiles of outputs."""
    samples = dL_dz_panels.shape[1]
    for i in range(tiles[0] * TILE, min(tiles[1] * TILE, dL_db.size)):
        panel, total = dL_dz_panels[i // TILE], dL_dz_panels.dtype.type(0)
        for m in range(samples):
            total += panel[index(m), index(i % TILE)]  # (dense.5)
        dL_db[i] = total


class Dense(Layer):
    """Fully connected layer, z = W x + b.

    Parameters
    ----------
    features : int
        Number of outputs I.
    initializer : callable, optional
        How W starts, from ``handgrad.engine.initializers``; the biases start at 0.
    name : str, optional

    Notes
    -----
    Input (N, J), output (N, I); parameters ``W`` (I, J) and ``b`` (I,), the orientation of PyTorch's Linear.

    Examples
    --------
    >>> from handgrad.engine import Dense, Input
    >>> Dense(10)(Input((784,))).shape
    (10,)
    """

    kind = "dense"
    derivation = derivation
    kernels_alone = True
    finishes = True

    def __init__(self, features: int, *, initializer=initializers.he, name: str | None = None):
        super().__init__(name)
        require_positive_integers(str(self), features=features)
        self.features, self.initializer = features, initializer

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (I,)."""
        require_features(self, x_shape)
        return (self.features,)

    def parameter_shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of W and b."""
        return {"W": (self.features, x_shape[0]), "b": (self.features,)}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Draw W with fan-in J and fan-out I."""
        I, J = parameters["W"].shape
        parameters["W"][...] = self.initializer(rng, (I, J), J, I)
        parameters["b"][...] = 0

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for some columns of W, and for a single sample."""
        columns = np.zeros((LANES // TILE, self.features, TILE), dtype)
        return {"columns": columns, "one": np.zeros(x_shapes[0][0], dtype)}

    def common_scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the panels of x and dL/dz, whose surplus columns stay 0."""
        ((J,),), samples = x_shapes, blocks * LANES
        return {
            "x_panels": np.zeros((-(-J // LANES), samples, LANES), dtype),
            "dL_dz_panels": np.zeros((-(-self.features // TILE), samples, TILE), dtype),
        }

    def forward(self, share: Share) -> None:
        """Compute z = W x + b."""
        W, b, (x,) = share.parameters["W"], share.parameters["b"], share.x
        if share.N == 1:
            dense_forward_one(x, W, b, share.scratch["one"], share.z)
        else:
            dense_forward(x, W, b, share.z)

    def backward(self, share: Share) -> None:
        """Compute the gradient of x, where it is wanted, and make panels for those of W and b."""
        (x,), (dL_dx,), dL_dz = share.x, share.dL_dx, share.dL_dz
        as_panels(x, share.common["x_panels"], share.first_sample)
        as_panels(dL_dz, share.common["dL_dz_panels"], share.first_sample)
        if dL_dx is not None:
            dense_input_gradient(share.parameters["W"], dL_dz, dL_dx, share.scratch["columns"])

    def finish(self, share: Share, rank: int, size: int) -> None:
        """Compute the gradients of W and b for some of the outputs."""
        x, dL_dz, count = share.common["x_panels"], share.common["dL_dz_panels"], len(share.common["dL_dz_panels"])
        tiles = count * rank // size, count * (rank + 1) // size
        dense_weight_gradient(x, dL_dz, tiles, share.gradients["W"])
        dense_bias_gradient(dL_dz, tiles, share.gradients["b"])

    def multiply_adds(self, x_shape: Shape) -> int:
        """Return I J."""
        return self.features * x_shape[0]

    def settings(self) -> dict[str, object]:
        """Return the number of outputs."""
        return {"features": self.features}
