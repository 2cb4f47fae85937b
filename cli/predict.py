"""``handgrad predict RUN IMAGE...``: classes with probabilities for any image file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..engine.checks import ConfigurationError, DataError
from . import runs
from .console import json_option, note, print_json
from .options import device_option, resolve_device


@click.command(short_help="Classify image files.")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--invert/--no-invert", default=None, help="Swap black and white.  [default: when the border is bright]")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many classes to show.")
@device_option
@json_option
def command(run: str, images: tuple[str, ...], invert: bool | None, top: int, device: str, as_json: bool):
    """Classify image files with the best checkpoint of RUN (a folder, or last).

    An image is turned grey, and scaled to the network's size with its proportions kept. MNIST's digits are white on
    black: a picture whose border is bright is inverted, unless --no-invert says otherwise.
    """
    from ..derivations import softmax
    from ..engine.feed import Feed

    resolve_device(device)
    folder = runs.find(run)
    config, network = runs.open_network(folder, threads=1)
    if len(config.input_shape) != 3 or config.input_shape[0] != 1:
        raise ConfigurationError(f"run {folder}", got=f"inputs of {config.input_shape}", expected="grey images")
    pictures = [read_image(Path(path), tuple(config.input_shape[1:]), invert) for path in images]
    pixels = np.stack([picture for picture, _ in pictures])[:, None]
    feed = Feed(pixels, np.zeros(len(pixels), np.int64), np.array(config.scale), np.array(config.shift))
    logits = network.predict(feed.inputs(np.arange(len(pixels)), network.dtype))
    results = []
    for path, (_, inverted), z in zip(images, pictures, logits.astype(float), strict=True):
        p = softmax.forward(z.astype(object)).astype(float)
        order = np.argsort(-p)
        results.append(
            {
                "image": path,
                "inverted": inverted,
                "class": config.class_names[order[0]],
                "probability": p[order[0]],
                "probabilities": {config.class_names[k]: p[k] for k in order},
            }
        )
    if as_json:
        print_json({"run": str(folder), "images": results})
        return
    for result in results:
        best = list(result["probabilities"].items())[:top]
        click.echo(f"{result['image']}: " + ", ".join(f"{name} {p:.1%}" for name, p in best))
        if result["inverted"] and invert is None:
            note(f"{result['image']}: the border is bright, so black and white were swapped (--no-invert keeps them)")


def read_image(path: Path, size: tuple[int, int], invert: bool | None) -> tuple[np.ndarray, bool]:
    """Return a picture as the network's pixels, and whether it was inverted.

    Parameters
    ----------
    path : pathlib.Path
        Any format that Pillow reads.
    size : (rows, columns)
        The picture is scaled to fit, its proportions kept, centred on its border's mean grey.
    invert : bool or None
        None: invert when the mean of the border is brighter than half.

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
            grey = picture.convert("L")
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error})", remedy="give a PNG, JPEG or other picture"
        ) from None
    edges = np.asarray(grey, dtype=np.float64)
    border = np.concatenate([edges[0], edges[-1], edges[:, 0], edges[:, -1]])
    inverted = bool(border.mean() > 127.5) if invert is None else invert
    background = round(float(border.mean()))
    if grey.size != size[::-1]:
        grey = ImageOps.pad(grey, size[::-1], method=Image.Resampling.LANCZOS, color=background)
    pixels = np.asarray(grey, dtype=np.uint8)
    return (255 - pixels if inverted else pixels.copy()), inverted
