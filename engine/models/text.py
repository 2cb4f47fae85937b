"""Networks written as one line of text, "conv 6@5x5 same > relu > maxpool 2 > flatten > dense 10".

Floor 5. The grammar, one layer between two arrows, blanks between its words::

    conv FILTERS@SIZE [same | valid | pad P] [stride S] [dilation D] [groups G]
    maxpool SIZE [stride S] [pad P]          avgpool SIZE [stride S] [pad P]
    dense FEATURES    dropout RATE    flatten
    relu    sigmoid    tanh    linear    softmax

SIZE, S, P and D are one number, or rows x columns as in 3x5. A flatten is added before a dense layer that follows an
image. An arrow is ``>``, ``->`` or ``→``; upper and lower case are the same; INPUT at the start may be written.
"""

from __future__ import annotations

import difflib
import re

from ..checks import ConfigurationError, HandgradError
from ..graph import Node
from ..layers.avgpool2d import AvgPool2D
from ..layers.conv2d import Conv2D
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.flatten import Flatten
from ..layers.layer import Layer
from ..layers.linear import Linear
from ..layers.maxpool2d import MaxPool2D
from ..layers.relu import ReLU
from ..layers.sigmoid import Sigmoid
from ..layers.softmax import Softmax
from ..layers.tanh import Tanh

PLAIN = {"flatten": Flatten, "relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh, "linear": Linear, "softmax": Softmax}
SYNONYMS = {"conv2d": "conv", "fc": "dense", "pool": "maxpool", "maxpool2d": "maxpool", "avgpool2d": "avgpool"}
WITH_NUMBERS = ("conv", "dense", "maxpool", "avgpool", "dropout")


def chain(text: str, image: Node) -> Node:
    """Build the layers of a text on a node.

    Parameters
    ----------
    text : str
        See the module's docstring.
    image : Node
        Where the chain starts.

    Returns
    -------
    Node
        Where it ends.

    Raises
    ------
    ConfigurationError
        When a word is not understood; the message quotes the layer and its position.
    ShapeError
        When a layer does not fit the one before.

    Examples
    --------
    >>> from handgrad.engine import Input
    >>> chain("conv 6@5x5 same > relu > maxpool 2 > dense 10", Input((1, 28, 28))).shape
    (10,)
    """
    pieces = [piece.strip() for piece in re.split(r"->|→|>", text)]
    if pieces and pieces[0].lower() == "input":
        pieces = pieces[1:]
    x = image
    for number, piece in enumerate(pieces, start=1):
        where = f"layer {number} of the text, '{piece}'"
        try:
            layer = _layer(piece, where)
            if isinstance(layer, Dense) and len(x.shape) > 1:
                x = Flatten()(x)
            x = layer(x)
        except HandgradError as error:
            if not str(error).startswith(where):
                error.args = (f"{where}: {error}",)
            raise
    if x is image:
        raise ConfigurationError("the text has no layers", expected='for example "dense 128 > relu > dense 10"')
    return x


def _layer(piece: str, where: str) -> Layer:
    kind, *words = piece.lower().split() or [""]
    kind = SYNONYMS.get(kind, kind)
    if kind in PLAIN:
        if words:
            raise ConfigurationError(where, got=f"'{words[0]}' after {kind}", expected="nothing")
        return PLAIN[kind]()
    if kind not in WITH_NUMBERS:
        near = difflib.get_close_matches(kind, [*PLAIN, *WITH_NUMBERS], n=1)
        raise ConfigurationError(
            where,
            expected=f"one of {', '.join([*WITH_NUMBERS, *PLAIN])}",
            remedy=f"did you mean {near[0]}?" if near else "",
        )
    if not words:
        raise ConfigurationError(where, got="nothing after it", expected=_EXAMPLES[kind])
    first, options = words[0], _options(words[1:], kind, where)
    if kind == "dense":
        return Dense(_integer(first, where, _EXAMPLES[kind]))
    if kind == "dropout":
        try:
            return Dropout(float(first))
        except ValueError as error:
            if isinstance(error, HandgradError):
                raise
            raise ConfigurationError(where, got=f"'{first}'", expected=_EXAMPLES[kind]) from None
    if kind == "conv":
        match = re.fullmatch(r"(\d+)@(\d+)(?:x(\d+))?", first)
        if not match:
            raise ConfigurationError(where, got=f"'{first}'", expected=_EXAMPLES[kind])
        filters, rows, columns = int(match[1]), int(match[2]), int(match[3] or match[2])
        return Conv2D(filters, (rows, columns), **options)
    pool = MaxPool2D if kind == "maxpool" else AvgPool2D
    return pool(_size(first, where, _EXAMPLES[kind]), **options)


_EXAMPLES = {
    "conv": "FILTERS@SIZE, for example conv 6@5x5 same",
    "dense": "the number of features, for example dense 120",
    "dropout": "a rate from 0 up to below 1, for example dropout 0.5",
    "maxpool": "a size, for example maxpool 2 or maxpool 3 stride 2",
    "avgpool": "a size, for example avgpool 2",
}
_ALLOWED = {
    "conv": ("same", "valid", "pad", "stride", "dilation", "groups"),
    "maxpool": ("pad", "stride"),
    "avgpool": ("pad", "stride"),
    "dense": (),
    "dropout": (),
}


def _options(words: list[str], kind: str, where: str) -> dict[str, object]:
    options: dict[str, object] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if word not in _ALLOWED[kind]:
            allowed = ", ".join(_ALLOWED[kind]) or "nothing"
            raise ConfigurationError(where, got=f"'{word}'", expected=f"after the size only {allowed}")
        if word in ("same", "valid"):
            options["padding"] = word
            continue
        if not remaining:
            raise ConfigurationError(
                where, got=f"nothing after '{word}'", expected="a number, or rows x columns as 3x5"
            )
        number = remaining.pop(0)
        if word == "groups":
            options[word] = _integer(number, where, "groups with one number")
            continue
        value = _size(number, where, f"{word} with a number, or rows x columns as 3x5")
        options["padding" if word == "pad" else word] = value
    return options


def _integer(word: str, where: str, expected: str) -> int:
    if not word.isdecimal():
        raise ConfigurationError(where, got=f"'{word}'", expected=expected)
    return int(word)


def _size(word: str, where: str, expected: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", word)
    if not match:
        raise ConfigurationError(where, got=f"'{word}'", expected=expected)
    return int(match[1]), int(match[2] or match[1])
