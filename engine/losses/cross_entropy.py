"""Cross entropy of probabilities; equations in ``derivations/cross_entropy.py``.

The kernels of a training validate nothing. But for probabilities the loss is a number that is not negative, so where it
comes out as something else, the output is looked at, and an error says what is missing.
"""

from __future__ import annotations

import math

import numpy as np

from ...derivations import cross_entropy as derivation
from ..backend import LANES, kernel
from ..cuda import WARP, cuda, cuda_kernel
from .loss import Loss, check_labels, check_probabilities, pack_labels

REMEDY = "put a Softmax before this loss, or better use SoftmaxCrossEntropy without one"


@kernel
def cross_entropy(p, label, samples, N, dL_dp):
    """Return Σ over the samples of -log p[label]; fill dL/dp = -1 / (N p) at the label and 0 elsewhere.

    p and dL_dp (blocks, K, LANES), label (blocks, LANES). For p = 0 log p is -100 and 1/p is 1e12.
    """
    blocks, K, lanes = p.shape
    zero, one = p.dtype.type(0), p.dtype.type(1)
    lowest, steepest = p.dtype.type(-100), p.dtype.type(1e12)
    loss = 0.0
    for n in range(blocks):
        for k in range(K):
            for v in range(LANES):
                dL_dp[n, k, v] = zero
        for v in range(lanes):
            if n * lanes + v < samples:
                chosen = p[n, label[n, v], v]
                loss -= lowest if chosen == zero else math.log(chosen)  # (cross_entropy.1)
                inverse = one / chosen
                if math.isinf(inverse):  # of 0, and of numbers so small that 1/p has no floating-point number
                    inverse = steepest
                dL_dp[n, label[n, v], v] = -inverse / N  # (cross_entropy.2)
    return loss


@cuda_kernel
def cross_entropy_cuda(p, label, samples, N, dL_dp, losses):
    """Fill the loss of each sample and dL/dp, one thread for each sample; constants as in cross_entropy.

    p and dL_dp (blocks, K, WARP), label and losses (blocks, WARP).
    """
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, one = p.dtype.type(0), p.dtype.type(1)
    lowest, steepest = p.dtype.type(-100), p.dtype.type(1e12)
    for k in range(p.shape[1]):
        dL_dp[n, k, v] = zero
    loss = zero
    if n * WARP + v < samples:
        chosen = p[n, label[n, v], v]
        loss = -(lowest if chosen == zero else math.log(chosen))  # (cross_entropy.1)
        inverse = one / chosen
        if math.isinf(inverse):
            inverse = steepest
        dL_dp[n, label[n, v], v] = -inverse / N  # (cross_entropy.2)
    losses[n, v] = loss


class CrossEntropy(Loss):
    """Mean over the mini-batch of -log p[label], where p are the probabilities that the network gives.

    Raises
    ------
    ConfigurationError
        When it is called with an output that is no probability; in a training, when the loss comes out NaN or negative
        for that reason.

    Notes
    -----
    Output (N, K), probabilities, as a Softmax layer gives them; target: N integer labels from 0 to K - 1, or one-hot
    rows (N, K). The gradient is -1 / (N p) for the true class and 0 for all others, so through the softmax it becomes
    (p - t) / N. PyTorch's counterpart is ``NLLLoss`` of the logarithm.

    Where the true class has p = 0, log p is taken as -100, PyTorch's floor in its binary cross entropy, and 1/p as
    1e12, so that training can go on; 1/p is also taken as 1e12 where it exceeds the largest floating-point number (p
    below 3e-39 in float32, 6e-309 in float64). Everywhere else nothing is clipped.

    For training ``SoftmaxCrossEntropy`` on the logits is better: there nothing underflows to 0 and nothing cancels, and
    a sample that is utterly wrong keeps its full gradient, which here vanishes (see the derivation).

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import CrossEntropy
    >>> L, dL_dp = CrossEntropy()(np.array([[0.25, 0.75]]), np.array([0]))
    >>> round(L, 4), dL_dp.tolist()
    (1.3863, [[-4.0, 0.0]])
    """

    kind = "cross_entropy"
    derivation = derivation

    def __call__(self, z: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss of a mini-batch of probabilities and its gradient; see :class:`Loss`."""
        check_probabilities(self, z, REMEDY)
        return super().__call__(z, target)

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return integer labels (N,) from labels or one-hot rows."""
        return check_labels(self, target, z_shape)

    def pack_target(self, target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
        """Return labels as (blocks, LANES)."""
        return pack_labels(target, blocks)

    def decisions(self, z: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return where a probability is above 0; the logarithm ends there."""
        return z > 0

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Compute the summed loss and its gradient."""
        L[0] = cross_entropy(z, target, samples, z.dtype.type(N), dL_dz)
        if not L[0] >= 0:
            check_probabilities(self, z, REMEDY)

    def check_output(self, z: np.ndarray) -> None:
        """Raise a ConfigurationError when an output is no probability."""
        check_probabilities(self, z, REMEDY)

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Compute the losses and their gradient; whether p were probabilities, the caller has to look."""
        cross_entropy_cuda[losses.shape](z, target, samples, z.dtype.type(N), dL_dz, losses)
