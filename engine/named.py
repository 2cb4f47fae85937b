"""Arrays by name: a network's parameters, and the values and gradients of its nodes.

Floor 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .checks import ConfigurationError, ShapeError

if TYPE_CHECKING:
    from .network import Network
    from .passes import Pass


class NamedArrays(Mapping):
    """Mapping from fixed names to arrays that live elsewhere; assigning to a name copies into its array.

    Parameters
    ----------
    what : str
        For messages.
    arrays : dict of str to numpy.ndarray
    """

    def __init__(self, what: str, arrays: dict[str, np.ndarray]):
        self._what, self._arrays = what, arrays

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise KeyError(f"{self._what} '{name}'; there are {', '.join(self._arrays) or 'none'}")
        return self._arrays[name]

    def __setitem__(self, name: str, value) -> None:
        array, value = self[name], np.asarray(value)
        if value.shape != array.shape:
            raise ShapeError(f"{self._what} '{name}'", got=f"shape {value.shape}", expected=str(array.shape))
        array[...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class NodeArrays(Mapping):
    """Mapping from node names to what the last pass left there, converted to user layout when it is looked at."""

    def __init__(self, network: Network, what: str, read: Callable[[Pass, str], np.ndarray]):
        self._network, self._what, self._read = network, what, read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._network.nodes:
            raise KeyError(f"node '{name}'; there are {', '.join(self._network.nodes)}")
        if self._network.last_pass is None:
            raise ConfigurationError(f"Network: there is no {self._what} yet", remedy="call forward first")
        if self._what == "gradient" and not self._network.last_pass.is_complete:
            raise ConfigurationError(f"Network: there is no {self._what} yet", remedy="call backward first")
        return self._read(self._network.last_pass, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._network.nodes)

    def __len__(self) -> int:
        return len(self._network.nodes)
