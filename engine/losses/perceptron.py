"""Loss of the perceptron; equations in ``derivations/perceptron.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import perceptron as derivation
from ..backend import LANES, kernel
from ..checks import ShapeError
from ..cuda import WARP, cuda, cuda_kernel
from .loss import LossOfValues


@kernel
def perceptron(a, target, samples, N, dL_da, L):
    """Fill L with the sum over the samples of Σ (a - t)² / 2; fill dL/da = (a - t) / N; all (blocks, K, LANES)."""
    blocks, K, lanes = a.shape
    zero, two, number = a.dtype.type(0), a.dtype.type(2), a.dtype.type(N)
    loss = 0.0
    for n in range(blocks):
        for k in range(K):
            for v in range(lanes):
                if n * lanes + v < samples:
                    residual = a[n, k, v] - target[n, k, v]
                    loss += residual * residual / two  # (perceptron.1)
                    dL_da[n, k, v] = residual / number  # (perceptron.2)
                else:
                    dL_da[n, k, v] = zero
    L[0] = loss


@cuda_kernel
def perceptron_cuda(a, target, samples, N, dL_da, losses):
    """Fill the loss of each sample and dL/da, one thread for each sample; all but losses (blocks, K, WARP)."""
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, two = a.dtype.type(0), a.dtype.type(2)
    loss = zero
    for k in range(a.shape[1]):
        if n * WARP + v < samples:
            residual = a[n, k, v] - target[n, k, v]
            loss += residual * residual / two  # (perceptron.1)
            dL_da[n, k, v] = residual / N  # (perceptron.2)
        else:
            dL_da[n, k, v] = zero
    losses[n, v] = loss


class Perceptron(LossOfValues):
    """Half the number of wrong answers per sample, of neurons that end in a ``Step``.

    Raises
    ------
    ShapeError
        When the target has another shape, or holds something else than 0 and 1.

    Notes
    -----
    L = Σ (a - t)² / (2 N) over the N samples of the mini-batch; dL/da = (a - t) / N. Output and target (N, K), or (N,
    ...) in general, the targets 0 or 1; integer labels (N,) for an output (N, K) with K > 1 count as one-hot rows.

    Behind ``Step("straight-through")`` gradient descent on single samples is Rosenblatt's rule, w + α (t - a) x.
    Behind a ``Step()`` nothing learns, as its derivative is 0.

    References
    ----------
    F. Rosenblatt, "The perceptron: a probabilistic model for information storage and organization in the brain", 1958.

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import Perceptron
    >>> L, dL_da = Perceptron()(np.array([[1.0], [0.0]]), np.array([[0], [0]]))
    >>> L, dL_da.tolist()
    (0.25, [[0.5], [0.0]])
    """

    kind = "perceptron"
    derivation = derivation
    kernels_alone = True

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return the target, of the output's shape and 0 or 1; integer labels become one-hot rows."""
        target = super().check_target(target, z_shape)
        right = (target == 0) | (target == 1)
        if not right.all():
            raise ShapeError(f"{type(self).__name__}: target", got=str(target[~right][0]), expected="0 or 1")
        return target

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Compute the summed loss and its gradient."""
        flat = (len(z), -1, LANES)
        perceptron(z.reshape(flat), target.reshape(flat), samples, N, dL_dz.reshape(flat), L)

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Compute the losses and their gradient."""
        flat, N = (len(z), -1, WARP), z.dtype.type(N)
        perceptron_cuda[losses.shape](z.reshape(flat), target.reshape(flat), samples, N, dL_dz.reshape(flat), losses)
