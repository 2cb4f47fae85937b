"""From a model's name, or its text, to a network.

Floor 5.
"""

from __future__ import annotations

import difflib
import re

from ..checks import ConfigurationError, require_positive_integers
from ..graph import Input, Node, topological_order
from ..initializers import BY_NAME
from ..network import Network
from .lenet import lenet5, lenet5_1998
from .mlp import mlp
from .text import ALONE, chain

MODELS = {"lenet5": lenet5, "lenet5-1998": lenet5_1998, "mlp": mlp}
IMAGE = (1, 28, 28)  # what named models expect when nobody says otherwise


def build(
    model: str,
    input_shape: tuple[int, ...] = IMAGE,
    classes: int | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    initializer: str | None = None,
) -> Network:
    """Return a new network.

    Parameters
    ----------
    model : str
        A name of MODELS, or a text as in ``handgrad.engine.models.text``.
    input_shape : tuple of int
        (C, H, W) or (features,) of one sample.
    classes : int, optional
        Number of outputs of a named model (10 if not given); a text must end with this many, where it is given.
    dtype, device, seed, threads
        As in Network.
    initializer : {"he", "xavier", "small", "zeros"}, optional
        How all weights start; by default as each layer has it.

    Raises
    ------
    ConfigurationError
        When there is no such model, or its outputs are not the classes.
    ShapeError
        When a layer does not fit.
    """
    if classes is not None:
        require_positive_integers("model", classes=classes)
    image = Input(input_shape)
    if model in MODELS:
        output = MODELS[model](image, classes or 10)
    elif re.fullmatch(r"[\w-]+", model) and model.lower() not in ALONE:
        near = difflib.get_close_matches(model, MODELS, n=1, cutoff=0.65)
        raise ConfigurationError(
            f"there is no model '{model}'",
            expected=f'one of {", ".join(MODELS)}, or a text such as "conv 6@5x5 same > relu > maxpool 2 > dense 10"',
            remedy=f"did you mean {near[0]}?" if near else "",
        )
    else:
        output = chain(model, image)
        check_outputs(model, output, classes)
    if initializer is not None:
        if initializer not in BY_NAME:
            raise ConfigurationError("initializer", got=repr(initializer), expected=f"one of {', '.join(BY_NAME)}")
        for node in topological_order([image], [output]):
            if hasattr(node.layer, "initializer"):
                node.layer.initializer = BY_NAME[initializer]
    return Network(image, output, dtype=dtype, device=device, seed=seed, threads=threads)


def check_outputs(model: str, output: Node, classes: int | None) -> None:
    """Raise a ConfigurationError when a network does not end with one number per class."""
    if classes is not None and output.shape != (classes,):
        shape = " x ".join(map(str, output.shape))
        raise ConfigurationError(
            f"the model '{model}'",
            got=f"an output of {shape}",
            expected=f"{classes}, one per class",
            remedy=f"end it with dense {classes}",
        )
