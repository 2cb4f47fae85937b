"""Dropout: switch off random values in training; equations in ``derivations/dropout.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import dropout as derivation
from ..arrays import copy_into, unpack
from ..backend import LANES, kernel
from ..checks import ConfigurationError
from ..cuda import WARP, copy_into_cuda, cuda, cuda_kernel, flat
from ..scalar import random_bits
from .layer import Layer, Shape, Share


@kernel
def draw_mask(mask, key, first_sample, threshold):
    """mask = 0 with probability threshold / 2³², else 1; mask (blocks, size, LANES).

    The random bits depend on the key, the sample and the position alone, not on which worker draws them.
    """
    blocks, size, lanes = mask.shape
    for n in range(blocks):
        for k in range(size):
            for v in range(lanes):
                sample = np.uint64(first_sample + n * lanes + v)
                mask[n, k, v] = random_bits(key, sample * np.uint64(size) + np.uint64(k)) >= threshold


@kernel
def dropout_forward(x, mask, keep, z):
    """z = mask x / keep, on flat arrays; keep = 1 - rate."""
    for k in range(x.size):
        z[k] = mask[k] * x[k] / keep  # (dropout.1)


@kernel
def dropout_backward(dL_dz, mask, keep, dL_dx):
    """dL/dx = mask dL/dz / keep, on flat arrays."""
    for k in range(dL_dz.size):
        dL_dx[k] = mask[k] * dL_dz[k] / keep  # (dropout.3)


@cuda_kernel
def draw_mask_cuda(mask, key, threshold):
    """mask = 0 with probability threshold / 2³², else 1, one thread for each number; key is an array of one number."""
    size = mask.shape[1]
    n, m = cuda.blockIdx.y, cuda.grid(1)
    k, v = m // WARP, m % WARP
    if k < size:
        sample = np.uint64(n * WARP + v)
        mask[n, k, v] = random_bits(key[0], sample * np.uint64(size) + np.uint64(k)) >= threshold


@cuda_kernel
def dropout_forward_cuda(x, mask, keep, z):
    """z = mask x / keep, one thread for each number; keep = 1 - rate."""
    k = cuda.grid(1)
    if k < x.size:
        z[k] = mask[k] * x[k] / keep  # (dropout.1)


@cuda_kernel
def dropout_backward_cuda(dL_dz, mask, keep, dL_dx):
    """dL/dx = mask dL/dz / keep, one thread for each number."""
    k = cuda.grid(1)
    if k < dL_dz.size:
        dL_dx[k] = mask[k] * dL_dz[k] / keep  # (dropout.3)


class Dropout(Layer):
    """Set values to 0 at random in training and scale the others up; do nothing afterwards.

    Parameters
    ----------
    rate : float
        Probability that a value is dropped, from 0 up to but not including 1.
    name : str, optional

    Notes
    -----
    Any input shape. Inverted scaling: what is kept is divided by 1 - rate, so that the expected value of the output
    is the input and nothing needs scaling later, as in PyTorch.

    References
    ----------
    N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
    """

    kind = "dropout"
    derivation = derivation
    random = True
    takes_one = True
    kernels_alone_one = True

    def __init__(self, rate: float, *, name: str | None = None):
        super().__init__(name)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise ConfigurationError(f"{self}: rate", got=repr(rate), expected="a number from 0 up to below 1")
        self.rate = float(rate)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return x_shape

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the mask."""
        return {"mask": np.ones((blocks, *x_shapes[0], LANES), dtype)}

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the mask."""
        return {"mask": np.ones((blocks, *x_shapes[0], WARP), dtype)}

    def forward(self, share: Share) -> None:
        """Draw a mask and apply it; in inference the mask is all ones and nothing is scaled."""
        (x,), z = share.x, share.z
        if not share.training:
            z[...] = x
            return
        mask = share.scratch["mask"]
        by_position = mask.reshape(len(mask), -1, LANES)
        draw_mask(by_position, np.uint64(share.draw), share.first_sample, np.uint32(self.rate * 2**32))
        dropout_forward(x.reshape(-1), mask.reshape(-1), x.dtype.type(1 - self.rate), z.reshape(-1))

    def forward_one(self, share: Share) -> None:
        """Copy x to z."""
        copy_into(share.z.reshape(-1), share.x[0].reshape(-1))

    def backward(self, share: Share) -> None:
        """Pass the gradient where the value was kept."""
        (dL_dx,), dL_dz, mask = share.dL_dx, share.dL_dz, share.scratch["mask"]
        if dL_dx is None:
            return
        if not share.training:
            dL_dx[...] = dL_dz
            return
        keep = dL_dz.dtype.type(1 - self.rate)
        dropout_backward(dL_dz.reshape(-1), mask.reshape(-1), keep, dL_dx.reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Draw a mask and apply it; in inference the values pass unchanged."""
        x, z, mask = share.x[0].reshape(-1), share.z.reshape(-1), share.scratch["mask"]
        if not share.training:
            copy_into_cuda[flat(z.size)](z, x)
            return
        by_position = mask.reshape(mask.shape[0], -1, WARP)
        per_block, threads = flat(by_position.shape[1] * WARP)
        draw_mask_cuda[(per_block, mask.shape[0]), threads](by_position, share.draw, np.uint32(self.rate * 2**32))
        dropout_forward_cuda[flat(z.size)](x, mask.reshape(-1), x.dtype.type(1 - self.rate), z)

    def backward_cuda(self, share: Share) -> None:
        """Pass the gradient where the value was kept."""
        if share.dL_dx[0] is None:
            return
        dL_dx, dL_dz, mask = share.dL_dx[0].reshape(-1), share.dL_dz.reshape(-1), share.scratch["mask"].reshape(-1)
        if not share.training:
            copy_into_cuda[flat(dL_dx.size)](dL_dx, dL_dz)
            return
        dropout_backward_cuda[flat(dL_dx.size)](dL_dz, mask, dL_dz.dtype.type(1 - self.rate), dL_dx)

    def unused_equations(self, training: bool) -> set[str]:
        """Return everything in inference, where values pass unchanged."""
        return set() if training else {"dropout.1", "dropout.3"}

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return the rate and the mask of one sample: as drawn in training, all ones and rate 0 in inference."""
        if share is None or not share.training:
            shape = () if share is None else share.z.shape[1:-1]
            return {"mask": np.ones(shape, dtype=object), "rate": 0}
        mask = unpack(share.scratch["mask"], sample + 1)[sample]
        return {"mask": mask.astype(int).astype(object), "rate": self.rate}

    def settings(self) -> dict[str, object]:
        """Return the rate."""
        return {"rate": self.rate}
