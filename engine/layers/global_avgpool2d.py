"""Global average pooling; equations in ``derivations/global_avgpool2d.py``.

Each row is added up by itself before it goes into the total, so that rounding grows with H + W instead of H W.
"""

from __future__ import annotations

from ...derivations import global_avgpool2d as derivation
from ..backend import LANES, kernel, registers
from ..cuda import cuda_kernel, maps, position
from .layer import Layer, Shape, Share, require_image


@kernel
def global_avgpool2d_forward(x, z):
    """z = the mean of each channel; x (blocks, C, H, W, LANES), z (blocks, C, LANES)."""
    blocks, C, H, B, _ = x.shape
    zero, area = x.dtype.type(0), x.dtype.type(H * B)
    total, row = registers((LANES,), LANES, x), registers((LANES,), LANES, x)
    for n in range(blocks):
        for c in range(C):
            for v in range(LANES):
                total[v] = zero
            for a in range(H):
                for v in range(LANES):
                    row[v] = zero
                for b in range(B):
                    for v in range(LANES):
                        row[v] += x[n, c, a, b, v]
                for v in range(LANES):
                    total[v] += row[v]
            for v in range(LANES):
                z[n, c, v] = total[v] / area  # (global_avgpool2d.1)


@kernel
def global_avgpool2d_backward(dL_dz, dL_dx):
    """dL/dx = dL/dz / (H W) for every pixel of the channel; dL_dx (blocks, C, H W, LANES).

    The first pixel is copied to all others. Its lanes are all read before they are written, so that both are one step.
    """
    blocks, C, pixels, _ = dL_dx.shape
    area = dL_dz.dtype.type(pixels)
    first = registers((LANES,), LANES, dL_dz)
    for n in range(blocks):
        for c in range(C):
            for v in range(LANES):
                dL_dx[n, c, 0, v] = dL_dz[n, c, v] / area  # (global_avgpool2d.3)
            for k in range(1, pixels):
                for v in range(LANES):
                    first[v] = dL_dx[n, c, 0, v]
                for v in range(LANES):
                    dL_dx[n, c, k, v] = first[v]


@cuda_kernel
def global_avgpool2d_forward_cuda(x, z, area):
    """z = the mean of each channel, one thread for each channel of each sample."""
    _, C, H, B, _ = x.shape
    n, c, _, _, v = position(C)
    zero = x.dtype.type(0)
    total = zero
    for a in range(H):
        row = zero
        for b in range(B):
            row += x[n, c, a, b, v]
        total += row
    z[n, c, v] = total / area  # (global_avgpool2d.1)


@cuda_kernel
def global_avgpool2d_backward_cuda(dL_dz, dL_dx, area):
    """dL/dx = dL/dz / (H W), one thread for each pixel."""
    n, c, a, b, v = position(dL_dx.shape[1])
    if b < dL_dx.shape[3]:
        dL_dx[n, c, a, b, v] = dL_dz[n, c, v] / area  # (global_avgpool2d.3)


class GlobalAvgPool2D(Layer):
    """Replace each channel by its mean, and so an image by a column.

    Notes
    -----
    Input (N, C, H, W), output (N, C), as in Keras.

    References
    ----------
    M. Lin, Q. Chen, S. Yan, "Network In Network", 2014.

    Examples
    --------
    >>> from handgrad.engine import GlobalAvgPool2D, Input
    >>> GlobalAvgPool2D()(Input((1024, 7, 7))).shape
    (1024,)
    """

    kind = "globalavgpool"
    derivation = derivation
    kernels_alone = True

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (C,)."""
        return require_image(self, x_shape)[:1]

    def forward(self, share: Share) -> None:
        """Compute z."""
        global_avgpool2d_forward(share.x[0], share.z)

    def backward(self, share: Share) -> None:
        """Spread each gradient evenly over its channel."""
        (dL_dx,) = share.dL_dx
        if dL_dx is not None:
            blocks, C, H, B, lanes = dL_dx.shape
            global_avgpool2d_backward(share.dL_dz, dL_dx.reshape(blocks, C, H * B, lanes))

    def forward_cuda(self, share: Share) -> None:
        """Compute z."""
        (x,) = share.x
        blocks, C, H, B, lanes = x.shape
        global_avgpool2d_forward_cuda[maps((blocks, C, 1, 1, lanes))](x, share.z, x.dtype.type(H * B))

    def backward_cuda(self, share: Share) -> None:
        """Spread each gradient evenly over its channel."""
        (dL_dx,) = share.dL_dx
        if dL_dx is not None:
            _, _, H, B, _ = dL_dx.shape
            global_avgpool2d_backward_cuda[maps(dL_dx.shape)](share.dL_dz, dL_dx, dL_dx.dtype.type(H * B))
