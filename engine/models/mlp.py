"""Multi-layer perceptrons: dense layers with ReLU between them.

Floor 5.
"""

from __future__ import annotations

from ..graph import Node
from ..initializers import xavier
from ..layers.dense import Dense
from ..layers.flatten import Flatten
from ..layers.relu import ReLU


def mlp(image: Node, classes: int = 10, hidden: tuple[int, ...] = (512, 512)) -> Node:
    """Return the logits of an MLP; with the default sizes on MNIST the 784-512-512-10 net of S3.

    Parameters
    ----------
    image : Node
        Any shape; it is flattened.
    classes : int
        Number of logits.
    hidden : tuple of int
        Sizes of the hidden layers.

    Examples
    --------
    >>> from handgrad.engine import Input, Network
    >>> image = Input((1, 28, 28))
    >>> Network(image, mlp(image)).parameter_count
    669706
    """
    x = Flatten()(image) if len(image.shape) > 1 else image
    for features in hidden:
        x = ReLU()(Dense(features)(x))
    return Dense(classes, initializer=xavier)(x)  # no ReLU follows that would halve the signal
