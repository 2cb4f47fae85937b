"""The engine: layers, losses, optimisers, and the network that runs them forward and backward.

Names are imported when they are first used, so that ``handgrad.engine.checks`` does not load a compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Input as Input
    from .graph import Node as Node
    from .layers.add import Add as Add
    from .layers.avgpool2d import AvgPool2D as AvgPool2D
    from .layers.conv2d import Conv2D as Conv2D
    from .layers.dense import Dense as Dense
    from .layers.dropout import Dropout as Dropout
    from .layers.flatten import Flatten as Flatten
    from .layers.linear import Linear as Linear
    from .layers.maxpool2d import MaxPool2D as MaxPool2D
    from .layers.relu import ReLU as ReLU
    from .layers.sigmoid import Sigmoid as Sigmoid
    from .layers.softmax import Softmax as Softmax
    from .layers.tanh import Tanh as Tanh
    from .losses.mean_squared_error import MeanSquaredError as MeanSquaredError
    from .losses.softmax_cross_entropy import SoftmaxCrossEntropy as SoftmaxCrossEntropy
    from .network import Network as Network
    from .optimizers.adam import Adam as Adam
    from .optimizers.momentum import Momentum as Momentum
    from .optimizers.sgd import SGD as SGD

_HOMES = {
    "Input": "graph",
    "Node": "graph",
    "Network": "network",
    "Add": "layers.add",
    "AvgPool2D": "layers.avgpool2d",
    "Conv2D": "layers.conv2d",
    "Dense": "layers.dense",
    "Dropout": "layers.dropout",
    "Flatten": "layers.flatten",
    "Linear": "layers.linear",
    "MaxPool2D": "layers.maxpool2d",
    "ReLU": "layers.relu",
    "Sigmoid": "layers.sigmoid",
    "Softmax": "layers.softmax",
    "Tanh": "layers.tanh",
    "MeanSquaredError": "losses.mean_squared_error",
    "SoftmaxCrossEntropy": "losses.softmax_cross_entropy",
    "Adam": "optimizers.adam",
    "Momentum": "optimizers.momentum",
    "SGD": "optimizers.sgd",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
