"""Local response normalization over the channels; equations in ``derivations/local_response_norm.py``.

Ladder: the literal loops of the derivation, then these, which go along whole planes of one channel, where the processor
takes several neighbouring numbers at a time. Every window is summed from scratch: a running sum that adds the next
square and takes the last one away would need fewer additions, but what rounding leaves of a large square that has gone
again can be more than all small ones, and would even make d negative. The power is the expensive part: β = 3/4, the
paper's, needs two square roots, again several at a time; any other goes through the logarithm.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from ...derivations import local_response_norm as derivation
from ..backend import LANES, index, kernel
from ..checks import ConfigurationError, require_positive_integers
from ..cuda import WARP, cuda, cuda_kernel, flat, maps, position
from .layer import Layer, Shape, Share, require_image

LARGEST = 1e30  # of alpha, beta, k and k^(-beta): far inside float32, so that a value of 0 never meets an infinity


@kernel
def local_response_norm_forward(x, z, d, power, window, scale, beta, k):
    """z[c] = x[c] / d[c]^β, where d[c] = k + scale * the squares around c; all (blocks, C, H W LANES).

    window = (back, ahead): how many channels it reaches on either side. power = d^β is kept for the backward pass.
    """
    blocks, C, size = x.shape
    back, ahead = window
    is_three_quarters = beta == x.dtype.type(0.75)
    for n in range(blocks):
        for c in range(C):
            x_c, z_c, d_c, power_c = x[n, c], z[n, c], d[n, c], power[n, c]
            for m in range(size):
                d_c[m] = k
            for other in range(max(0, c - back), min(C, c + ahead + 1)):
                x_other = x[n, index(other)]
                for m in range(size):
                    d_c[m] += scale * (x_other[m] * x_other[m])  # (local_response_norm.1)
            if is_three_quarters:
                for m in range(size):
                    root = math.sqrt(d_c[m])
                    power_c[m] = root * math.sqrt(root)
            else:
                for m in range(size):
                    power_c[m] = math.exp(beta * math.log(d_c[m]))
            for m in range(size):  # a loop of its own: 1 / √ in one step would be an estimate, and NaN for infinity
                z_c[m] = x_c[m] / power_c[m]  # (local_response_norm.2)


@kernel
def local_response_norm_backward(x, z, d, power, dL_dz, dL_dd, dL_dx, window, scale, beta):
    """dL/dx[c] = dL/dz[c] / d[c]^β + 2 scale x[c] * dL/dd of the channels whose windows hold c.

    dL_dd (C, H W LANES) has room for one block.
    """
    blocks, C, size = x.shape
    (back, ahead), twice, zero = window, scale + scale, x.dtype.type(0)
    for n in range(blocks):
        for c in range(C):
            z_c, d_c, dL_dz_c, dL_dd_c = z[n, c], d[n, c], dL_dz[n, c], dL_dd[c]
            for m in range(size):
                dL_dd_c[m] = -beta * dL_dz_c[m] * z_c[m] / d_c[m]  # (local_response_norm.3)
        for c in range(C):
            x_c, power_c, dL_dz_c, dL_dx_c = x[n, c], power[n, c], dL_dz[n, c], dL_dx[n, c]
            for m in range(size):
                dL_dx_c[m] = zero
            for other in range(max(0, c - ahead), min(C, c + back + 1)):
                dL_dd_other = dL_dd[index(other)]
                for m in range(size):
                    dL_dx_c[m] += dL_dd_other[m]
            for m in range(size):
                dL_dx_c[m] = dL_dz_c[m] / power_c[m] + twice * x_c[m] * dL_dx_c[m]  # (local_response_norm.6)


@cuda_kernel
def local_response_norm_forward_cuda(x, z, d, power, window, scale, beta, k):
    """z[c] = x[c] / d[c]^β, one thread for each number; all (blocks, C, H, W, WARP)."""
    C, W = x.shape[1], x.shape[3]
    n, c, h, q, v = position(C)
    back, ahead = window
    if q < W:
        total = k
        for other in range(max(0, c - back), min(C, c + ahead + 1)):
            total += scale * (x[n, other, h, q, v] * x[n, other, h, q, v])  # (local_response_norm.1)
        if beta == x.dtype.type(0.75):
            root = math.sqrt(total)
            raised = root * math.sqrt(root)
        else:
            raised = math.exp(beta * math.log(total))
        d[n, c, h, q, v] = total
        power[n, c, h, q, v] = raised
        z[n, c, h, q, v] = x[n, c, h, q, v] / raised  # (local_response_norm.2)


@cuda_kernel
def local_response_norm_divisor_gradient_cuda(z, d, dL_dz, beta, dL_dd):
    """dL/dd[c] = -β dL/dz[c] z[c] / d[c], one thread for each number, on flat arrays."""
    m = cuda.grid(1)
    if m < z.size:
        dL_dd[m] = -beta * dL_dz[m] * z[m] / d[m]  # (local_response_norm.3)


@cuda_kernel
def local_response_norm_backward_cuda(x, power, dL_dz, dL_dd, dL_dx, window, scale):
    """dL/dx[c] = dL/dz[c] / d[c]^β + 2 scale x[c] * dL/dd of the channels whose windows hold c, one thread for each."""
    C, W = x.shape[1], x.shape[3]
    n, c, h, q, v = position(C)
    back, ahead = window
    if q < W:
        total = x.dtype.type(0)
        for other in range(max(0, c - ahead), min(C, c + back + 1)):
            total += dL_dd[n, other, h, q, v]
        direct = dL_dz[n, c, h, q, v] / power[n, c, h, q, v]
        dL_dx[n, c, h, q, v] = direct + (scale + scale) * x[n, c, h, q, v] * total  # (local_response_norm.6)


class LocalResponseNorm(Layer):
    """Divide each value by a power of what the channels around it hold at the same pixel.

    Parameters
    ----------
    size : int
        Channels in a window; a window of even size reaches one channel further back than ahead.
    alpha : float
        Weight of the mean of the squares in the window, at least 0.
    beta : float
        The power, above 0.
    k : float
        What d is where all values are 0, above 0.
    name : str, optional

    Notes
    -----
    Input and output (N, C, H, W): z[c] = x[c] / d[c]^beta with d[c] = k + alpha / size * the sum of x² over the window,
    as in PyTorch. The paper on AlexNet does not divide alpha by the size: with its numbers k = 2, n = 5, alpha = 1e-4,
    beta = 0.75 the layer is ``LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)``.

    References
    ----------
    A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 3.3.

    Examples
    --------
    >>> from handgrad.engine import Input, LocalResponseNorm
    >>> LocalResponseNorm(5, alpha=5e-4, k=2)(Input((96, 55, 55))).shape
    (96, 55, 55)
    """

    kind = "lrn"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def __init__(
        self, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, name: str | None = None
    ):
        super().__init__(name)
        require_positive_integers(str(self), size=size)
        self.size = int(size)
        self.alpha = self._number("alpha", alpha, "a number from 0")
        self.beta = self._number("beta", beta, "a number above 0")
        self.k = self._number("k", k, "a number above 0")
        if -self.beta * math.log(self.k) > math.log(LARGEST) or self.k < 1 / LARGEST:
            raise ConfigurationError(
                f"{self}: k",
                got=f"{k!r} with beta {beta!r}",
                expected=f"at least {1 / LARGEST:g}, with k^(-beta) up to {LARGEST:g}",
                remedy="use a larger k or a smaller beta",
            )

    def _number(self, name: str, value: object, expected: str) -> float:
        fits = isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= LARGEST
        if not fits or (value == 0 and "above" in expected):
            raise ConfigurationError(f"{self}: {name}", got=repr(value), expected=f"{expected} up to {LARGEST:g}")
        return float(value)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return require_image(self, x_shape)

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for d, d^β and one block of dL/dd."""
        ((C, H, B),) = x_shapes
        shape = (blocks, C, H * B * LANES)
        return {"d": np.empty(shape, dtype), "power": np.empty(shape, dtype), "dL_dd": np.empty(shape[1:], dtype)}

    def scratch_one(self, x_shapes, dtype) -> dict[str, np.ndarray]:
        """Return room for d and d^β."""
        ((C, H, B),) = x_shapes
        return {"d": np.empty((1, C, H * B), dtype), "power": np.empty((1, C, H * B), dtype)}

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for d, d^β and dL/dd."""
        return {name: np.zeros((blocks, *x_shapes[0], WARP), dtype) for name in ("d", "power", "dL_dd")}

    def _window(self, C: int) -> tuple[int, int]:
        """Return how many channels a window reaches back and ahead; more than there are is the same as all."""
        return min(self.size // 2, C), min((self.size - 1) // 2, C)

    def forward(self, share: Share) -> None:
        """Compute z."""
        (x,), z, s, number = share.x, share.z, share.scratch, share.z.dtype.type
        shape, window = s["d"].shape, self._window(x.shape[1])
        scale, beta, k = number(self.alpha / self.size), number(self.beta), number(self.k)
        local_response_norm_forward(x.reshape(shape), z.reshape(shape), s["d"], s["power"], window, scale, beta, k)

    def backward(self, share: Share) -> None:
        """Compute dL/dx from dL/dz."""
        (x,), (dL_dx,), s, number = share.x, share.dL_dx, share.scratch, share.z.dtype.type
        if dL_dx is None:
            return
        shape, window = s["d"].shape, self._window(x.shape[1])
        x, z, dL_dz, dL_dx = (array.reshape(shape) for array in (x, share.z, share.dL_dz, dL_dx))
        scale, beta = number(self.alpha / self.size), number(self.beta)
        local_response_norm_backward(x, z, s["d"], s["power"], dL_dz, s["dL_dd"], dL_dx, window, scale, beta)

    def forward_cuda(self, share: Share) -> None:
        """Compute z."""
        (x,), s, number = share.x, share.scratch, share.z.dtype.type
        window = self._window(x.shape[1])
        scale, beta, k = number(self.alpha / self.size), number(self.beta), number(self.k)
        local_response_norm_forward_cuda[maps(x.shape)](x, share.z, s["d"], s["power"], window, scale, beta, k)

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dx from dL/dz."""
        (x,), (dL_dx,), dL_dz, s, number = share.x, share.dL_dx, share.dL_dz, share.scratch, share.z.dtype.type
        if dL_dx is None:
            return
        window = self._window(x.shape[1])
        scale, beta, dL_dd = number(self.alpha / self.size), number(self.beta), s["dL_dd"]
        local_response_norm_divisor_gradient_cuda[flat(x.size)](
            share.z.reshape(-1), s["d"].reshape(-1), dL_dz.reshape(-1), beta, dL_dd.reshape(-1)
        )
        local_response_norm_backward_cuda[maps(x.shape)](x, s["power"], dL_dz, dL_dd, dL_dx, window, scale)

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return size, alpha, beta and k."""
        return {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}

    def settings(self) -> dict[str, object]:
        """Return the hyper-parameters."""
        return self.literal_options()
