"""Transposed convolution layer; equations in ``derivations/conv_transpose2d.py``.

Ladder: the literal loops of the derivation, then the tiles of ``conv2d.py``, which need no second version: this layer
is the transpose of the convolution that reads images of the shape of z and writes maps of the shape of x. Of that
mirrored convolution the input gradient is our forward pass, the forward pass our input gradient, and the weight
gradient ours with x and dL/dz exchanged. W has the shape of its weights already, with C as the number of its filters.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...derivations import conv_transpose2d as derivation
from .. import initializers
from ..backend import kernel
from ..checks import ConfigurationError, ShapeError, require_positive_integers
from ..cuda import cuda_kernel, maps, position
from .conv2d import (
    bias_gradient_cuda,
    conv2d_bias_gradient,
    correlate,
    correlate_cuda,
    input_gradient,
    input_gradient_cuda,
    pack_for_cuda,
    pack_weights,
    weight_gradient,
    weight_gradient_cuda,
)
from .correlation import Correlation, parts_for
from .layer import Layer, Shape, Share, require_image
from .window import offset_steps, pair_of_integers, parse_padding


@kernel
def add_bias(b, z):
    """Add b[o] to every position of filter o; z (blocks, O, P Q LANES)."""
    blocks, O, size = z.shape
    for n in range(blocks):
        for o in range(O):
            plane, b_o = z[n, o], b[o]
            for m in range(size):
                plane[m] += b_o  # (conv_transpose2d.3)


@cuda_kernel
def add_bias_cuda(b, z):
    """Add b[o] to every position of filter o, one thread for each."""
    n, o, h, q, v = position(z.shape[1])
    if q < z.shape[3]:
        z[n, o, h, q, v] += b[o]  # (conv_transpose2d.3)


class ConvTranspose2D(Layer):
    """Transposed convolution: every pixel lays a learned kernel, times its value, onto a larger image.

    Parameters
    ----------
    filters : int
        Number of output channels O.
    kernel_size : int or (rows, columns)
    stride : int or (rows, columns)
        Distance of the kernels of neighbouring pixels: the factor by which the image grows.
    padding : "valid", "same", int, (rows, columns) or (top, bottom, left, right)
        Rows and columns that are cut off the output. "same" makes the output H * stride rows, as in Keras; where the
        number of rows to cut is odd, the extra one is below or to the right.
    output_padding : int or (rows, columns)
        Rows and columns by which the output is longer, below and to the right, less than the stride: an image of any of
        ``stride`` sizes is convolved to one size, and this says which of them comes back. Not with "same".
    dilation : int or (rows, columns)
        Distance between the positions that a kernel writes.
    groups : int
        The channels and filters are cut into so many groups that do not see each other.
    initializer : callable, optional
        How W starts, from ``handgrad.engine.initializers``; the biases start at 0.
    name : str, optional

    Notes
    -----
    Input (N, C, H, W), output (N, O, P, Q) with P = (H - 1) s - 2p + d (f - 1) + 1 + output_padding; parameters ``W``
    (C, O / groups, rows, columns) and ``b`` (O,), as in PyTorch. A position that no kernel reaches holds b.

    References
    ----------
    V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, chapter 4.

    Examples
    --------
    >>> from handgrad.engine import ConvTranspose2D, Input
    >>> ConvTranspose2D(21, 4, stride=2, padding=1)(Input((32, 14, 14))).shape
    (21, 28, 28)
    >>> ConvTranspose2D(21, 3, stride=2, padding="same")(Input((32, 14, 14))).shape
    (21, 28, 28)
    """

    kind = "convtranspose"
    derivation = derivation
    kernels_alone = True
    passing: ClassVar[dict[str, str]] = {"weight_sums": "planes", "planes": "planes"}

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        initializer=initializers.he,
        name: str | None = None,
    ):
        super().__init__(name)
        require_positive_integers(str(self), filters=filters, groups=groups)
        self.filters, self.groups, self.initializer = filters, groups, initializer
        self.kernel_size = pair_of_integers(self, "kernel_size", kernel_size)
        self.stride = pair_of_integers(self, "stride", stride)
        self.dilation = pair_of_integers(self, "dilation", dilation)
        self.output_padding = pair_of_integers(self, "output_padding", output_padding, minimum=0)
        self.padding = padding
        self._sides = parse_padding(self, padding, (1, 1), (1, 1), (1, 1), (1, 1))  # checked here, used when built
        self._longer = self.output_padding
        if filters % groups:
            raise ConfigurationError(
                f"{self}: filters", got=f"{filters} in {groups} groups", expected="a multiple of groups"
            )
        limit = (1, 1) if padding == "same" else self.stride
        if any(r >= s for r, s in zip(self.output_padding, limit, strict=True)):
            expected = '0 with padding "same"' if padding == "same" else f"less than the stride {self.stride}"
            raise ConfigurationError(f"{self}: output_padding", got=repr(output_padding), expected=expected)

    def _border(self, x_shape: Shape) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """Return the padding of every side, and the rows and columns by which the output is longer."""
        whole = [n * s for n, s in zip(x_shape[1:], self.stride, strict=True)]
        sides = parse_padding(self, self.padding, whole, self.kernel_size, self.stride, self.dilation)
        if self.padding != "same":
            return sides, self.output_padding
        reach = [d * (f - 1) + 1 for f, d in zip(self.kernel_size, self.dilation, strict=True)]
        return sides, tuple(max(0, s - n) for s, n in zip(self.stride, reach, strict=True))

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (O, P, Q)."""
        C, H, B = require_image(self, x_shape)
        if C % self.groups:
            raise ShapeError(str(self), got=f"{C} channels", expected=f"a multiple of its {self.groups} groups")
        sides, (rh, rw) = self._border(x_shape)
        (fh, fw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        P = (H - 1) * sh + dh * (fh - 1) + 1 - sides[0] - sides[1] + rh  # (conv_transpose2d.2)
        Q = (B - 1) * sw + dw * (fw - 1) + 1 - sides[2] - sides[3] + rw  # (conv_transpose2d.2)
        if P < 1 or Q < 1:
            raise ShapeError(
                str(self),
                got=f"an output of {P} x {Q} for an image of {H} x {B} with padding {sides}",
                expected="at least 1 x 1",
                remedy="use less padding, or a larger kernel or stride",
            )
        return self.filters, P, Q

    def settle(self, x_shape: Shape) -> None:
        """Fix the padding of every side, and with it all sizes."""
        self._sides, self._longer = self._border(x_shape)
        sizes = self.kernel_size, self.stride, self._sides, self.dilation, self.groups
        self._mirrored = Correlation(self.output_shape(x_shape), x_shape, *sizes)

    def parameter_shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of W and b."""
        return {"W": (x_shape[0], self.filters // self.groups, *self.kernel_size), "b": (self.filters,)}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Draw W; every so many weights of a line reach one output, and one input reaches O/G fh fw."""
        C, O_g, fh, fw = parameters["W"].shape
        steps = [offset_steps(s, d)[0] for s, d in zip(self.stride, self.dilation, strict=True)]
        fan_in = C // self.groups * -(-fh // steps[0]) * -(-fw // steps[1])
        parameters["W"][...] = self.initializer(rng, (C, O_g, fh, fw), fan_in, O_g * fh * fw)
        parameters["b"][...] = 0

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return what the mirrored convolution needs, and a bias of zeros."""
        return {"no_bias": np.zeros(x_shapes[0][0], dtype), **self._mirrored.scratch(blocks, dtype)}

    def forward(self, share: Share) -> None:
        """Compute z: the input gradient of the mirrored convolution, plus the bias."""
        (x,), z, s = share.x, share.z, share.scratch
        pack_weights(share.parameters["W"], self.groups, s["by_output"], s["by_input"])
        input_gradient(self._mirrored, x, z, s)  # (conv_transpose2d.3)
        add_bias(share.parameters["b"], z.reshape(*z.shape[:2], -1))

    def backward(self, share: Share) -> None:
        """Compute the gradients of W, b and, where it is wanted, x, the last by the mirrored convolution itself."""
        (x,), (dL_dx,), dL_dz, scratch = share.x, share.dL_dx, share.dL_dz, share.scratch
        weight_gradient(self._mirrored, dL_dz, x, share.gradients["W"], scratch)  # (conv_transpose2d.10)
        conv2d_bias_gradient(dL_dz.reshape(*dL_dz.shape[:2], -1), share.gradients["b"])  # (conv_transpose2d.11)
        if dL_dx is not None:
            correlate(self._mirrored, dL_dz, scratch["no_bias"], dL_dx, scratch)  # (conv_transpose2d.7)

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return what the mirrored convolution needs, a bias of zeros, and room for parts of sums."""
        return {
            **self._mirrored.scratch_cuda(blocks, dtype),
            "no_bias_of_x": np.zeros(x_shapes[0][0], dtype),
            "bias_parts": parts_for(self.filters, blocks, self._mirrored.x_shape, dtype),
        }

    def forward_cuda(self, share: Share) -> None:
        """Compute z: the input gradient of the mirrored convolution, plus the bias."""
        (x,), z, W, scratch = share.x, share.z, share.parameters["W"], share.scratch
        pack_for_cuda(self._mirrored, W, scratch)
        input_gradient_cuda(self._mirrored, W, x, z, scratch)  # (conv_transpose2d.3)
        add_bias_cuda[maps(z.shape)](share.parameters["b"], z)

    def backward_cuda(self, share: Share) -> None:
        """Compute the gradients of W, b and, where it is wanted, x, the last by the mirrored convolution itself."""
        (x,), (dL_dx,), dL_dz, scratch = share.x, share.dL_dx, share.dL_dz, share.scratch
        weight_gradient_cuda(self._mirrored, dL_dz, x, share.gradients["W"], scratch)  # (conv_transpose2d.10)
        bias_gradient_cuda(dL_dz, share.gradients["b"], scratch)  # (conv_transpose2d.11)
        if dL_dx is not None:
            W, no_bias = share.parameters["W"], scratch["no_bias_of_x"]
            correlate_cuda(self._mirrored, dL_dz, W, no_bias, dL_dx, scratch)  # (conv_transpose2d.7)

    def multiply_adds(self, x_shape: Shape) -> int:
        """Return C H W O/G fh fw, what is cut off counted as if it were kept."""
        C, H, B = x_shape
        return C * H * B * self.filters // self.groups * self.kernel_size[0] * self.kernel_size[1]

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return stride, padding, output padding, dilation and groups."""
        return {
            "stride": self.stride,
            "padding": self._sides,
            "output_padding": self._longer,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def settings(self) -> dict[str, object]:
        """Return the hyper-parameters, the padding as (top, bottom, left, right)."""
        return {"filters": self.filters, "kernel_size": self.kernel_size, **self.literal_options()}
