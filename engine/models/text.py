"""Networks written as one line of text, "conv 6@5x5 same > relu > maxpool 2 > flatten > dense 10".

Floor 5. The grammar, one layer between two arrows, blanks between its words::

    conv FILTERS@SIZE [same | valid | pad P] [stride S] [dilation D] [groups G]
    convtranspose FILTERS@SIZE [same | valid | pad P] [stride S] [outpad P] [dilation D] [groups G]
    maxpool SIZE [stride S] [same | valid | pad P]   avgpool SIZE [stride S] [same | valid | pad P]
    upsample SIZE [nearest | bilinear]      globalavgpool    globalmaxpool
    dense FEATURES    rnn UNITS [tanh | sigmoid] [sequences]    reshape SIZES    flatten
    batchnorm    lrn SIZE    dropout RATE
    relu    leakyrelu [SLOPE]    sigmoid    tanh    linear    softmax    logsoftmax
    step [straight-through | sigmoid | triangle]

SIZE, S, P and D are one number, or rows x columns as in 3x5; SIZES are one to three with an x between. A flatten is
added before a dense layer that follows an image. An arrow is ``>``, ``->`` or ``→``; upper and lower case are the same;
INPUT at the start may be written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..checks import ConfigurationError, HandgradError
from ..graph import Node
from ..layers.avgpool2d import AvgPool2D
from ..layers.batch_norm import BatchNorm
from ..layers.conv2d import Conv2D
from ..layers.conv_transpose2d import ConvTranspose2D
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.flatten import Flatten
from ..layers.global_avgpool2d import GlobalAvgPool2D
from ..layers.global_maxpool2d import GlobalMaxPool2D
from ..layers.layer import Layer
from ..layers.leaky_relu import LeakyReLU
from ..layers.linear import Linear
from ..layers.local_response_norm import LocalResponseNorm
from ..layers.log_softmax import LogSoftmax
from ..layers.maxpool2d import MaxPool2D
from ..layers.relu import ReLU
from ..layers.reshape import Reshape
from ..layers.sigmoid import Sigmoid
from ..layers.simple_rnn import SimpleRNN
from ..layers.softmax import Softmax
from ..layers.step import Step
from ..layers.tanh import Tanh
from ..layers.upsample2d import Upsample2D


def _integer(word: str) -> int:
    if not word.isdecimal():
        raise ValueError
    return int(word)


def _size(word: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", word)
    if not match:
        raise ValueError
    return int(match[1]), int(match[2] or match[1])


def _sizes(word: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(x\d+){0,2}", word):
        raise ValueError
    return tuple(map(int, word.split("x")))


def _filters(word: str) -> tuple[int, tuple[int, int]]:
    match = re.fullmatch(r"(\d+)@(\d+(?:x\d+)?)", word)
    if not match:
        raise ValueError
    return int(match[1]), _size(match[2])


@dataclass(frozen=True)
class Word:
    """What may follow the name of a layer.

    Attributes
    ----------
    layer : type of Layer
    first : callable or None
        Reads the word behind the name; a tuple of two is two arguments.
    example : str
        What the first word is, for messages.
    optional : bool
        Whether the first word may be missing.
    flags : dict of str to (str, object)
        Words that stand alone: name and value of the option that they set.
    numbers : dict of str to (str, callable)
        Words with a number behind them: name of the option, and what reads the number.
    """

    layer: type[Layer]
    first: Callable[[str], object] | None = None
    example: str = ""
    optional: bool = False
    flags: dict[str, tuple[str, object]] = field(default_factory=dict)
    numbers: dict[str, tuple[str, Callable[[str], object]]] = field(default_factory=dict)


_EITHER = {"same": ("padding", "same"), "valid": ("padding", "valid")}
_SLIDE = {"pad": ("padding", _size), "stride": ("stride", _size)}
_KERNEL = _SLIDE | {"dilation": ("dilation", _size), "groups": ("groups", _integer)}
WORDS = {
    "conv": Word(Conv2D, _filters, "FILTERS@SIZE, for example conv 6@5x5 same", False, _EITHER, _KERNEL),
    "dense": Word(Dense, _integer, "the number of features, for example dense 120"),
    "maxpool": Word(MaxPool2D, _size, "a size, for example maxpool 2 or maxpool 3 stride 2", False, _EITHER, _SLIDE),
    "avgpool": Word(AvgPool2D, _size, "a size, for example avgpool 2", False, _EITHER, _SLIDE),
    "dropout": Word(Dropout, float, "a rate from 0 up to below 1, for example dropout 0.5"),
    "convtranspose": Word(
        ConvTranspose2D,
        _filters,
        "FILTERS@SIZE, for example convtranspose 6@4x4 stride 2",
        False,
        _EITHER,
        _KERNEL | {"outpad": ("output_padding", _size)},
    ),
    "upsample": Word(
        Upsample2D,
        _size,
        "a size, for example upsample 2",
        flags={"nearest": ("method", "nearest"), "bilinear": ("method", "bilinear")},
    ),
    "rnn": Word(
        SimpleRNN,
        _integer,
        "the number of units, for example rnn 64",
        flags={
            "tanh": ("activation", "tanh"),
            "sigmoid": ("activation", "sigmoid"),
            "sequences": ("return_sequences", True),
        },
    ),
    "reshape": Word(Reshape, lambda word: (_sizes(word),), "the sizes of a sample, for example reshape 28x28"),
    "lrn": Word(LocalResponseNorm, _integer, "the number of channels, for example lrn 5"),
    "leakyrelu": Word(LeakyReLU, float, "a slope, for example leakyrelu 0.01", optional=True),
    "step": Word(
        Step,
        flags={name: ("surrogate", name) for name in ("straight-through", "sigmoid", "triangle")},
    ),
    "batchnorm": Word(BatchNorm),
    "flatten": Word(Flatten),
    "globalavgpool": Word(GlobalAvgPool2D),
    "globalmaxpool": Word(GlobalMaxPool2D),
    "relu": Word(ReLU),
    "sigmoid": Word(Sigmoid),
    "tanh": Word(Tanh),
    "linear": Word(Linear),
    "softmax": Word(Softmax),
    "logsoftmax": Word(LogSoftmax),
}
SYNONYMS = {
    "conv2d": "conv",
    "fc": "dense",
    "pool": "maxpool",
    "maxpool2d": "maxpool",
    "avgpool2d": "avgpool",
    "convtranspose2d": "convtranspose",
    "upsample2d": "upsample",
    "simplernn": "rnn",
    "globalavgpool2d": "globalavgpool",
    "globalmaxpool2d": "globalmaxpool",
    "localresponsenorm": "lrn",
}
_ALONE = [name for name, word in WORDS.items() if word.first is None or word.optional]
ALONE = (*_ALONE, *(short for short, name in SYNONYMS.items() if name in _ALONE))  # what may be a text of one word


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
    x = image
    for number, piece in enumerate(pieces_of(text), start=1):
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


def pieces_of(text: str) -> list[str]:
    """Return what stands between the arrows of a text, without INPUT at the start."""
    pieces = [piece.strip() for piece in re.split(r"->|→|>", text)]
    return pieces[1:] if pieces[0].lower() == "input" else pieces


def _layer(piece: str, where: str) -> Layer:
    kind, *words = piece.lower().split() or [""]
    kind = SYNONYMS.get(kind, kind)
    if kind not in WORDS:
        near = difflib.get_close_matches(kind, WORDS, n=1)
        raise ConfigurationError(
            where, expected=f"one of {', '.join(WORDS)}", remedy=f"did you mean {near[0]}?" if near else ""
        )
    word, arguments = WORDS[kind], ()
    if not words and word.first is not None and not word.optional:
        raise ConfigurationError(where, got="nothing after it", expected=word.example)
    if words and word.first is not None:
        value = _read(word.first, words.pop(0), where, word.example)
        arguments = value if word.first is not _size and isinstance(value, tuple) else (value,)
    return word.layer(*arguments, **_options(words, word, kind, where))


def _options(words: list[str], word: Word, kind: str, where: str) -> dict[str, object]:
    options: dict[str, object] = {}
    remaining = list(words)
    while remaining:
        name = remaining.pop(0)
        if name in word.flags:
            option, value = word.flags[name]
        elif name in word.numbers:
            option, read = word.numbers[name]
            kind_of_number = "one number" if read is _integer else "a number, or rows x columns as 3x5"
            if not remaining:
                raise ConfigurationError(where, got=f"nothing after '{name}'", expected=kind_of_number)
            value = _read(read, remaining.pop(0), where, f"{name} with {kind_of_number}")
        else:
            allowed = ", ".join([*word.flags, *word.numbers]) or "nothing"
            place = f"after {'the size' if word.first else kind} only " if allowed != "nothing" or word.first else ""
            raise ConfigurationError(
                where, got=f"'{name}'" + ("" if place else f" after {kind}"), expected=place + allowed
            )
        if option in options:
            raise ConfigurationError(where, got=f"'{name}'", expected=f"the {option.replace('_', ' ')} once")
        options[option] = value
    return options


def _read(read: Callable[[str], object], word: str, where: str, expected: str) -> object:
    try:
        return read(word)
    except ValueError:
        raise ConfigurationError(where, got=f"'{word}'", expected=expected) from None
