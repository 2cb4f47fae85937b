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
    from .layers.batch_norm import BatchNorm as BatchNorm
    from .layers.concat import Concat as Concat
    from .layers.conv2d import Conv2D as Conv2D
    from .layers.conv_transpose2d import ConvTranspose2D as ConvTranspose2D
    from .layers.dense import Dense as Dense
    from .layers.dropout import Dropout as Dropout
    from .layers.flatten import Flatten as Flatten
    from .layers.global_avgpool2d import GlobalAvgPool2D as GlobalAvgPool2D
    from .layers.global_maxpool2d import GlobalMaxPool2D as GlobalMaxPool2D
    from .layers.leaky_relu import LeakyReLU as LeakyReLU
    from .layers.linear import Linear as Linear
    from .layers.local_response_norm import LocalResponseNorm as LocalResponseNorm
    from .layers.log_softmax import LogSoftmax as LogSoftmax
    from .layers.maxpool2d import MaxPool2D as MaxPool2D
    from .layers.multiply import Multiply as Multiply
    from .layers.relu import ReLU as ReLU
    from .layers.reshape import Reshape as Reshape
    from .layers.sigmoid import Sigmoid as Sigmoid
    from .layers.simple_rnn import SimpleRNN as SimpleRNN
    from .layers.softmax import Softmax as Softmax
    from .layers.step import Step as Step
    from .layers.tanh import Tanh as Tanh
    from .layers.upsample2d import Upsample2D as Upsample2D
    from .losses.binary_cross_entropy import BinaryCrossEntropy as BinaryCrossEntropy
    from .losses.cross_entropy import CrossEntropy as CrossEntropy
    from .losses.hinge import Hinge as Hinge
    from .losses.mean_absolute_error import MeanAbsoluteError as MeanAbsoluteError
    from .losses.mean_squared_error import MeanSquaredError as MeanSquaredError
    from .losses.perceptron import Perceptron as Perceptron
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
    "BatchNorm": "layers.batch_norm",
    "Concat": "layers.concat",
    "Conv2D": "layers.conv2d",
    "ConvTranspose2D": "layers.conv_transpose2d",
    "Dense": "layers.dense",
    "Dropout": "layers.dropout",
    "Flatten": "layers.flatten",
    "GlobalAvgPool2D": "layers.global_avgpool2d",
    "GlobalMaxPool2D": "layers.global_maxpool2d",
    "LeakyReLU": "layers.leaky_relu",
    "Linear": "layers.linear",
    "LocalResponseNorm": "layers.local_response_norm",
    "LogSoftmax": "layers.log_softmax",
    "MaxPool2D": "layers.maxpool2d",
    "Multiply": "layers.multiply",
    "ReLU": "layers.relu",
    "Reshape": "layers.reshape",
    "Sigmoid": "layers.sigmoid",
    "SimpleRNN": "layers.simple_rnn",
    "Softmax": "layers.softmax",
    "Step": "layers.step",
    "Tanh": "layers.tanh",
    "Upsample2D": "layers.upsample2d",
    "BinaryCrossEntropy": "losses.binary_cross_entropy",
    "CrossEntropy": "losses.cross_entropy",
    "Hinge": "losses.hinge",
    "MeanAbsoluteError": "losses.mean_absolute_error",
    "MeanSquaredError": "losses.mean_squared_error",
    "Perceptron": "losses.perceptron",
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
