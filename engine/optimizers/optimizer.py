"""What every optimiser promises: it moves parameters along their gradients and remembers what it needs for that.

Floor 2. All parameters of a network lie in one flat array, so one call updates a whole network, and each worker can
update its own stretch of it.
"""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

import numpy as np

from ..checks import ConfigurationError, ShapeError

STATE_NAME = "network"  # under which the state of a whole network is kept


class Optimizer:
    """Base of all optimisers.

    Parameters
    ----------
    learning_rate : float
        Positive; may be changed between steps.

    Attributes
    ----------
    state : dict of str to dict of str to numpy.ndarray
        For each name that was updated, the arrays that the optimiser keeps beside the parameter.
    steps : dict of str to int
        For each name, how often it was updated.
    current : dict of str to numpy.ndarray
        For each name, the constants of its current step, always in the same array.
    """

    kind: ClassVar[str]
    derivation: ClassVar[ModuleType]
    state_names: ClassVar[tuple[str, ...]] = ()
    # whether update_stretch only calls kernels; every class has to state it itself, because a derived one may do more
    kernels_alone: ClassVar[bool] = False

    def __init__(self, learning_rate: float):
        self.learning_rate = positive_number(type(self).__name__, "learning_rate", learning_rate)
        self.state: dict[str, dict[str, np.ndarray]] = {}
        self.steps: dict[str, int] = {}
        self.current: dict[str, np.ndarray] = {}

    def update(self, name: str, parameter: np.ndarray, gradient: np.ndarray) -> None:
        """Move one parameter array in place.

        Parameters
        ----------
        name : str
            Under which the state of this parameter is kept.
        parameter, gradient : numpy.ndarray
            Of one shape; C-contiguous.

        Raises
        ------
        ShapeError
            When the shapes differ, or change between calls.
        """
        if parameter.shape != gradient.shape:
            raise ShapeError(
                f"{type(self).__name__}: gradient of '{name}'", got=str(gradient.shape), expected=str(parameter.shape)
            )
        if parameter.dtype not in (np.float32, np.float64):
            raise ShapeError(
                f"{type(self).__name__}: '{name}'", got=str(parameter.dtype), expected="float32 or float64"
            )
        if not parameter.flags.c_contiguous:
            raise ShapeError(f"{type(self).__name__}: '{name}'", got="a strided view", expected="a C-contiguous array")
        theta = parameter.reshape(-1)
        self.begin_step(name, theta)
        g = np.ascontiguousarray(gradient, dtype=parameter.dtype).reshape(-1)
        self.update_stretch(name, theta, g, slice(0, theta.size))

    def step(self, network) -> None:
        """Move all parameters of a network along the gradients of its last backward pass.

        Parameters
        ----------
        network : Network
        """
        self.update(STATE_NAME, network.theta, network.dL_dtheta)

    def begin_step(self, name: str, theta: np.ndarray) -> None:
        """Count one step of a parameter, make its state when it is new, and get its constants ready."""
        if name not in self.state:
            self.state[name] = {part: np.zeros_like(theta) for part in self.state_names}
            self.steps[name] = 0
        for part in self.state[name].values():
            if part.shape != theta.shape or part.dtype != theta.dtype:
                raise ShapeError(
                    f"{type(self).__name__}: '{name}'",
                    got=f"{theta.size} {theta.dtype} parameters",
                    expected=f"{part.size} {part.dtype}, as in the step before",
                )
        self.steps[name] += 1
        constants = self.constants(name, theta.dtype.type)
        if name not in self.current or self.current[name].dtype != theta.dtype:
            self.current[name] = np.zeros(len(constants), theta.dtype)
        self.current[name][:] = constants

    def update_stretch(self, name: str, theta: np.ndarray, g: np.ndarray, stretch: slice) -> None:
        """Move ``theta[stretch]``, flat, by a kernel that gets its numbers from ``current``.

        ``begin_step`` has been called for this step. Workers call it at the same time for stretches that do not
        overlap.
        """
        raise NotImplementedError

    def constants(self, name: str, number: type) -> tuple:
        """Return what the update of a parameter needs beside arrays in its current step, as numbers of one type."""
        raise NotImplementedError

    def update_cuda(self, theta, g, state: dict, constants) -> None:
        """Move theta by a CUDA kernel; all arrays are flat and on the GPU, constants are those of ``constants``."""
        raise NotImplementedError

    def settings(self) -> dict[str, float]:
        """Return the hyper-parameters."""
        return {"learning_rate": self.learning_rate}


def positive_number(what: str, name: str, value: float) -> float:
    """Return a positive finite number as a float, or raise a ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 < value < float("inf"):
        raise ConfigurationError(f"{what}: {name}", got=repr(value), expected="a positive number")
    return float(value)


def fraction(what: str, name: str, value: float) -> float:
    """Return a number from 0 up to below 1 as a float, or raise a ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 <= value < 1:
        raise ConfigurationError(f"{what}: {name}", got=repr(value), expected="a number from 0 up to below 1")
    return float(value)
