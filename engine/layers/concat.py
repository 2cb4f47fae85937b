"""Concat: the channels of several inputs one after another, as in Inception; equations in ``derivations/concat.py``.

In lane layout the channels of a sample lie one after another, so each input is one stretch of the output's memory, and
the kernels copy stretches, (blocks, values of a sample * LANES), on a GPU with WARP lanes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...derivations import concat as derivation
from ..backend import index, kernel
from ..checks import ShapeError
from ..cuda import cuda, cuda_kernel, flat
from .layer import Layer, Shape, Share


@kernel
def concat_forward(x, z, start):
    """Copy one input to its stretch of z, which begins at start."""
    blocks, size = x.shape
    for n in range(blocks):
        for k in range(size):
            z[n, index(start + k)] = x[n, k]  # (concat.3)


@kernel
def concat_backward(dL_dz, dL_dx, start):
    """Copy one input's stretch of dL/dz."""
    blocks, size = dL_dx.shape
    for n in range(blocks):
        for k in range(size):
            dL_dx[n, k] = dL_dz[n, index(start + k)]  # (concat.5)


@cuda_kernel
def concat_forward_cuda(x, z, start):
    """Copy one input to its stretch of z, one thread for each number."""
    n, k = cuda.blockIdx.y, cuda.grid(1)
    if k < x.shape[1]:
        z[n, start + k] = x[n, k]  # (concat.3)


@cuda_kernel
def concat_backward_cuda(dL_dz, dL_dx, start):
    """Copy one input's stretch of dL/dz, one thread for each number."""
    n, k = cuda.blockIdx.y, cuda.grid(1)
    if k < dL_dx.shape[1]:
        dL_dx[n, k] = dL_dz[n, start + k]  # (concat.5)


class Concat(Layer):
    """Put the channels of two or more images one after another, or the features of flat inputs.

    Raises
    ------
    ShapeError
        When images differ in rows or columns, or an image meets a flat input.

    Notes
    -----
    Inputs (N, C_m, H, W), output (N, C_1 + ... + C_M, H, W); or (N, C_m) and (N, C_1 + ... + C_M). PyTorch's
    ``torch.cat(..., dim=1)``.

    References
    ----------
    C. Szegedy et al., "Going Deeper with Convolutions", 2015.

    Examples
    --------
    >>> from handgrad.engine import Concat, Input
    >>> Concat()(Input((64, 28, 28)), Input((128, 28, 28)), Input((32, 28, 28))).shape
    (224, 28, 28)
    """

    kind = "concat"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    inputs = None

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """Return (O, H, W), or (O,) for flat inputs."""
        first = x_shapes[0]
        for shape in x_shapes:
            if len(shape) != len(first):
                raise ShapeError(
                    str(self),
                    got=f"inputs of {' x '.join(map(str, first))} and {' x '.join(map(str, shape))}",
                    expected="all images or all flat",
                    remedy="put a Flatten before the images",
                )
            if shape[1:] != first[1:]:
                raise ShapeError(
                    str(self),
                    got=f"inputs of {' x '.join(map(str, first))} and {' x '.join(map(str, shape))}",
                    expected="the same rows and columns",
                )
        O = sum(shape[0] for shape in x_shapes)  # (concat.1)
        return O, *first[1:]

    def forward(self, share: Share) -> None:
        """Copy every input to its place."""
        blocks = len(share.z)
        for x, start in zip(share.x, self.starts(share), strict=True):
            concat_forward(x.reshape(blocks, -1), share.z.reshape(blocks, -1), start)

    def backward(self, share: Share) -> None:
        """Cut the gradient apart."""
        blocks = len(share.dL_dz)
        for dL_dx, start in zip(share.dL_dx, self.starts(share), strict=True):
            if dL_dx is not None:
                concat_backward(share.dL_dz.reshape(blocks, -1), dL_dx.reshape(blocks, -1), start)

    def forward_cuda(self, share: Share) -> None:
        """Copy every input to its place."""
        blocks = len(share.z)
        for x, start in zip(share.x, self.starts(share), strict=True):
            concat_forward_cuda[stretch_of(x)](x.reshape(blocks, -1), share.z.reshape(blocks, -1), start)

    def backward_cuda(self, share: Share) -> None:
        """Cut the gradient apart."""
        blocks = len(share.dL_dz)
        for dL_dx, start in zip(share.dL_dx, self.starts(share), strict=True):
            if dL_dx is not None:
                dL_dz = share.dL_dz.reshape(blocks, -1)
                concat_backward_cuda[stretch_of(dL_dx)](dL_dz, dL_dx.reshape(blocks, -1), start)

    def starts(self, share: Share) -> Iterator[int]:
        """Yield where each input's numbers begin in one block of z."""
        o, numbers = 0, math.prod(share.z.shape[2:])  # of one channel, in all lanes
        for x in share.x:
            yield o * numbers
            o += x.shape[1]  # (concat.2)


def stretch_of(x) -> tuple:
    """Return grid and block of a kernel with one thread for each number of x, each block of samples by itself."""
    grid, block = flat(x.size // x.shape[0])
    return (grid, x.shape[0]), block
