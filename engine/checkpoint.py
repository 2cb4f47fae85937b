"""Checkpoints: everything that a training needs to continue, in one .npz file, written whole or not at all.

Floor 4. Arrays are stored under ``parameter/NAME`` and ``optimizer/NAME``, the rest as JSON text under ``progress``.
Loading never unpickles.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .atomic import whole_file
from .checks import DataError, HandgradError
from .network import Network
from .optimizers.optimizer import STATE_NAME, Optimizer
from .training import Progress

# what NumPy, zipfile, zlib and json raise when single bytes of a file are wrong
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises
    ------
    DataError
        When the folder cannot be written to, or the disk is full.
    """
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}", remedy="choose another place") from error


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as an .npz file, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def save(path: Path, network: Network, optimizer: Optimizer, progress: Progress) -> None:
    """Write a checkpoint.

    Parameters
    ----------
    path : pathlib.Path
    network : Network
    optimizer : Optimizer
    progress : Progress
    """
    arrays = {f"parameter/{name}": array for name, array in network.state().items()}
    arrays |= {f"optimizer/{name}": array for name, array in optimizer.state.get(STATE_NAME, {}).items()}
    rest = {**asdict(progress), "draw": network.draw, "optimizer_steps": optimizer.steps.get(STATE_NAME, 0)}
    arrays["progress"] = np.array(json.dumps(rest))
    save_arrays(path, arrays)


def load(path: Path, network: Network, optimizer: Optimizer | None = None) -> Progress:
    """Read a checkpoint into a network, and into an optimiser where the training is to continue.

    Parameters
    ----------
    path : pathlib.Path
    network : Network
        Of the architecture that was saved.
    optimizer : Optimizer, optional
        Of the kind that was saved.

    Returns
    -------
    Progress

    Raises
    ------
    DataError
        When the file is missing, damaged, or belongs to another network or optimiser.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        rest = json.loads(str(arrays.pop("progress")))
        draw, steps = rest.pop("draw"), rest.pop("optimizer_steps")
        progress = Progress(**rest)
        parameters, state = _below(arrays, "parameter/"), _below(arrays, "optimizer/")
    except FileNotFoundError:
        raise DataError(
            f"checkpoint {path} does not exist", remedy="the run ended before its first epoch did; train again"
        ) from None
    except DAMAGE as error:
        reason = "no .npz archive" if "pickled" in str(error) else str(error).partition("\n")[0]
        raise DataError(f"checkpoint {path} is damaged ({reason})", remedy="train again") from error
    if optimizer is not None and steps:
        other = [
            f"{a.size} {a.dtype}" for a in state.values() if (a.shape, a.dtype) != (network.theta.shape, network.dtype)
        ]
        if set(state) != set(optimizer.state_names):
            what, got, expected = "optimiser", ", ".join(state), ", ".join(optimizer.state_names)
            raise DataError(
                f"checkpoint {path} belongs to another {what}", got=got or "none", expected=expected or "none"
            )
        if other:
            what, expected = "network", f"{network.theta.size} {network.dtype} numbers per optimiser state"
            raise DataError(f"checkpoint {path} belongs to another {what}", got=other[0], expected=expected)
    try:
        network.load_state(parameters)
    except HandgradError as error:
        raise DataError(f"checkpoint {path} belongs to another network ({error})") from error
    network.draw = draw
    if optimizer is not None:
        optimizer.state.pop(STATE_NAME, None)
        optimizer.steps.pop(STATE_NAME, None)
        if steps:
            optimizer.state[STATE_NAME], optimizer.steps[STATE_NAME] = state, steps
    return progress


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} is {array.dtype}")
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
