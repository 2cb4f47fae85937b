"""Where handgrad keeps what it can make or fetch again: compiled kernels and downloaded data sets.

Floor 0: standard library only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the user's cache folder for handgrad; it is not created here.

    ``$HANDGRAD_CACHE`` wins; otherwise the platform's convention: ``$XDG_CACHE_HOME`` or ``~/.cache``,
    ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Returns
    -------
    pathlib.Path
        The folder, absolute.
    """
    chosen = os.environ.get("HANDGRAD_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (base / "handgrad").absolute()


def kernels_folder() -> Path:
    """Return the folder that holds a folder of compiled kernels for each state of the sources; it is not created."""
    return cache_folder() / "kernels"
