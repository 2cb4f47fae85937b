"""PyTorch agrees, to 1e-9 in float64: with the layers that have no such test of their own, and with whole networks.

The other layers and losses are compared in their own files, over all their options; the last test here demands that
none is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from handgrad.engine import (
    SGD,
    Adam,
    Add,
    AvgPool2D,
    BatchNorm,
    BinaryCrossEntropy,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Input,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2D,
    Momentum,
    Multiply,
    Network,
    ReLU,
    Reshape,
    Sigmoid,
    SimpleRNN,
    Softmax,
    SoftmaxCrossEntropy,
    Tanh,
    Upsample2D,
)
from handgrad.engine.cases import LAYERS, LOSSES

LIMIT = 1e-9
TESTS = Path(__file__).parent
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


SAME_SHAPE = {
    "relu": (ReLU, lambda torch, z: torch.relu(z)),
    "sigmoid": (Sigmoid, lambda torch, z: torch.sigmoid(z)),
    "tanh": (Tanh, lambda torch, z: torch.tanh(z)),
    "linear": (Linear, lambda torch, z: z * 1),
    "flatten": (Flatten, lambda torch, z: z.flatten(1)),
    "dropout": (lambda: Dropout(0.3), lambda torch, z: torch.nn.functional.dropout(z, 0.3, training=False)),
    "softmax": (lambda: Softmax(), lambda torch, z: torch.softmax(z, 1)),
}


@pytest.mark.parametrize("name", SAME_SHAPE)
@pytest.mark.parametrize("samples", [1, 35])
@pytest.mark.parametrize("size", [1.0, 30.0, 800.0])
def test_layers_of_one_input(torch, at_point, close, rng, name, samples, size):
    make, function = SAME_SHAPE[name]
    shape = (samples, 7) if name == "softmax" else (samples, 3, 4, 5)
    point = at_point(make, size * rng.normal(size=shape))
    z = torch.tensor(point.x[0], requires_grad=True)
    a = function(torch, z)
    a.backward(torch.tensor(point.dL_dz))
    close(point.z, a.detach().numpy(), LIMIT)
    np.testing.assert_allclose(point.dL_dx[0], z.grad.numpy(), rtol=LIMIT, atol=LIMIT)


def test_relu_at_its_kink(torch, at_point):
    point = at_point(ReLU, [[-1.0, 0.0, 1.0]])
    z = torch.tensor(point.x[0], requires_grad=True)
    torch.relu(z).backward(torch.tensor(point.dL_dz))
    np.testing.assert_array_equal(point.dL_dx[0], z.grad.numpy())


def test_dropout_with_the_mask_that_was_drawn(torch, at_point, close, rng):
    """PyTorch draws other numbers, so our mask is read from where the output is 0 and applied as PyTorch scales."""
    point = at_point(lambda: Dropout(0.4), rng.uniform(1, 2, size=(40, 30)), training=True)
    x, mask = torch.tensor(point.x[0], requires_grad=True), torch.tensor(point.z != 0)
    assert 0.5 < mask.double().mean() < 0.7
    z = x * mask / (1 - 0.4)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), LIMIT)
    close(point.dL_dx[0], x.grad.numpy(), LIMIT)


@pytest.mark.parametrize("inputs", [2, 3])
def test_add(torch, at_point, close, rng, inputs):
    point = at_point(Add, *rng.normal(size=(inputs, 5, 2, 3, 3)))
    x = [torch.tensor(array, requires_grad=True) for array in point.x]
    sum(x).backward(torch.tensor(point.dL_dz))
    for ours, theirs in zip(point.dL_dx, x, strict=True):
        close(ours, theirs.grad.numpy(), LIMIT)


def lenet(torch):
    image = Input((1, 28, 28))
    x = MaxPool2D(2)(ReLU()(Conv2D(6, 5, padding="same")(image)))
    x = MaxPool2D(2)(ReLU()(Conv2D(16, 5)(x)))
    z = Dense(10)(ReLU()(Dense(84)(ReLU()(Dense(120)(Flatten()(x))))))
    f = torch.nn.functional

    def forward(x, p):
        x = f.max_pool2d(torch.relu(f.conv2d(x, p["conv1.W"], p["conv1.b"], padding=2)), 2)
        x = f.max_pool2d(torch.relu(f.conv2d(x, p["conv2.W"], p["conv2.b"])), 2).flatten(1)
        for name in ("dense1", "dense2"):
            x = torch.relu(f.linear(x, p[f"{name}.W"], p[f"{name}.b"]))
        return f.linear(x, p["dense3.W"], p["dense3.b"])

    return image, z, forward


def residual(torch):
    """relu(f(x) + x) with batch normalization, then two branches side by side, as ResNet and Inception have them."""
    image = Input((3, 8, 8))
    x = ReLU()(BatchNorm()(Conv2D(4, 3, padding=1)(image)))
    y = BatchNorm()(Conv2D(4, 3, padding=1, groups=2)(x))
    x = ReLU()(Add()(y, x))
    x = Concat()(Conv2D(2, 1)(x), AvgPool2D(3, stride=1, padding=1)(x), Conv2D(3, 3, dilation=2, padding=2)(x))
    z = Dense(10)(GlobalAvgPool2D()(LeakyReLU(0.2)(LocalResponseNorm(3, alpha=0.3)(x))))
    f = torch.nn.functional

    def norm(x, p, name):
        return f.batch_norm(x, None, None, p[f"{name}.gamma"], p[f"{name}.beta"], training=True)

    def forward(x, p):
        x = torch.relu(norm(f.conv2d(x, p["conv1.W"], p["conv1.b"], padding=1), p, "batchnorm1"))
        y = norm(f.conv2d(x, p["conv2.W"], p["conv2.b"], padding=1, groups=2), p, "batchnorm2")
        x = torch.relu(y + x)
        branches = [
            f.conv2d(x, p["conv3.W"], p["conv3.b"]),
            f.avg_pool2d(x, 3, 1, 1),
            f.conv2d(x, p["conv4.W"], p["conv4.b"], padding=2, dilation=2),
        ]
        x = f.leaky_relu(f.local_response_norm(torch.cat(branches, 1), 3, 0.3, 0.75, 1.0), 0.2)
        return f.linear(x.mean((2, 3)), p["dense1.W"], p["dense1.b"])

    return image, z, forward


def encoder_decoder(torch):
    """Down and up again with a gate, as a fully convolutional network has it, then read row by row."""
    image = Input((1, 8, 8))
    x = Tanh()(Conv2D(3, 3, stride=2, padding=(0, 1, 0, 1))(image))
    up = Upsample2D(2, method="bilinear")(x)
    x = Multiply()(ConvTranspose2D(3, 4, stride=2, padding=1)(x), Sigmoid()(up))
    x = Reshape((8, 8))(Conv2D(1, 1)(x))
    z = LogSoftmax()(Dense(10)(SimpleRNN(6)(x)))
    f = torch.nn.functional

    def forward(x, p):
        x = torch.tanh(f.conv2d(f.pad(x, (0, 1, 0, 1)), p["conv1.W"], p["conv1.b"], stride=2))
        gate = torch.sigmoid(f.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        x = gate * f.conv_transpose2d(x, p["convtranspose1.W"], p["convtranspose1.b"], stride=2, padding=1)
        x = f.conv2d(x, p["conv2.W"], p["conv2.b"]).reshape(-1, 8, 8)
        a = torch.zeros(len(x), 6, dtype=torch.float64)
        for t in range(8):
            a = torch.tanh(x[:, t] @ p["rnn1.W_x"].T + a @ p["rnn1.W_h"].T + p["rnn1.b"])
        return torch.log_softmax(f.linear(a, p["dense1.W"], p["dense1.b"]), 1)

    return image, z, forward


def values_of(network, torch):
    return {name: torch.tensor(array, requires_grad=True) for name, array in network.parameters.items()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("make", [lenet, residual, encoder_decoder])
def test_all_gradients_of_whole_networks(torch, close, make, threads):
    rng = np.random.default_rng(0)
    image, z, forward = make(torch)
    network = Network(image, z, dtype="float64", seed=3, threads=threads)
    for array in network.parameters.values():
        if array.ndim == 1:
            array[...] = rng.normal(size=array.shape)  # biases that start at 0 hide what is forgotten
    images, labels = rng.normal(size=(35, *image.shape)), rng.integers(0, 10, 35)
    parameters, x = values_of(network, torch), torch.tensor(images, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(forward(x, parameters), torch.tensor(labels))
    loss.backward()
    L, dL_dz = SoftmaxCrossEntropy()(network.forward(images, training=True), labels)
    close(network.backward(dL_dz), x.grad.numpy(), LIMIT, "input")
    close(L, loss.item(), LIMIT)
    scale = max(np.abs(p.grad.numpy()).max() for p in parameters.values())
    for name, gradient in network.gradients.items():
        error = np.abs(gradient - parameters[name].grad.numpy()).max()
        # the bias before a batch normalization has the gradient 0, and rounding leaves 1e-14 of it
        assert error <= LIMIT * max(np.abs(gradient).max(), 1e-3 * scale), name


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_ten_steps_of_training(torch, close, name):
    rng = np.random.default_rng(1)
    x = Input((6,))
    network = Network(x, Dense(3)(Tanh()(BatchNorm()(Dense(5)(x)))), dtype="float64", seed=1)
    p = values_of(network, torch)
    ours, theirs = {
        "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        "momentum": (Momentum(0.1, momentum=0.8), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8)),
        "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    }[name]
    theirs, f = theirs(p.values()), torch.nn.functional
    for _ in range(10):
        images, target = rng.normal(size=(20, 6)), rng.uniform(size=(20, 3))
        z = network.forward(images, training=True)
        L, dL_dz = BinaryCrossEntropy(logits=True)(z, target)
        network.backward(dL_dz)
        ours.step(network)
        h = f.linear(torch.tensor(images), p["dense1.W"], p["dense1.b"])
        h = torch.tanh(f.batch_norm(h, None, None, p["batchnorm1.gamma"], p["batchnorm1.beta"], training=True))
        loss = f.binary_cross_entropy_with_logits(f.linear(h, p["dense2.W"], p["dense2.b"]), torch.tensor(target))
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        close(L, loss.item(), LIMIT)
    for parameter, array in network.parameters.items():
        if parameter != "dense1.b":  # its gradient is rounding alone, which Adam divides by itself
            close(array, p[parameter].detach().numpy(), 1e-8, parameter)


def test_no_layer_and_no_loss_is_left_out():
    here = set(SAME_SHAPE) | {"add"}
    for folder, names in (("layers", LAYERS), ("losses", LOSSES)):
        for name in names:
            text = (TESTS / folder / f"test_{name}.py").read_text(encoding="utf-8")
            marked = re.search(r"@pytest\.mark\.parity\n(@.*\n|    .*\n|\).*\n)*def test_", text)
            assert marked or name in here, f"{folder}/test_{name}.py compares nothing with PyTorch"
