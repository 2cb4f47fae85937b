"""Binary cross entropy, of probabilities or of logits; equations in ``derivations/binary_cross_entropy.py``.

The kernels of a training validate nothing. But for probabilities the loss is a number that is not negative, so where it
comes out as something else, the output is looked at, and an error says what is missing.
"""

from __future__ import annotations

import math

import numpy as np

from ...derivations import binary_cross_entropy as derivation
from ..backend import LANES, kernel
from ..checks import ConfigurationError, ShapeError
from ..cuda import WARP, cuda, cuda_kernel
from .loss import Loss, check_binary, check_probabilities, check_values, pack_values

REMEDY = "put a Sigmoid before this loss, or better use BinaryCrossEntropy(logits=True) without one"


@kernel
def binary_cross_entropy(p, target, samples, N, dL_dp):
    """Return the sum over the samples of -Σ (t log p + (1 - t) log(1 - p)) / K; fill dL/dp; all (blocks, K, LANES).

    For p = 0 log p is -100, for p = 1 log(1 - p) is, and for both p (1 - p), as a denominator, is 1e-12.
    """
    blocks, K, lanes = p.shape
    zero, one, size = p.dtype.type(0), p.dtype.type(1), p.dtype.type(K)
    lowest, flattest = p.dtype.type(-100), p.dtype.type(1e-12)
    NK = N * size
    loss = 0.0
    for n in range(blocks):
        for k in range(K):
            for v in range(lanes):
                if n * lanes + v < samples:
                    chance, t = p[n, k, v], target[n, k, v]
                    log_p = lowest if chance == zero else math.log(chance)
                    log_rest = lowest if chance == one else math.log1p(-chance)
                    loss -= (t * log_p + (one - t) * log_rest) / size  # (binary_cross_entropy.1)
                    slope = chance * (one - chance)
                    if math.isinf(one / slope):  # 0, or so small that 1/slope has no floating-point number
                        slope = flattest
                    dL_dp[n, k, v] = (chance - t) / slope / NK  # (binary_cross_entropy.3)
                else:
                    dL_dp[n, k, v] = zero
    return loss


@kernel
def binary_cross_entropy_of_logits(z, target, samples, N, dL_dz):
    """Return the sum over the samples of Σ (max(z, 0) - z t + log(1 + exp(-|z|))) / K; fill dL/dz = (p - t) / (N K)."""
    blocks, K, lanes = z.shape
    zero, one, size = z.dtype.type(0), z.dtype.type(1), z.dtype.type(K)
    NK = N * size
    loss = 0.0
    for n in range(blocks):
        for k in range(K):
            for v in range(lanes):
                if n * lanes + v < samples:
                    logit, t = z[n, k, v], target[n, k, v]
                    e = math.exp(-abs(logit))
                    # max(z, 0) - z t without a difference, in which fast arithmetic could lose the logarithm
                    surplus = logit * (one - t) if logit >= zero else -logit * t
                    loss += (surplus + math.log1p(e)) / size  # (binary_cross_entropy.8)
                    p = (one if logit >= zero else e) / (one + e)
                    dL_dz[n, k, v] = (p - t) / NK  # (binary_cross_entropy.10)
                else:
                    dL_dz[n, k, v] = zero
    return loss


@cuda_kernel
def binary_cross_entropy_cuda(p, target, samples, N, size, dL_dp, losses):
    """Fill the loss of each sample and dL/dp, one thread for each sample; constants as in binary_cross_entropy.

    All but losses (blocks, K, WARP); size is K.
    """
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, one = p.dtype.type(0), p.dtype.type(1)
    lowest, flattest = p.dtype.type(-100), p.dtype.type(1e-12)
    NK = N * size
    loss = zero
    for k in range(p.shape[1]):
        if n * WARP + v < samples:
            chance, t = p[n, k, v], target[n, k, v]
            log_p = lowest if chance == zero else math.log(chance)
            log_rest = lowest if chance == one else math.log1p(-chance)
            loss -= (t * log_p + (one - t) * log_rest) / size  # (binary_cross_entropy.1)
            slope = chance * (one - chance)
            if math.isinf(one / slope):
                slope = flattest
            dL_dp[n, k, v] = (chance - t) / slope / NK  # (binary_cross_entropy.3)
        else:
            dL_dp[n, k, v] = zero
    losses[n, v] = loss


@cuda_kernel
def binary_cross_entropy_of_logits_cuda(z, target, samples, N, size, dL_dz, losses):
    """Fill the loss of each sample and dL/dz, one thread for each sample.

    All but losses (blocks, K, WARP); size is K.
    """
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, one = z.dtype.type(0), z.dtype.type(1)
    NK = N * size
    loss = zero
    for k in range(z.shape[1]):
        if n * WARP + v < samples:
            logit, t = z[n, k, v], target[n, k, v]
            e = math.exp(-abs(logit))
            surplus = logit * (one - t) if logit >= zero else -logit * t
            loss += (surplus + math.log1p(e)) / size  # (binary_cross_entropy.8)
            p = (one if logit >= zero else e) / (one + e)
            dL_dz[n, k, v] = (p - t) / NK  # (binary_cross_entropy.10)
        else:
            dL_dz[n, k, v] = zero
    losses[n, v] = loss


class BinaryCrossEntropy(Loss):
    """Mean over all elements of -(t log p + (1 - t) log(1 - p)): every output is a yes-or-no question of its own.

    Parameters
    ----------
    logits : bool
        False: the outputs are probabilities p, as a Sigmoid layer gives them. True: they are the numbers z before the
        sigmoid, p = 1 / (1 + exp(-z)), and the network ends without a Sigmoid. For training, True is better: nothing
        underflows, and a completely wrong answer keeps its full gradient.

    Raises
    ------
    ConfigurationError
        When it is called with an output that is no probability; in a training, when the loss comes out NaN or negative
        for that reason.

    Notes
    -----
    Output and target (N, ...) of one shape, targets from 0 to 1: soft ones are allowed. Integer labels (N,) for an
    output (N, K) count as one-hot rows, and labels (N,) of 0 and 1 are right for an output (N, 1). The mean is taken
    over the N K elements, as in PyTorch. The gradient of an element is (p - t) / (p (1 - p) N K) with respect to p and
    (p - t) / (N K) with respect to z.

    At p = 0 log p, and at p = 1 log(1 - p), is taken as -100, and the denominator p (1 - p) as 1e-12, so that training
    can go on; the latter also where its inverse exceeds the largest floating-point number. Everywhere else nothing is
    clipped. PyTorch has the same floors, but clips every p (1 - p) below 1e-12 and every logarithm below -100.

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import BinaryCrossEntropy
    >>> L, dL_dp = BinaryCrossEntropy()(np.array([[0.75], [0.5]]), np.array([1, 0]))
    >>> round(L, 4), dL_dp.round(4).tolist()
    (0.4904, [[-0.6667], [1.0]])
    >>> L, dL_dz = BinaryCrossEntropy(logits=True)(np.array([[np.log(3)], [0.0]]), np.array([1, 0]))
    >>> round(L, 4), dL_dz.round(4).tolist()
    (0.4904, [[-0.125], [0.25]])
    """

    kind = "binary_cross_entropy"
    derivation = derivation

    def __init__(self, *, logits: bool = False):
        if not isinstance(logits, bool):
            raise ConfigurationError("BinaryCrossEntropy: logits", got=repr(logits), expected="True or False")
        self.logits = logits

    def literal_options(self) -> dict[str, object]:
        """Return whether the outputs are logits."""
        return {"logits": self.logits}

    def __call__(self, z: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss of a mini-batch and its gradient; see :class:`Loss`."""
        if not self.logits:
            check_probabilities(self, z, REMEDY)
        return super().__call__(z, target)

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return the target, of the output's shape, from values or labels."""
        target = np.asarray(target)
        if target.ndim == 1 and len(z_shape) == 2 and z_shape[1] == 1:
            return check_binary(self, target, z_shape)
        target = check_values(self, target, z_shape)
        right = (target >= 0) & (target <= 1)
        if not right.all():
            raise ShapeError(
                "BinaryCrossEntropy: target", got=str(target[~right][0]), expected="values from 0 to 1 (1 for yes)"
            )
        return target

    def pack_target(self, target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
        """Return the target as (blocks, ..., LANES)."""
        return pack_values(target, blocks, dtype)

    def unused_equations(self, z_shape: tuple[int, ...]) -> set[str]:
        """Return those of probabilities, or of logits."""
        return {f"binary_cross_entropy.{number}" for number in ((1, 3) if self.logits else (8, 10))}

    def decisions(self, z: np.ndarray, target: np.ndarray) -> np.ndarray | None:
        """Return where a probability lies between 0 and 1, beyond which a logarithm ends; None for logits."""
        return None if self.logits else (z > 0) & (z < 1)

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Compute the summed loss and its gradient."""
        flat = (len(z), -1, LANES)
        function = binary_cross_entropy_of_logits if self.logits else binary_cross_entropy
        L[0] = function(z.reshape(flat), target.reshape(flat), samples, z.dtype.type(N), dL_dz.reshape(flat))
        if not (self.logits or L[0] >= 0):
            check_probabilities(self, z, REMEDY)

    def check_output(self, z: np.ndarray) -> None:
        """Raise a ConfigurationError when an output is no probability."""
        if not self.logits:
            check_probabilities(self, z, REMEDY)

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Compute the losses and their gradient; whether p were probabilities, the caller has to look."""
        flat, number = (len(z), -1, WARP), z.dtype.type
        N, K = number(N), number(z.size // losses.size)
        function = binary_cross_entropy_of_logits_cuda if self.logits else binary_cross_entropy_cuda
        function[losses.shape](z.reshape(flat), target.reshape(flat), samples, N, K, dL_dz.reshape(flat), losses)
