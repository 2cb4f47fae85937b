"""Heaviside's step function; equations in ``derivations/step.py``.

Each surrogate has a kernel of its own; none is used unless a layer was built with it.
"""

from __future__ import annotations

import math

import numpy as np

from ...derivations import step as derivation
from ..backend import kernel, scalar
from ..checks import ConfigurationError
from ..cuda import cuda, cuda_kernel, flat
from .elementwise import Elementwise
from .layer import Share


@scalar
def step(z, zero, one):
    """Return 1 where z is at least 0, and 0 below; NaN stays NaN."""
    return one if z >= zero else zero if z < zero else z  # (step.1)


@scalar
def sigmoid_gradient(z, dL_da, zero, one):
    """Return dL/dz as if the step were a sigmoid; e = exp(-|z|) cannot overflow."""
    e = math.exp(-abs(z))
    return dL_da * e / ((one + e) * (one + e))  # (step.6)


@scalar
def triangle_gradient(z, dL_da, zero, one):
    """Return dL/dz as if the step were a ramp of two parabolas."""
    distance = abs(z)
    return dL_da * (zero if distance > one else one - distance)  # (step.7)


@kernel
def step_forward(z, a):
    """Fill a from z, on flat arrays."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for k in range(z.size):
        a[k] = step(z[k], zero, one)


@kernel
def step_backward(z, dL_da, dL_dz):
    """Fill dL/dz with its value, 0."""
    zero = z.dtype.type(0)
    for k in range(dL_dz.size):
        dL_dz[k] = zero  # (step.3)


@kernel
def straight_through(z, dL_da, dL_dz):
    """Fill dL/dz as if there were no step."""
    for k in range(dL_dz.size):
        dL_dz[k] = dL_da[k]  # (step.5)


@kernel
def sigmoid_slope(z, dL_da, dL_dz):
    """Fill dL/dz as if the step were a sigmoid."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for k in range(dL_dz.size):
        dL_dz[k] = sigmoid_gradient(z[k], dL_da[k], zero, one)


@kernel
def triangle_slope(z, dL_da, dL_dz):
    """Fill dL/dz as if the step were a ramp."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for k in range(dL_dz.size):
        dL_dz[k] = triangle_gradient(z[k], dL_da[k], zero, one)


@cuda_kernel
def step_forward_cuda(z, a):
    """Fill a from z, one thread for each number."""
    k = cuda.grid(1)
    if k < z.size:
        a[k] = step(z[k], z.dtype.type(0), z.dtype.type(1))


@cuda_kernel
def step_backward_cuda(z, dL_da, dL_dz):
    """Fill dL/dz with its value, 0."""
    k = cuda.grid(1)
    if k < dL_dz.size:
        dL_dz[k] = z.dtype.type(0)  # (step.3)


@cuda_kernel
def straight_through_cuda(z, dL_da, dL_dz):
    """Fill dL/dz as if there were no step."""
    k = cuda.grid(1)
    if k < dL_dz.size:
        dL_dz[k] = dL_da[k]  # (step.5)


@cuda_kernel
def sigmoid_slope_cuda(z, dL_da, dL_dz):
    """Fill dL/dz as if the step were a sigmoid."""
    k = cuda.grid(1)
    if k < dL_dz.size:
        dL_dz[k] = sigmoid_gradient(z[k], dL_da[k], z.dtype.type(0), z.dtype.type(1))


@cuda_kernel
def triangle_slope_cuda(z, dL_da, dL_dz):
    """Fill dL/dz as if the step were a ramp."""
    k = cuda.grid(1)
    if k < dL_dz.size:
        dL_dz[k] = triangle_gradient(z[k], dL_da[k], z.dtype.type(0), z.dtype.type(1))


BACKWARD = {
    None: (step_backward, step_backward_cuda),
    "straight-through": (straight_through, straight_through_cuda),
    "sigmoid": (sigmoid_slope, sigmoid_slope_cuda),
    "triangle": (triangle_slope, triangle_slope_cuda),
}


class Step(Elementwise):
    """Fire or not: a = 1 where z is at least 0, and 0 elsewhere.

    Parameters
    ----------
    surrogate : "straight-through", "sigmoid" or "triangle", optional
        What stands in for the derivative in the backward pass. Without one dL/dz is what it is: 0.
    name : str, optional

    Raises
    ------
    ConfigurationError
        When there is no such surrogate.

    Notes
    -----
    Any input shape. At z = 0 the step is 1; NaN stays NaN. The derivative is 0 on both sides of the jump, so nothing
    before this layer learns.

    A surrogate is NOT the derivative, and finite differences disagree with it. It multiplies dL/da by 1
    ("straight-through"), by σ(z) (1 - σ(z)) ("sigmoid") or by max(0, 1 - |z|) ("triangle").

    References
    ----------
    Y. Bengio, N. Léonard, A. Courville, "Estimating or propagating gradients through stochastic neurons for conditional
    computation", 2013, for the straight-through estimator.

    Examples
    --------
    >>> from handgrad.engine import Step
    >>> Step().is_surrogate, Step("triangle").is_surrogate
    (False, True)
    """

    kind = "step"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def __init__(self, surrogate: str | None = None, *, name: str | None = None):
        super().__init__(name)
        if not (surrogate is None or isinstance(surrogate, str)) or surrogate not in BACKWARD:
            known = ", ".join(f"'{choice}'" for choice in derivation.SURROGATES)
            raise ConfigurationError(f"{self}: surrogate", got=repr(surrogate), expected=f"None or one of {known}")
        self.surrogate = surrogate

    @property
    def is_surrogate(self) -> bool:
        """Whether the backward pass gives something else than the derivative."""
        return self.surrogate is not None

    def forward(self, share: Share) -> None:
        """Compute a."""
        step_forward(share.x[0].reshape(-1), share.z.reshape(-1))

    def backward(self, share: Share) -> None:
        """Set dL/dz to 0, or to what the surrogate makes of dL/da."""
        if share.dL_dx[0] is not None:
            z, dL_da, dL_dz = share.x[0], share.dL_dz, share.dL_dx[0]
            backward, _ = BACKWARD[self.surrogate]
            backward(z.reshape(-1), dL_da.reshape(-1), dL_dz.reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Compute a."""
        step_forward_cuda[flat(share.z.size)](share.x[0].reshape(-1), share.z.reshape(-1))

    def backward_cuda(self, share: Share) -> None:
        """Set dL/dz to 0, or to what the surrogate makes of dL/da."""
        if share.dL_dx[0] is not None:
            z, dL_da, dL_dz = share.x[0], share.dL_dz, share.dL_dx[0]
            _, backward = BACKWARD[self.surrogate]
            backward[flat(z.size)](z.reshape(-1), dL_da.reshape(-1), dL_dz.reshape(-1))

    def unused_equations(self, training: bool) -> set[str]:
        """Return the gradients of the other surrogates, or of all."""
        used = {None: 3, "straight-through": 5, "sigmoid": 6, "triangle": 7}[self.surrogate]
        return {f"step.{number}" for number in (3, 5, 6, 7) if number != used}

    def decisions(self, share: Share) -> np.ndarray:
        """Return which values fire."""
        return share.x[0] >= 0

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return the surrogate."""
        return {"surrogate": self.surrogate}

    def settings(self) -> dict[str, object]:
        """Return the surrogate; None means the derivative itself."""
        return {"surrogate": self.surrogate}
