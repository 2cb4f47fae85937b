"""Global max pooling; equations in ``derivations/global_maxpool2d.py``.

The forward pass remembers which pixel of each channel won, and the backward pass sends the gradient there. A NaN wins
against every number and is not beaten by one. The kernels see a channel as one line of pixels, (blocks, C, H W, LANES).

Ladder: pixel by pixel, the compiler compares lane after lane; four pixels in one go for each lane let 16 lanes go side
by side, 10 times as fast.
"""

from __future__ import annotations

import numpy as np

from ...derivations import global_maxpool2d as derivation
from ..backend import LANES, index, kernel, registers
from ..cuda import WARP, cuda_kernel, maps, position
from .layer import Layer, Shape, Share, require_image

STEP = 4  # pixels that are compared in one go


@kernel
def global_maxpool2d_forward(x, z, winner):
    """z = the largest value of each channel; winner = its place, a * W + b, the first one if several are equal.

    The last step may look at the last pixel more than once, which changes nothing.
    """
    blocks, C, pixels, _ = x.shape
    best, best_place = registers((LANES,), LANES, x), registers((LANES,), LANES, winner)
    for n in range(blocks):
        for c in range(C):
            for v in range(LANES):
                best[v], best_place[v] = x[n, c, 0, v], np.int32(0)
            for first in range(0, pixels, STEP):
                for v in range(LANES):
                    largest, place = best[v], best_place[v]
                    for i in range(STEP):
                        k = min(first + i, pixels - 1)
                        value = x[n, c, index(k), v]
                        if value > largest or value != value:
                            largest, place = value, np.int32(k)
                    best[v], best_place[v] = largest, place
            for v in range(LANES):
                z[n, c, v] = best[v]  # (global_maxpool2d.1)
                winner[n, c, v] = best_place[v]


@kernel
def global_maxpool2d_backward(dL_dz, winner, dL_dx):
    """dL/dx = dL/dz for the winner of each channel, 0 for the others."""
    blocks, C, _, _ = dL_dx.shape
    zero = dL_dz.dtype.type(0)
    for n in range(blocks):
        for c in range(C):
            channel = dL_dx[n, c].reshape(-1)
            for k in range(channel.size):
                channel[k] = zero
            for v in range(LANES):
                dL_dx[n, c, index(winner[n, c, v]), v] = dL_dz[n, c, v]  # (global_maxpool2d.3)


@cuda_kernel
def global_maxpool2d_forward_cuda(x, z, winner):
    """z = the largest value of each channel, winner = its place; one thread for each channel of each sample."""
    _, C, pixels, _ = x.shape
    n, c, _, _, v = position(C)
    best, place = x[n, c, 0, v], 0
    for k in range(pixels):
        value = x[n, c, k, v]
        if value > best or value != value:
            best, place = value, k
    z[n, c, v] = best  # (global_maxpool2d.1)
    winner[n, c, v] = place


@cuda_kernel
def global_maxpool2d_backward_cuda(dL_dz, winner, dL_dx):
    """dL/dx = dL/dz for the winner of each channel, 0 for the others; one thread for each pixel."""
    _, C, _, B, _ = dL_dx.shape
    n, c, a, b, v = position(C)
    if b < B:
        is_winner = winner[n, c, v] == a * B + b
        dL_dx[n, c, a, b, v] = dL_dz[n, c, v] if is_winner else dL_dz.dtype.type(0)  # (global_maxpool2d.3)


def in_lines(image: np.ndarray) -> np.ndarray:
    """Return the same memory as (blocks, C, H W, LANES)."""
    blocks, C, H, B, lanes = image.shape
    return image.reshape(blocks, C, H * B, lanes)


class GlobalMaxPool2D(Layer):
    """Replace each channel by its largest value, and so an image by a column.

    Notes
    -----
    Input (N, C, H, W), output (N, C), as in Keras. Of equal values the first in row-major order wins; NaN wins against
    every number, and of several NaN the last one gets the gradient, all as in PyTorch.

    Examples
    --------
    >>> from handgrad.engine import GlobalMaxPool2D, Input
    >>> GlobalMaxPool2D()(Input((512, 7, 7))).shape
    (512,)
    """

    kind = "globalmaxpool"
    derivation = derivation
    kernels_alone = True

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (C,)."""
        return require_image(self, x_shape)[:1]

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the winners' places."""
        return {"winner": np.zeros((blocks, *self.output_shape(*x_shapes), LANES), np.int32)}

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the winners' places."""
        return {"winner": np.zeros((blocks, *self.output_shape(*x_shapes), WARP), np.int32)}

    def forward(self, share: Share) -> None:
        """Compute z and the winners."""
        global_maxpool2d_forward(in_lines(share.x[0]), share.z, share.scratch["winner"])

    def backward(self, share: Share) -> None:
        """Send each gradient to the winner of its channel."""
        if share.dL_dx[0] is not None:
            global_maxpool2d_backward(share.dL_dz, share.scratch["winner"], in_lines(share.dL_dx[0]))

    def forward_cuda(self, share: Share) -> None:
        """Compute z and the winners."""
        blocks, C, lanes = share.z.shape
        x, winner = in_lines(share.x[0]), share.scratch["winner"]
        global_maxpool2d_forward_cuda[maps((blocks, C, 1, 1, lanes))](x, share.z, winner)

    def backward_cuda(self, share: Share) -> None:
        """Send each gradient to the winner of its channel."""
        (dL_dx,) = share.dL_dx
        if dL_dx is not None:
            global_maxpool2d_backward_cuda[maps(dL_dx.shape)](share.dL_dz, share.scratch["winner"], dL_dx)

    def decisions(self, share: Share) -> np.ndarray:
        """Return the winners."""
        return share.scratch["winner"]
