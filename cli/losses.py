"""Which loss a network is trained with: what the last layer suggests, or what the user asks for."""

from __future__ import annotations

import numpy as np

from ..engine.checks import ConfigurationError

NAMES = (
    "softmax_cross_entropy",
    "cross_entropy",
    "binary_cross_entropy",
    "mean_squared_error",
    "mean_absolute_error",
    "hinge",
    "perceptron",
)
SUGGESTED = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy", "step": "perceptron"}
NEEDS = {"cross_entropy": ("softmax",), "perceptron": ("step",)}  # the last layer that the numbers must come from
SURROGATE = "straight-through"


def choose(asked: str | None, network) -> str:
    """Return the name of the loss for a network.

    Parameters
    ----------
    asked : str or None
        What the user wants; None: what the last layer suggests, softmax cross entropy for most.
    network : Network

    Raises
    ------
    ConfigurationError
        When the loss needs another last layer.
    """
    last = network.outputs[0].layer.kind
    name = asked or SUGGESTED.get(last, "softmax_cross_entropy")
    if last not in NEEDS.get(name, (last,)):
        needed = NEEDS[name][0]
        raise ConfigurationError(
            f"--loss {name}",
            got=f"a network that ends with {last}",
            expected=f"one that ends with {needed}",
            remedy="use softmax_cross_entropy, which contains the softmax" if needed == "softmax" else "",
        )
    return name


def make(name: str, network):
    """Return a loss from its name; binary cross entropy takes logits, but behind a sigmoid or softmax probabilities."""
    from ..engine import (
        BinaryCrossEntropy,
        CrossEntropy,
        Hinge,
        MeanAbsoluteError,
        MeanSquaredError,
        Perceptron,
        SoftmaxCrossEntropy,
    )

    if name == "binary_cross_entropy":
        return BinaryCrossEntropy(logits=network.outputs[0].layer.kind not in ("sigmoid", "softmax"))
    losses = (SoftmaxCrossEntropy, CrossEntropy, MeanSquaredError, MeanAbsoluteError, Hinge, Perceptron)
    return {loss.kind: loss for loss in losses}[name]()


def describe(loss) -> str:
    """Return a loss in words."""
    text = loss.kind.replace("_", " ")
    if loss.kind == "binary_cross_entropy":
        text += " of logits" if loss.logits else " of probabilities"
    return text


def probabilities(network, z: np.ndarray) -> np.ndarray:
    """Return the outputs (N, K) of a network that ends with softmax, sigmoid or step as they are, else their softmax.

    The softmax comes from the literal code of its derivation.
    """
    from ..derivations import softmax

    if network.outputs[0].layer.kind in ("softmax", "sigmoid", "step"):
        return z.astype(float)
    return np.array([softmax.forward(row.astype(object)).astype(float) for row in z])


def decided(outputs: np.ndarray) -> int | None:
    """Return the class with the largest of K outputs, or None where two are largest or one is no number."""
    best = int(np.argmax(outputs))
    return best if np.isfinite(outputs).all() and (outputs == outputs[best]).sum() == 1 else None


def with_perceptron_rule(model: str) -> tuple[str, str | None]:
    """Return a text that can be trained, and a note where that is another one than the user wrote.

    The slope of a step at the end is taken as 1, a declared surrogate that is written into the text; the chain rule
    then gives the perceptron rule. Steps further inside stay as they are.
    """
    from ..engine.models.text import pieces_of

    if ">" not in model and "→" not in model:
        return model, None
    pieces = pieces_of(model)
    if pieces[-1].lower() != "step":
        return model, None
    text = " > ".join([*pieces[:-1], f"step {SURROGATE}"])
    return text, (
        "the derivative of a step is 0 everywhere, so no gradient would reach the weights (step.2); the slope of the "
        f"last step is taken as 1 instead, the surrogate {SURROGATE}: plain gradient descent on the perceptron's loss "
        "is then the perceptron rule w += α (t - a) x"
    )
