"""Errors that a user can mend: one line that says what is wrong, what was given, what was expected, what helps.

Floor 0: imports nothing but the standard library, so that every part of the project can raise them.
"""

from __future__ import annotations

from numbers import Integral


class HandgradError(Exception):
    """Base of every expected error; the command line prints it as one line, without a traceback.

    Parameters
    ----------
    what : str
        The thing that is wrong, named as the user knows it: a layer, a file, an option.
    got : str, optional
        What was given.
    expected : str, optional
        What would have been right.
    remedy : str, optional
        What the user can do about it.

    Examples
    --------
    >>> print(ShapeError("Dense 'fc1'", got="256 features", expected="400 (from 16 x 5 x 5)"))
    Dense 'fc1': got 256 features, expected 400 (from 16 x 5 x 5)
    """

    exit_code = 1

    def __init__(self, what: str, *, got: str = "", expected: str = "", remedy: str = ""):
        self.what, self.got, self.expected, self.remedy = what, got, expected, remedy
        comparison = ", ".join(
            part for part in (f"got {got}" if got else "", f"expected {expected}" if expected else "") if part
        )
        message = f"{what}: {comparison}" if comparison else what
        super().__init__(f"{message}; {remedy}" if remedy else message)


class ShapeError(HandgradError, ValueError):
    """An array or a layer has a shape that does not fit."""

    exit_code = 2


class ConfigurationError(HandgradError, ValueError):
    """An option, a name or a combination of them has no meaning."""

    exit_code = 2


class DataError(HandgradError):
    """A data set, an image, a run folder or a checkpoint is missing, damaged or unusable."""

    exit_code = 3


class DeviceError(HandgradError, RuntimeError):
    """The device that was asked for is not there or cannot be used."""

    exit_code = 4


class TrainingDiverged(HandgradError, ArithmeticError):
    """The loss of a training is no longer a finite number."""

    exit_code = 1


def require_positive_integers(what: str, **values: object) -> None:
    """Raise ConfigurationError unless every value is an integer of at least 1.

    Parameters
    ----------
    what : str
        The layer or option that the values belong to.
    **values : object
        Name and value of each number.

    Raises
    ------
    ConfigurationError
        When a value is not an integer, or is below 1.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ConfigurationError(f"{what}: {name}", got=repr(value), expected="an integer of at least 1")


def require_name(what: str, name: object) -> None:
    """Raise ConfigurationError unless a name is None, or a text of letters, digits and underscores.

    Parameters
    ----------
    what : str
        What is to be called so.
    name : object
    """
    if name is None:
        return
    if not isinstance(name, str) or not name or not name.replace("_", "a").isalnum():
        raise ConfigurationError(f"{what}: name", got=repr(name), expected="letters, digits and _ alone")
