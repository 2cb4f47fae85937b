"""``handgrad predict RUN IMAGE...``: classes with probabilities for any image file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..engine.checks import ConfigurationError, DataError
from . import losses, runs
from .console import json_option, note, print_json
from .options import device_option, resolve_device


@click.command(short_help="Classify image files.")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--invert/--no-invert", default=None, help="Swap black and white.  [default: when the border is bright]")
@click.option("--fit/--no-fit", default=None, help="Cut out and centre the drawing.  [default: when sizes differ]")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many classes to show.")
@device_option
@json_option
def command(
    run: str,
    images: tuple[str, ...],
    invert: bool | None,
    fit: bool | None,
    top: int,
    device: str,
    as_json: bool,
):
    """Classify image files with the best checkpoint of RUN (a folder, or last).

    An image is turned grey. MNIST's digits are white on black, so a picture whose border is bright is inverted. A
    picture of another size than the network's is prepared as MNIST's authors prepared theirs: the drawing is cut out,
    scaled to 20/28 of the network's size with its proportions kept, and centred on its centre of mass.
    """
    device = resolve_device(device)
    folder = runs.find(run)
    config, network = runs.open_network(folder, threads=1, device=device)
    if len(config.input_shape) != 3 or config.input_shape[0] != 1:
        raise ConfigurationError(f"run {folder}", got=f"inputs of {config.input_shape}", expected="grey images")
    pictures, failures = {}, []
    for path in images:
        try:
            pictures[path] = read_image(Path(path), tuple(config.input_shape[1:]), invert, fit)
        except DataError as error:
            failures.append(error)
    results = _classify(config, network, pictures) if pictures else []
    if as_json:
        print_json({"run": str(folder), "images": results, "errors": [str(error) for error in failures]})
    else:
        for result in results:
            best = ", ".join(f"{name} {p:.1%}" for name, p in list(result["probabilities"].items())[:top])
            best = best if result["class"] else f"undecided: {best}"
            click.echo(f"{result['image']}: {best}" + (" (black and white swapped)" if result["inverted"] else ""))
    for error in failures:
        note(f"handgrad: {error}")
    return DataError.exit_code if failures else 0


def _classify(config, network, pictures: dict) -> list[dict[str, object]]:
    """Return for each picture its classes with probabilities, the most probable first."""
    from ..engine.feed import Feed

    pixels = np.stack([picture for picture, _ in pictures.values()])[:, None]
    feed = Feed(pixels, np.zeros(len(pixels), np.int64), np.array(config.scale), np.array(config.shift))
    every = losses.probabilities(network, network.predict(feed.inputs(np.arange(len(pixels)), network.dtype)))
    results = []
    for (path, (_, inverted)), p in zip(pictures.items(), every, strict=True):
        order, best = np.argsort(-p, kind="stable"), losses.decided(p)
        results.append(
            {
                "image": path,
                "inverted": inverted,
                "class": None if best is None else config.class_names[best],
                "probability": p[order[0]],
                "probabilities": {config.class_names[k]: p[k] for k in order},
            }
        )
    return results


def read_image(path: Path, size: tuple[int, int], invert: bool | None, fit: bool | None) -> tuple[np.ndarray, bool]:
    """Return a picture as the network's pixels, and whether it was inverted.

    Parameters
    ----------
    path : pathlib.Path
        Any format that Pillow reads.
    size : (rows, columns)
        Of the network's input.
    invert : bool or None
        None: invert when the mean of the border is brighter than half.
    fit : bool or None
        Whether to cut out and centre the drawing; otherwise the whole picture is scaled. None: when the sizes differ.

    Returns
    -------
    pixels : numpy.ndarray of shape size, uint8
    inverted : bool

    Raises
    ------
    DataError
        When the file is missing or no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:  # on white paper
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            grey = np.asarray(picture.convert("L"), dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", remedy=f"give files: {path}/*.png") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        reason = "not in a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(
            f"{path} cannot be read as an image ({reason})", remedy="give a PNG, JPEG or other picture"
        ) from None
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    inverted = bool(border.mean() > 127.5) if invert is None else invert
    if inverted:
        grey, border = 255 - grey, 255 - border
    if grey.max() == grey.min():
        raise DataError(f"nothing is drawn in {path}: all its pixels are equal")
    if fit or (fit is None and grey.shape != size):
        return centred(grey, float(np.median(border)), size), inverted
    if grey.shape != size:
        grey = np.asarray(ImageOps.pad(Image.fromarray(grey), size[::-1], color=int(np.median(border))))
    return grey.copy(), inverted


def centred(grey: np.ndarray, background: float, size: tuple[int, int]) -> np.ndarray:
    """Return the drawing on a dark background as MNIST has it: in a box of 20/28 of the size, by its centre of mass.

    Parameters
    ----------
    grey : numpy.ndarray of shape (rows, columns), uint8
        Bright ink on a dark background.
    background : float
        Grey level of the background; it becomes 0, and the brightest ink 255.
    size : (rows, columns)

    Returns
    -------
    numpy.ndarray of shape size, uint8
    """
    from PIL import Image

    ink = np.maximum(grey - background, 0.0) if grey.max() > background else background - grey.astype(np.float64)
    ink *= 255.0 / ink.max()
    rows, columns = np.nonzero((ink > 64).any(axis=1))[0], np.nonzero((ink > 64).any(axis=0))[0]
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    factor = min(side * 20 / 28 / length for side, length in zip(size, box.shape, strict=True))
    new = [max(1, min(side, round(factor * length))) for side, length in zip(size, box.shape, strict=True)]
    small = np.asarray(Image.fromarray(box.astype(np.uint8)).resize(new[::-1], Image.Resampling.LANCZOS), np.float64)
    canvas = np.zeros(size, np.uint8)
    first = []
    for axis in (0, 1):
        weights = small.sum(axis=1 - axis)
        centre = (weights @ np.arange(len(weights))) / max(weights.sum(), 1e-9)
        first.append(int(np.clip(round((size[axis] - 1) / 2 - centre), 0, size[axis] - new[axis])))
    canvas[first[0] : first[0] + new[0], first[1] : first[1] + new[1]] = small.astype(np.uint8)
    return canvas
