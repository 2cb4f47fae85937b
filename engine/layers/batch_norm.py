"""Batch normalization; equations in ``derivations/batch_norm.py``.

The one layer in which samples act on each other. Each worker sums over its own samples, the sums are added up over the
workers, and every worker goes on with the same mean and variance. Sums over STRETCH positions are taken in the dtype of
the network, lane by lane, and added up in float64: where many pixels are equal, all roundings have one sign, and longer
sums would lose three digits. Lanes without a sample do not count, and get no gradient. Both kinds of input are seen as
(blocks, C, K, LANES): K = H x W positions of an image, K = 1 for flat samples.

All of it is little arithmetic on much memory, and as fast as memory only in whole vectors. So the sums of the lanes
stay apart, those in float64 as well, until a channel has been seen; what is done to every number alone is a loop over
the map of a channel, (blocks, C, K LANES), which LLVM cuts into vectors itself; and an activation that follows is
applied, and gone back through, on the way.

A GPU takes two passes, the mean first and then the squares around it. A block of threads adds up a stretch of a block
of samples, and a second kernel the sums of all stretches. A thread adds few numbers, and its sum goes up a tree: no
sum is long, and none needs float64.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from ...derivations import batch_norm as derivation
from ..backend import LANES, copy_lanes, index, kernel, registers
from ..checks import ConfigurationError, ShapeError
from ..cuda import REDUCERS, WARP, add_up, cuda, cuda_kernel, device_function, flat, maps, position
from ..scalar import identity
from .layer import Layer, Shape, Share

TWO_ROWS = 2 * LANES
STRETCH = 64


@kernel(short_loops=True)
def channel_moments(x, samples, moments):
    """moments[0,c] = the mean of x over samples and positions, moments[1,c] = Σ (x - mean)², in one pass over memory.

    Each stretch of a lane is read twice while it is near, for its own mean and its squares around that, and added to
    those before it: two groups of m and n numbers whose means differ by d have d² m n / (m + n) more than the sum of
    their squares. In the end the lanes are joined: theirs are the squares around the mean of all, m d² more each.

    References
    ----------
    T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
    1979.
    """
    blocks, C, K, _ = x.shape
    acc, near = registers((LANES,), LANES, x), registers((LANES,), LANES, x)
    exact, own = registers((LANES,), LANES, moments), registers((LANES,), LANES, moments)
    mean, squares = registers((LANES,), LANES, moments), registers((LANES,), LANES, moments)
    for c in range(C):
        count, total, around = 0.0, 0.0, 0.0
        for v in range(LANES):
            mean[v] = squares[v] = 0
        for n in range(blocks):
            filled, x_c = min(LANES, samples - n * LANES), x[n, c]
            for first in range(0, K, STRETCH):
                stop = min(first + STRETCH, K)
                m = float(stop - first)
                for v in range(LANES):
                    acc[v] = 0
                for k in range(first, stop):
                    x_k = x_c[index(k)]
                    for v in range(LANES):
                        acc[v] += x_k[v]
                for v in range(LANES):
                    near[v] = acc[v] / m
                for v in range(LANES):
                    exact[v] = acc[v] / m
                    acc[v] = 0
                for k in range(first, stop):
                    x_k = x_c[index(k)]
                    for v in range(LANES):
                        deviation = x_k[v] - near[v]
                        acc[v] += deviation * deviation
                for v in range(LANES):  # around the exact mean they are smaller than around the rounded one
                    own[v] = acc[v] - m * (exact[v] - near[v]) ** 2
                between, step = m * count / (count + m), m / (count + m)
                for v in range(filled):  # the other lanes stay as they are
                    d = exact[v] - mean[v]
                    squares[v] += own[v] + d * d * between
                    mean[v] += d * step
                count += m
        for v in range(LANES):
            total += (samples + LANES - 1 - v) // LANES * mean[v]  # times the samples of this lane
        for v in range(LANES):
            d = mean[v] - total / samples
            around += squares[v] + (samples + LANES - 1 - v) // LANES * K * d * d
        moments[0, c] = total / samples
        moments[1, c] = around


@functools.cache
def forward_kernel(activation):
    """Return the kernel that also applies the activation which follows."""

    @kernel
    def batch_norm_forward(x, mean, inverse, gamma, beta, a):
        """a = activation(z), z = gamma x_hat + beta with x_hat = (x - mean) inverse, inverse = 1 / √(variance + eps).

        x and a are (blocks, C, K LANES); for a single sample that goes without lanes, (1, C, K).
        """
        blocks, C, size = x.shape
        zero, one = x.dtype.type(0), x.dtype.type(1)
        for n in range(blocks):
            for c in range(C):
                mean_c, inverse_c, gamma_c, beta_c = mean[c], inverse[c], gamma[c], beta[c]
                x_c, a_c = x[n, c], a[n, c]
                for k in range(size):
                    x_hat = (x_c[k] - mean_c) * inverse_c  # (batch_norm.3)
                    z = gamma_c * x_hat + beta_c  # (batch_norm.4)
                    a_c[k] = activation(z, zero, one)

    return batch_norm_forward


@functools.cache
def sums_kernel(gradient):
    """Return the kernel that first goes back through an activation with this gradient, or through none."""
    IS_ACTIVATED = gradient is not None

    @kernel(short_loops=True)
    def batch_norm_sums(x, a, upstream, samples, mean, inverse, sums):
        """sums[0,c] = Σ dL/dz and sums[1,c] = Σ dL/dz x_hat, over samples and positions.

        With an activation, whose value is a, the upstream gradient is dL/da, and replaced by dL/dz.
        """
        blocks, C, K, _ = x.shape
        zero, one = x.dtype.type(0), x.dtype.type(1)
        dL_dz, acc = registers((LANES,), LANES, x), registers((2, LANES), TWO_ROWS, x)
        total = registers((2, LANES), TWO_ROWS, sums)
        for c in range(C):
            mean_c, inverse_c = mean[c], inverse[c]
            for v in range(LANES):
                total[0, v] = total[1, v] = 0
            for n in range(blocks):
                x_c, a_c, upstream_c = x[n, c], a[n, c], upstream[n, c]
                for first in range(0, K, STRETCH):
                    for v in range(LANES):
                        acc[0, v] = acc[1, v] = 0
                    for k in range(first, min(first + STRETCH, K)):
                        x_k, a_k, upstream_k = x_c[index(k)], a_c[index(k)], upstream_c[index(k)]
                        if IS_ACTIVATED:
                            for v in range(LANES):
                                dL_dz[v] = gradient(a_k[v], upstream_k[v], zero, one)
                            copy_lanes(upstream_k, dL_dz)
                        else:
                            copy_lanes(dL_dz, upstream_k)
                        for v in range(LANES):
                            x_hat = (x_k[v] - mean_c) * inverse_c
                            acc[0, v] += dL_dz[v]  # (batch_norm.7)
                            acc[1, v] += dL_dz[v] * x_hat  # (batch_norm.8)
                    for v in range(LANES):
                        is_filled = n * LANES + v < samples
                        total[0, v] += acc[0, v] if is_filled else zero
                        total[1, v] += acc[1, v] if is_filled else zero
            sums[0, c] = sums[1, c] = 0
            for v in range(LANES):
                sums[0, c] += total[0, v]
                sums[1, c] += total[1, v]

    return batch_norm_sums


@kernel
def batch_norm_backward(x, dL_dz, samples, mean, inverse, gamma, means, dL_dx):
    """dL/dx = gamma inverse (dL/dz - means[0] - x_hat means[1]); means are the two sums divided by m.

    x, dL_dz and dL_dx are (blocks, C, K LANES).
    """
    blocks, C, size = x.shape
    for n in range(blocks):
        for c in range(C):
            mean_c, inverse_c, factor = mean[c], inverse[c], gamma[c] * inverse[c]
            mean_beta, mean_gamma = means[0, c], means[1, c]
            x_c, dL_dz_c, dL_dx_c = x[n, c], dL_dz[n, c], dL_dx[n, c]
            for k in range(size):
                x_hat = (x_c[k] - mean_c) * inverse_c
                dL_dx_c[k] = factor * (dL_dz_c[k] - mean_beta - x_hat * mean_gamma)  # (batch_norm.15)
            for v in range(samples - n * LANES, LANES):
                for k in range(v, size, LANES):
                    dL_dx_c[k] = 0


@kernel
def batch_norm_backward_fixed(dL_dz, inverse, gamma, dL_dx):
    """dL/dx = gamma inverse dL/dz, where the statistics are constants; both are (blocks, C, K LANES)."""
    blocks, C, size = dL_dz.shape
    for n in range(blocks):
        for c in range(C):
            factor, dL_dz_c, dL_dx_c = gamma[c] * inverse[c], dL_dz[n, c], dL_dx[n, c]
            for k in range(size):
                dL_dx_c[k] = factor * dL_dz_c[k]  # (batch_norm.18)


@device_function
def stretch(K):
    """Return which numbers a thread of a launch over ``_stretches`` adds up, and its own number in the block.

    They are x[n, c, k, v] with k from a first one up to an end, both returned, in steps of ``cuda.blockDim.y``.
    """
    first = cuda.blockIdx.z * STRETCH
    y, v = cuda.threadIdx.y, cuda.threadIdx.x
    return cuda.blockIdx.y, cuda.blockIdx.x, first + y, min(first + STRETCH, K), v, y * WARP + v


@device_function
def store_part(partial, thread, part):
    """Add up the numbers of a block's threads; part (C, parts) gets the sum."""
    add_up(partial, thread, REDUCERS)
    if thread == 0:
        part[cuda.blockIdx.x, cuda.blockIdx.y * cuda.gridDim.z + cuda.blockIdx.z] = partial[0]


@device_function
def sum_of_channel(part, partial):
    """Return the sum of all parts of the channel of this block of REDUCERS threads."""
    c, thread = cuda.blockIdx.x, cuda.threadIdx.x
    total = part.dtype.type(0)
    for m in range(thread, part.shape[1], REDUCERS):
        total += part[c, m]
    partial[thread] = total
    add_up(partial, thread, REDUCERS)
    return partial[0]


@cuda_kernel
def channel_sums_cuda(x, samples, parts):
    """parts[0,c] = Σ x, over the samples of a block and the positions of a stretch."""
    partial = cuda.shared.array(REDUCERS, x.dtype)
    n, c, first, stop, v, thread = stretch(x.shape[2])
    total = x.dtype.type(0)
    if n * WARP + v < samples:
        for k in range(first, stop, cuda.blockDim.y):
            total += x[n, c, k, v]
    partial[thread] = total
    store_part(partial, thread, parts[0])


@cuda_kernel
def channel_squares_cuda(x, samples, mean, parts):
    """parts[0,c] = Σ (x - mean)², over the samples of a block and the positions of a stretch."""
    partial = cuda.shared.array(REDUCERS, x.dtype)
    n, c, first, stop, v, thread = stretch(x.shape[2])
    total = x.dtype.type(0)
    if n * WARP + v < samples:
        for k in range(first, stop, cuda.blockDim.y):
            deviation = x[n, c, k, v] - mean[c]
            total += deviation * deviation
    partial[thread] = total
    store_part(partial, thread, parts[0])


@cuda_kernel
def channel_means_cuda(parts, m, old, new, running_mean, mean):
    """Set the mean of each channel and move its running mean, one block of threads for each."""
    partial = cuda.shared.array(REDUCERS, mean.dtype)
    total = sum_of_channel(parts[0], partial)
    c = cuda.blockIdx.x
    if cuda.threadIdx.x == 0:
        mean[c] = total / m  # (batch_norm.1)
        running_mean[c] = old * running_mean[c] + new * mean[c]  # (batch_norm.19)


@cuda_kernel
def channel_variances_cuda(parts, m, old, new, unbiased, eps, running_variance, inverse):
    """Set 1 / √(variance + eps) of each channel and move its running variance; unbiased = m / (m - 1)."""
    partial = cuda.shared.array(REDUCERS, inverse.dtype)
    squares = sum_of_channel(parts[0], partial)
    c = cuda.blockIdx.x
    if cuda.threadIdx.x == 0:
        variance = squares / m  # (batch_norm.2)
        inverse[c] = inverse.dtype.type(1) / math.sqrt(variance + eps)
        running_variance[c] = old * running_variance[c] + new * (unbiased * variance)  # (batch_norm.20)


@cuda_kernel
def take_running_cuda(running_mean, running_variance, eps, mean, inverse):
    """Take the running statistics in place of a mini-batch's, one thread for each channel."""
    c = cuda.grid(1)
    if c < mean.size:
        mean[c] = running_mean[c]
        inverse[c] = inverse.dtype.type(1) / math.sqrt(running_variance[c] + eps)


@cuda_kernel
def batch_norm_forward_cuda(x, mean, inverse, gamma, beta, z):
    """z = gamma x_hat + beta with x_hat = (x - mean) inverse, one thread for each number."""
    n, c, _, k, v = position(x.shape[1])
    if k < x.shape[2]:
        x_hat = (x[n, c, k, v] - mean[c]) * inverse[c]  # (batch_norm.3)
        z[n, c, k, v] = gamma[c] * x_hat + beta[c]  # (batch_norm.4)


@cuda_kernel
def batch_norm_sums_cuda(x, dL_dz, samples, mean, inverse, parts):
    """parts[0,c] = Σ dL/dz and parts[1,c] = Σ dL/dz x_hat, over a block's samples and a stretch's positions."""
    partial_beta = cuda.shared.array(REDUCERS, x.dtype)
    partial_gamma = cuda.shared.array(REDUCERS, x.dtype)
    n, c, first, stop, v, thread = stretch(x.shape[2])
    dL_dbeta = dL_dgamma = x.dtype.type(0)
    if n * WARP + v < samples:
        for k in range(first, stop, cuda.blockDim.y):
            x_hat = (x[n, c, k, v] - mean[c]) * inverse[c]
            dL_dbeta += dL_dz[n, c, k, v]  # (batch_norm.7)
            dL_dgamma += dL_dz[n, c, k, v] * x_hat  # (batch_norm.8)
    partial_beta[thread], partial_gamma[thread] = dL_dbeta, dL_dgamma
    store_part(partial_beta, thread, parts[0])
    store_part(partial_gamma, thread, parts[1])


@cuda_kernel
def batch_norm_gradients_cuda(parts, m, dL_dbeta, dL_dgamma, means):
    """Add up the parts of dL/dbeta and dL/dgamma, one block of threads for each channel; means = both sums / m."""
    partial_beta = cuda.shared.array(REDUCERS, dL_dbeta.dtype)
    partial_gamma = cuda.shared.array(REDUCERS, dL_dbeta.dtype)
    total_beta, total_gamma = sum_of_channel(parts[0], partial_beta), sum_of_channel(parts[1], partial_gamma)
    c = cuda.blockIdx.x
    if cuda.threadIdx.x == 0:
        dL_dbeta[c], dL_dgamma[c] = total_beta, total_gamma
        means[0, c], means[1, c] = total_beta / m, total_gamma / m


@cuda_kernel
def batch_norm_backward_cuda(x, dL_dz, samples, mean, inverse, gamma, means, dL_dx):
    """dL/dx = gamma inverse (dL/dz - means[0] - x_hat means[1]), one thread for each number."""
    n, c, _, k, v = position(x.shape[1])
    if k < x.shape[2]:
        factor = gamma[c] * inverse[c]
        x_hat = (x[n, c, k, v] - mean[c]) * inverse[c]
        dL_dx_v = factor * (dL_dz[n, c, k, v] - means[0, c] - x_hat * means[1, c])  # (batch_norm.15)
        dL_dx[n, c, k, v] = dL_dx_v if n * WARP + v < samples else x.dtype.type(0)


@cuda_kernel
def batch_norm_backward_fixed_cuda(dL_dz, inverse, gamma, dL_dx):
    """dL/dx = gamma inverse dL/dz, where the statistics are constants, one thread for each number."""
    n, c, _, k, v = position(dL_dz.shape[1])
    if k < dL_dz.shape[2]:
        dL_dx[n, c, k, v] = gamma[c] * inverse[c] * dL_dz[n, c, k, v]  # (batch_norm.18)


class BatchNorm(Layer):
    """Give every channel mean 0 and variance 1 over the mini-batch, then a learned scale and shift.

    Parameters
    ----------
    momentum : float
        Weight of the newest mini-batch in the running statistics, above 0 and up to 1.
    eps : float
        Added to the variance, above 0.
    name : str, optional

    Notes
    -----
    Input and output (N, F), normalized for each feature over the N samples, or (N, C, H, W), for each channel over all
    samples and positions. Parameters ``gamma`` (starting at 1) and ``beta`` (0), each (C,); statistics
    ``running_mean`` and ``running_variance``, which a forward pass in training moves towards the mini-batch and which
    are used in its place afterwards, where samples no longer act on each other.

    Conventions are PyTorch's: eps stands under the root; running = (1 - momentum) running + momentum newest, where
    Keras calls 1 - momentum the momentum; the variance that normalizes divides by m = N H W, and the one that is
    remembered by m - 1. Training therefore needs m of at least 2.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Examples
    --------
    >>> from handgrad.engine import BatchNorm, Input
    >>> BatchNorm()(Input((6, 28, 28))).shape
    (6, 28, 28)
    """

    kind = "batchnorm"
    derivation = derivation
    coupled = True
    takes_activation = True
    takes_one = True

    def __init__(self, *, momentum: float = 0.1, eps: float = 1e-5, name: str | None = None):
        super().__init__(name)
        for what, value, largest in (("momentum", momentum, 1), ("eps", eps, math.inf)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= largest:
                expected = "a number above 0" + (" up to 1" if largest == 1 else "")
                raise ConfigurationError(f"{self}: {what}", got=repr(value), expected=expected)
        self.momentum, self.eps = float(momentum), float(eps)
        self._positions = 1

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        if len(x_shape) not in (1, 3):
            raise ShapeError(
                str(self),
                got=f"an input of {' x '.join(map(str, x_shape))}",
                expected="flat samples, or images of channels x rows x columns",
            )
        return x_shape

    def settle(self, x_shape: Shape) -> None:
        """Remember how many positions share one mean."""
        self._positions = math.prod(x_shape[1:])

    def check_samples(self, samples: int) -> None:
        """Refuse to train on a single value per channel, whose variance says nothing."""
        if samples * self._positions < 2:
            raise ShapeError(
                str(self),
                got="a mini-batch of 1 sample in training, one value per feature",
                expected="at least 2",
                remedy="choose a batch size that leaves no mini-batch of a single sample",
            )

    def parameter_shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of gamma and beta."""
        return {"gamma": x_shape[:1], "beta": x_shape[:1]}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Start with the normalized values themselves."""
        parameters["gamma"][...] = 1
        parameters["beta"][...] = 0

    def statistics(self, x_shapes, dtype) -> dict[str, np.ndarray]:
        """Return running statistics that would leave the input as it is."""
        return {"running_mean": np.zeros(x_shapes[0][0], dtype), "running_variance": np.ones(x_shapes[0][0], dtype)}

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the mean and 1 / √(variance + eps) that normalized the mini-batch, and for sums."""
        C = x_shapes[0][0]
        return {"mean": np.zeros(C, dtype), "inverse": np.ones(C, dtype), "sums": np.zeros((2, C))}

    def scratch_one(self, x_shapes, dtype) -> dict[str, np.ndarray]:
        """Return room for the running mean and 1 / √(variance + eps)."""
        C = x_shapes[0][0]
        return {"mean": np.zeros(C, dtype), "inverse": np.ones(C, dtype)}

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the same two, for parts of two sums and for both sums divided by m."""
        C, parts = x_shapes[0][0], blocks * -(-math.prod(x_shapes[0][1:]) // STRETCH)
        shapes = {"mean": C, "inverse": C, "parts": (2, C, parts), "means": (2, C)}
        return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}

    def forward(self, share: Share) -> None:
        """Compute z, or what follows from it; in training from the mini-batch's statistics, which are remembered."""
        s, p = share.scratch, share.parameters
        if share.training:
            variance = self._look_at_batch(share, _by_channel(share.x[0]))
        else:
            s["mean"][:] = share.statistics["running_mean"]
            variance = share.statistics["running_variance"]
        s["inverse"][:] = 1 / np.sqrt(variance + self.eps)
        x, z = _maps(share.x[0]), _maps(share.z)
        batch_norm_forward = forward_kernel(identity if share.activation is None else share.activation.formulas[0])
        batch_norm_forward(x, s["mean"], s["inverse"], p["gamma"], p["beta"], z)

    def _look_at_batch(self, share: Share, x: np.ndarray) -> np.ndarray:
        """Set the mean and return the variance of the mini-batch; the first share moves the running statistics."""
        s, m, own = share.scratch, share.N * self._positions, share.samples * self._positions
        channel_moments(x, share.samples, s["sums"])
        own_mean, squares = s["sums"]
        total = own * own_mean
        share.all_reduce_sum(total)
        mean = total / m  # (batch_norm.1)
        s["mean"][:] = mean
        squares += own * (own_mean - mean) ** 2
        share.all_reduce_sum(squares)
        variance = squares / m  # (batch_norm.2)
        if share.first_sample == 0:
            old, new = 1 - self.momentum, self.momentum
            running_mean, running_variance = share.statistics["running_mean"], share.statistics["running_variance"]
            running_mean[:] = old * running_mean + new * mean  # (batch_norm.19)
            running_variance[:] = old * running_variance + new * (m / (m - 1) * variance)  # (batch_norm.20)
        return variance

    def backward(self, share: Share) -> None:
        """Compute the gradients of gamma, beta and x; in inference the statistics are constants.

        Where an activation follows, dL_dz arrives as dL/da and is replaced.
        """
        s, by_channel = share.scratch, [_by_channel(array) for array in (share.x[0], share.z, share.dL_dz)]
        mean, inverse, sums = s["mean"], s["inverse"], s["sums"]
        batch_norm_sums = sums_kernel(share.activation_gradient)
        batch_norm_sums(*by_channel, share.samples, mean, inverse, sums)
        share.gradients["beta"][:], share.gradients["gamma"][:] = sums
        if share.training:  # every worker takes part in the sum, whoever wants dL/dx
            share.all_reduce_sum(sums)
            sums /= share.N * self._positions
        if share.dL_dx[0] is None:
            return
        x, dL_dz, dL_dx = _maps(share.x[0]), _maps(share.dL_dz), _maps(share.dL_dx[0])
        gamma = share.parameters["gamma"]
        if share.training:
            batch_norm_backward(x, dL_dz, share.samples, mean, inverse, gamma, sums.astype(x.dtype), dL_dx)
        else:
            batch_norm_backward_fixed(dL_dz, inverse, gamma, dL_dx)

    def forward_cuda(self, share: Share) -> None:
        """Compute z; in training from the statistics of the mini-batch, and remember them."""
        x, z, s, p = _by_channel(share.x[0]), _by_channel(share.z), share.scratch, share.parameters
        if share.training:
            self._look_at_batch_cuda(share, x)
        else:
            running, eps = share.statistics, x.dtype.type(self.eps)
            take_running_cuda[flat(x.shape[1])](
                running["running_mean"], running["running_variance"], eps, s["mean"], s["inverse"]
            )
        batch_norm_forward_cuda[_numbers(x)](x, s["mean"], s["inverse"], p["gamma"], p["beta"], z)

    def _look_at_batch_cuda(self, share: Share, x) -> None:
        """Set the mean and 1 / √(variance + eps) of the mini-batch and move the running statistics."""
        s, m, number = share.scratch, share.N * self._positions, x.dtype.type
        channels, samples, parts = (x.shape[1], REDUCERS), share.samples, s["parts"]
        old, new, unbiased, eps = (
            number(1 - self.momentum),
            number(self.momentum),
            number(m / (m - 1)),
            number(self.eps),
        )
        running_mean, running_variance = share.statistics["running_mean"], share.statistics["running_variance"]
        channel_sums_cuda[_stretches(x)](x, samples, parts)
        channel_means_cuda[channels](parts, number(m), old, new, running_mean, s["mean"])
        channel_squares_cuda[_stretches(x)](x, samples, s["mean"], parts)
        channel_variances_cuda[channels](parts, number(m), old, new, unbiased, eps, running_variance, s["inverse"])

    def backward_cuda(self, share: Share) -> None:
        """Compute the gradients of gamma, beta and x; in inference the statistics are constants."""
        x, dL_dz, s, gamma = _by_channel(share.x[0]), _by_channel(share.dL_dz), share.scratch, share.parameters["gamma"]
        mean, inverse, samples = s["mean"], s["inverse"], share.samples
        dL_dbeta, dL_dgamma, m = share.gradients["beta"], share.gradients["gamma"], share.N * self._positions
        batch_norm_sums_cuda[_stretches(x)](x, dL_dz, samples, mean, inverse, s["parts"])
        batch_norm_gradients_cuda[x.shape[1], REDUCERS](s["parts"], x.dtype.type(m), dL_dbeta, dL_dgamma, s["means"])
        if share.dL_dx[0] is None:
            return
        dL_dx = _by_channel(share.dL_dx[0])
        if share.training:
            batch_norm_backward_cuda[_numbers(x)](x, dL_dz, samples, mean, inverse, gamma, s["means"], dL_dx)
        else:
            batch_norm_backward_fixed_cuda[_numbers(x)](dL_dz, inverse, gamma, dL_dx)

    def unused_equations(self, training: bool) -> set[str]:
        """Return what belongs to inference, or to training."""
        tags = (18,) if training else (1, 2, 15, 19, 20)
        return {f"batch_norm.{number}" for number in tags}

    def multiply_adds(self, x_shape: Shape) -> int:
        """Return one for each value, the scale and shift that are left in inference."""
        return math.prod(x_shape)

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return eps, and in inference the statistics that were used."""
        if share is None or share.training:
            return {"eps": self.eps}
        mean, variance = share.statistics["running_mean"], share.statistics["running_variance"]
        return {"eps": self.eps, "mean": mean.astype(object), "variance": variance.astype(object)}

    def settings(self) -> dict[str, object]:
        """Return momentum and eps."""
        return {"momentum": self.momentum, "eps": self.eps}


def _by_channel(x: np.ndarray) -> np.ndarray:
    """Return an array in lane layout as (blocks, C, positions, LANES)."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _maps(x: np.ndarray) -> np.ndarray:
    """Return an array in lane layout as (blocks, C, positions LANES)."""
    return x.reshape(*x.shape[:2], -1)


def _numbers(x) -> tuple:
    """Return grid and block of a kernel with one thread for each number of (blocks, C, K, WARP)."""
    blocks, C, K, _ = x.shape
    return maps((blocks, C, 1, K, WARP))


def _stretches(x) -> tuple:
    """Return grid and block of a kernel in which each block of threads sees a stretch of a channel of a block."""
    blocks, C, K, _ = x.shape
    return (C, blocks, -(-K // STRETCH)), (WARP, REDUCERS // WARP)
