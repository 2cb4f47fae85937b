"""Run folders: where a training writes, and where other commands find it again.

A run folder holds config.json (what was asked for), env.json (where it ran), metrics.jsonl (one line per epoch), and
the checkpoints last.npz and best.npz.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from .. import __version__
from ..engine.checks import ConfigurationError, DataError
from . import losses

OPTIMIZERS = ("adam", "momentum", "sgd")
SCHEDULES = ("cosine", "linear", "constant")
DEVICES = ("cpu", "cuda")
RUNS = Path("runs")  # below the current folder


@dataclass(frozen=True)
class Config:
    """What a training was asked for; everything that decides its numbers.

    Attributes
    ----------
    model, data : str
        Name or text of the model; name of the data set.
    input_shape : list of int
    class_names : list of str
    scale, shift : list of float
        Input = scale * stored value + shift, per channel.
    optimizer : str
    optimizer_settings : dict
    schedule, dtype : str
    epochs, batch_size, seed, threads, validation : int
    limit : int or None
        Training samples that are used, if not all.
    source : str
        Where the data were found.
    loss : str
    initializer : str or None
        How all weights started, if not as each layer has it.
    device : str
        "cpu" or "cuda"; the order of sums, and with it the last digits, differ.
    """

    model: str
    data: str
    input_shape: list[int]
    class_names: list[str]
    scale: list[float]
    shift: list[float]
    optimizer: str
    optimizer_settings: dict[str, float]
    schedule: str
    dtype: str
    epochs: int
    batch_size: int
    seed: int
    threads: int
    validation: int
    limit: int | None = None
    source: str = ""
    loss: str = "softmax_cross_entropy"
    initializer: str | None = None
    device: str = "cpu"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def new_folder(out: str | None, model: str) -> Path:
    """Create and return the folder of a new run.

    Parameters
    ----------
    out : str or None
        Where the user wants it; by default ``runs/<time>-<model>``.
    model : str
        Name or text of the model.

    Raises
    ------
    DataError
        When the folder exists with something in it, or cannot be made.
    """
    name = model if re.fullmatch(r"[\w-]+", model) else "chain"
    folder = Path(out) if out else RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    number = 1
    while not out and folder.exists():
        number += 1
        folder = folder.with_name(f"{datetime.now():%Y%m%d-%H%M%S}-{name}-{number}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot make the run folder {folder}: {error.strerror}", remedy="choose another --out"
        ) from error
    if occupied:
        raise DataError(
            f"the run folder {folder} is not empty",
            remedy=f"choose another --out, or continue it with --resume {folder}",
        )
    return folder


def find(run: str) -> Path:
    """Return the folder of a run.

    Parameters
    ----------
    run : str
        A folder, the start of a name below ``runs``, or "last".

    Raises
    ------
    DataError
        When there is none.
    """
    if run != "last" and (Path(run) / "config.json").is_file():
        return Path(run)
    known = sorted((path.parent for path in RUNS.glob("*/config.json")), key=lambda path: path.stat().st_mtime)
    alive = [
        path for path in known if (path / "last.npz").is_file()
    ]  # the others diverged or died in their first epoch
    matching = alive if run == "last" else [path for path in known if path.name.startswith(run)]
    if not matching and Path(run).name != run:
        raise DataError(f"{run} is no run folder: it has no config.json", remedy="name one, or last for the newest")
    if not matching:
        remedy = "train one first: handgrad train lenet5" if not known else f"there are {_names(known)}"
        what = "there is no run with a checkpoint yet" if run == "last" else f"there is no run '{run}'"
        raise DataError(f"{what} (looked in {RUNS.absolute()})", remedy=remedy)
    return matching[-1]


def _names(folders: list[Path]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names if len(names) <= 3 else [f"{len(names) - 3} older ones", *names[-3:]])


def read_config(folder: Path) -> Config:
    """Return the configuration of a run.

    Raises
    ------
    DataError
        When the file is missing or damaged.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("handgrad", None)
        config = Config(**values)
        for name, kind in (
            ("model", str),
            ("data", str),
            ("class_names", list),
            ("input_shape", list),
            ("scale", list),
            ("shift", list),
            ("optimizer_settings", dict),
            *((name, int) for name in ("epochs", "batch_size", "seed", "threads", "validation")),
        ):
            if not isinstance(getattr(config, name), kind):
                raise TypeError(f"{name} is {getattr(config, name)!r}")
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("loss", losses.NAMES),
            ("device", DEVICES),
        ):
            if getattr(config, name) not in known:
                raise ValueError(f"{name} {getattr(config, name)!r}")
        return config
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).partition(": '")[0]
        raise DataError(f"{path} is missing or damaged ({reason})", remedy="train again") from error


def environment() -> dict[str, object]:
    """Return where a run takes place: versions, processor, operating system, time."""
    from ..engine import backend

    return {
        "handgrad": __version__,
        **backend.versions(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "tile": backend.TILE,
        "lanes": backend.LANES,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv[1:],
    }


def processor_name() -> str:
    """Return the processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def open_network(
    folder: Path,
    *,
    checkpoint: str = "best",
    dtype: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
):
    """Return (config, network) of a run with the parameters of a checkpoint.

    Parameters
    ----------
    folder : pathlib.Path
    checkpoint : {"best", "last"}
        ``best`` falls back to ``last`` in a run that was interrupted in its first epoch.
    dtype : str, optional
        Instead of the run's own.
    threads : int, optional
    device : {"cpu", "cuda"}

    Raises
    ------
    DataError
        When a file is missing or damaged.
    """
    from ..engine import checkpoint as checkpoints
    from ..engine.models.build import build

    config = read_config(folder)
    network = build(
        config.model,
        tuple(config.input_shape),
        config.classes,
        dtype=dtype or config.dtype,
        seed=config.seed,
        threads=threads,
        device=device,
    )
    path = folder / f"{checkpoint}.npz"
    if checkpoint == "best" and not path.exists():
        path = folder / "last.npz"
    checkpoints.load(path, network)
    return config, network


def load_data(config: Config, data_name: str | None = None, data_dir: str | None = None):
    """Return the splits that a run was trained on, or others of the same kind.

    Parameters
    ----------
    config : Config
    data_name, data_dir : str, optional
        What the user asked for instead; by default the data are looked for where the run found them.

    Raises
    ------
    DataError
        When they cannot be found.
    """
    from ..datasets import load

    if data_name not in (None, config.data):
        return load(data_name, folder=data_dir, seed=config.seed)
    if data_dir is None and Path(config.source).is_dir():
        data_dir = config.source
    validation = None if config.data.startswith("toy:") else config.validation  # toy sets have nothing to cut
    return load(config.data, folder=data_dir, seed=config.seed, validation=validation)


def require_fit(config: Config, dataset) -> None:
    """Raise a ConfigurationError when a data set has other shapes or classes than a run was trained for."""
    if list(dataset.sample_shape) != config.input_shape or len(dataset.classes) != config.classes:
        raise ConfigurationError(
            f"data set '{dataset.name}'",
            got=f"samples of {tuple(dataset.sample_shape)} in {len(dataset.classes)} classes",
            expected=f"{tuple(config.input_shape)} in {config.classes}, as the run was trained for",
        )


def feed(config: Config, dataset):
    """Return a data set as the run's network sees it."""
    from ..engine.feed import Feed

    return Feed(dataset.images, dataset.labels, np.array(config.scale), np.array(config.shift))
