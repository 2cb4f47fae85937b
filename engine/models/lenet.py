"""LeNet-5, as it is taught today and as it was in 1998.

Floor 5.

References
----------
Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", Proceedings of
the IEEE 86 (11), 1998, section II.B.
"""

from __future__ import annotations

from ..graph import Node
from ..initializers import xavier
from ..layers.avgpool2d import AvgPool2D
from ..layers.conv2d import Conv2D
from ..layers.dense import Dense
from ..layers.flatten import Flatten
from ..layers.maxpool2d import MaxPool2D
from ..layers.relu import ReLU
from ..layers.tanh import Tanh


def lenet5(image: Node, classes: int = 10) -> Node:
    """Return the logits of LeNet-5 with ReLU and max pooling; 61,706 parameters on images of 1 x 28 x 28.

    Parameters
    ----------
    image : Node
        (C, H, W); the border of two pixels that the paper's 32 x 32 images have is added by padding.
    classes : int
        Number of logits.
    """
    x = MaxPool2D(2)(ReLU()(Conv2D(6, 5, padding="same")(image)))
    x = MaxPool2D(2)(ReLU()(Conv2D(16, 5)(x)))
    x = ReLU()(Dense(120)(Flatten()(x)))
    x = ReLU()(Dense(84)(x))
    return Dense(classes, initializer=xavier)(x)  # no ReLU follows that would halve the signal


def lenet5_1998(image: Node, classes: int = 10) -> Node:
    """Return the logits of LeNet-5 with tanh and average pooling.

    Notes
    -----
    What is simplified: the paper's pooling layers have a trained factor and bias, its second convolution connects each
    map to some of the maps before, its tanh is scaled, and its output units measure distances. Every map is connected
    here, as in all later versions, and the output is a dense layer.
    """
    x = AvgPool2D(2)(Tanh()(Conv2D(6, 5, padding="same", initializer=xavier)(image)))
    x = AvgPool2D(2)(Tanh()(Conv2D(16, 5, initializer=xavier)(x)))
    x = Tanh()(Dense(120, initializer=xavier)(Flatten()(x)))
    x = Tanh()(Dense(84, initializer=xavier)(x))
    return Dense(classes, initializer=xavier)(x)
