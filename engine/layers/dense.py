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


@kernel(short_loops=True)
def copy_columns(W, j, columns):
    """Copy LANES columns of W from j on to columns (tiles, I, TILE), so that a tile reads its TILE numbers in order."""
    I, J = W.shape
    tiles = columns.shape[0]
    four = registers((TILE,), TILE, W)
    for i in range(I):
        row = W[i]
        if j + tiles * TILE <= J:
            for k in range(tiles):
                target = columns[k, i]
                for t in range(TILE):
                    four[t] = row[index(j + k * TILE + t)]
                for t in range(TILE):
                    target[t] = four[t]
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
def as_panels(x, panels):
    """Copy x (blocks, J, LANES) to panels (tiles, samples, width): what a tile reads for a sample lies side by side."""
    blocks, J, lanes = x.shape
    width = panels.shape[2]
    for j in range(J):
        panel, k = panels[j // width], j % width
        for n in range(blocks):
            for v in range(lanes):
                panel[index(n * lanes + v), index(k)] = x[n, j, v]


@kernel
def dense_weight_gradient(x_panels, dL_dz_panels, dL_dW):
    """dL/dW = Σ over samples of dL/dz xᵀ; a panel of x stays in the cache while all outputs go by."""
    samples = x_panels.shape[1]
    I, J = dL_dW.shape
    acc = registers((TILE, LANES), TILE_SIZE, x_panels)
    for j in range(0, J, LANES):
        x, width = x_panels[j // LANES], min(LANES, J - j)
        for i in range(0, I, TILE):
            dL_dz = dL_dz_panels[i // TILE]
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
def dense_bias_gradient(dL_dz, dL_db):
    """dL/db = Σ over samples of dL/dz."""
    blocks, I, lanes = dL_dz.shape
    for i in range(I):
        total = dL_dz.dtype.type(0)
        for n in range(blocks):
            for v in range(lanes):
                total += dL_dz[n, i, v]  # (dense.5)
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
        """Return room for some columns of W, and the panels of x and dL/dz, whose surplus columns stay 0."""
        ((J,),), samples = x_shapes, blocks * LANES
        return {
            "columns": np.zeros((LANES // TILE, self.features, TILE), dtype),
            "x_panels": np.zeros((-(-J // LANES), samples, LANES), dtype),
            "dL_dz_panels": np.zeros((-(-self.features // TILE), samples, TILE), dtype),
        }

    def forward(self, share: Share) -> None:
        """Compute z = W x + b."""
        dense_forward(share.x[0], share.parameters["W"], share.parameters["b"], share.z)

    def backward(self, share: Share) -> None:
        """Compute the gradients of W, b and, where it is wanted, x."""
        (x,), (dL_dx,), dL_dz, scratch = share.x, share.dL_dx, share.dL_dz, share.scratch
        as_panels(x, scratch["x_panels"])
        as_panels(dL_dz, scratch["dL_dz_panels"])
        dense_weight_gradient(scratch["x_panels"], scratch["dL_dz_panels"], share.gradients["W"])
        dense_bias_gradient(dL_dz, share.gradients["b"])
        if dL_dx is not None:
            dense_input_gradient(share.parameters["W"], dL_dz, dL_dx, scratch["columns"])

    def multiply_adds(self, x_shape: Shape) -> int:
        """Return I J."""
        return self.features * x_shape[0]

    def settings(self) -> dict[str, object]:
        """Return the number of outputs."""
        return {"features": self.features}
