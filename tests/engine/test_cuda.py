"""CUDA kernels in the simulator: every layer, loss and optimiser against the literal code, in two orders of threads."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handgrad import engine
from handgrad.engine import (
    SGD,
    Adam,
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    CrossEntropy,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPool2D,
    MeanSquaredError,
    Momentum,
    Network,
    ReLU,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
    cuda,
    schedules,
)
from handgrad.engine.agreement import LITERAL_LIMIT, compare, largest
from handgrad.engine.cases import CASES, Case
from handgrad.engine.checks import ConfigurationError, DeviceError
from handgrad.engine.feed import Feed
from handgrad.engine.layers import dense
from handgrad.engine.layers.layer import Layer
from handgrad.engine.losses.loss import Loss, LossOfValues
from handgrad.engine.metrics import evaluate
from handgrad.engine.models.build import build
from handgrad.engine.optimizers.optimizer import Optimizer
from handgrad.engine.simulator import ORDERS
from handgrad.engine.training import Training

ENGINE = Path(engine.__file__).parent
EVERY = [pytest.param(case, id=f"{name} {case.title}".strip()) for name, cases in CASES.items() for case in cases]
# tiles of several filters and columns, which the small configurations of the curriculum do not need
WIDER = (
    Case("5x5 same", lambda: Conv2D(6, 5, padding="same"), ((1, 6, 7),)),
    Case("9 filters of 6 channels, 5 samples", lambda: Conv2D(9, 3), ((6, 5, 6),), 5),
    Case("2 groups of 3", lambda: Conv2D(8, (2, 3), groups=2, padding=(1, 0, 2, 1)), ((6, 5, 5),)),
    Case("stride 2, dilation 2", lambda: Conv2D(5, 3, stride=2, dilation=2, padding=2), ((3, 7, 7),)),
    Case("stride (2, 1)", lambda: Conv2D(4, (2, 3), stride=(2, 1)), ((3, 5, 6),)),
    Case("1x1", lambda: Conv2D(9, 1), ((5, 3, 3),)),
    Case("transposed", lambda: ConvTranspose2D(4, 3), ((5, 3, 3),)),
    Case("transposed, stride 2", lambda: ConvTranspose2D(4, 3, stride=2, padding="same"), ((3, 3, 3),)),
    Case("dense, features a multiple of 4", lambda: Dense(7), ((12,),), 9),
    Case("dense, features no multiple of 4", lambda: Dense(6), ((9,),), 5),
)


@pytest.fixture(params=ORDERS)
def order(request):
    """Let the threads of a block take turns in one order or the other; in one of them indices are checked."""
    simulator = cuda.device().simulator
    simulator.order, simulator.is_guarded = request.param, request.param == "forward"
    return request.param


def assert_agrees(check):
    z, literal = check.literal()
    output = check.network.outputs[0].name
    floor = 1e-3 * max(map(largest, check.kernel.values()))
    assert compare(check.cuda[output], z).relative < LITERAL_LIMIT
    for name in check.kernel:
        assert compare(check.cuda[name], literal[name], floor).relative < LITERAL_LIMIT, name


@pytest.mark.parametrize("case", [*EVERY, *(pytest.param(case, id=case.title) for case in WIDER)])
def test_every_layer_and_loss_is_the_literal_code(order, case):
    assert_agrees(case.check(seed=1, device="cuda"))


def test_a_network_with_branches_and_dropout_is_the_literal_code(order):
    x = Input((2, 6, 6))
    y = MaxPool2D(2)(ReLU()(Conv2D(4, 3, padding="same")(x)))
    z = Dense(3)(Dropout(0.5)(Tanh()(Dense(8)(Flatten()(engine.Add()(y, Conv2D(4, 1)(y)))))))
    network = Network(x, z, dtype="float64", seed=3, threads=1)
    rng = np.random.default_rng(0)
    from handgrad.engine.gradcheck import GradientCheck

    samples, labels = rng.normal(size=(5, 2, 6, 6)), rng.integers(0, 3, 5)
    assert_agrees(GradientCheck(network, SoftmaxCrossEntropy(), [samples], labels, training=True, device="cuda"))


def in_lanes(matrix):
    """Return (features, samples) as (blocks, features, WARP)."""
    features, samples = matrix.shape
    return np.ascontiguousarray(matrix.reshape(features, samples // cuda.WARP, cuda.WARP).transpose(1, 0, 2))


@pytest.mark.parametrize(("I", "J", "samples", "side"), [(20, 12, 8, 16), (36, 20, 8, 32), (16, 16, 16, 16)])
@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_wide_layers_multiply_matrices(order, close, I, J, samples, side, dtype, limit):
    rng = np.random.default_rng(0)
    W, b, x, dL_dz = (rng.normal(size=shape).astype(dtype) for shape in ((I, J), I, (J, samples), (I, samples)))
    z, dL_dx, dL_dW = in_lanes(np.full_like(dL_dz, np.nan)), in_lanes(np.full_like(x, np.nan)), np.full_like(W, np.nan)
    dense.multiply_matrices("forward", W, in_lanes(x), b, z, side)
    dense.multiply_matrices("input", W, in_lanes(dL_dz), b, dL_dx, side)
    dense.multiply_matrices("weights", in_lanes(dL_dz), in_lanes(x), b, dL_dW, side)
    close(z, in_lanes(W @ x + b[:, None]), limit)
    close(dL_dx, in_lanes(W.T @ dL_dz), limit)
    close(dL_dW, dL_dz @ x.T, limit)


def test_the_tiles_of_the_gpu_are_right_too(close):
    """One block of 256 threads with 8 x 8 numbers each, two stretches of the sum and an edge."""
    rng = np.random.default_rng(0)
    W, b, x = rng.normal(size=(132, 12)), rng.normal(size=132), rng.normal(size=(12, 8))
    z = in_lanes(np.full((132, 8), np.nan))
    dense.multiply_matrices("forward", W, in_lanes(x), b, z)
    close(z, in_lanes(W @ x + b[:, None]), 1e-13)


def test_float32_is_near_float64(close):
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(3, 1, 10, 10)), rng.normal(size=(3, 5))
    model = "conv 6@5x5 same > tanh > avgpool 2 > conv 8@3x3 > relu > maxpool 2 > dense 12 > sigmoid > dense 5"
    found = []
    for dtype, device in (("float32", "cuda"), ("float64", "cpu")):
        network = build(model, (1, 10, 10), dtype=dtype, device=device, seed=1, threads=1)
        found.append([network.forward(x), network.backward(u), *(a.copy() for a in network.gradients.values())])
        assert found[-1][0].dtype == dtype
    for single, double in zip(*found, strict=True):
        close(single, double, 1e-5)


def small(device, dtype="float64"):
    x = Input((1, 6, 6))
    y = Sigmoid()(Conv2D(2, 2, padding="same")(x))
    y = BatchNorm()(MaxPool2D(2)(ReLU()(Conv2D(4, 3, padding="same")(y))))
    y = Dense(3)(Tanh()(Dense(5)(ReLU()(Dense(7)(Dropout(0.3)(Flatten()(y)))))))
    return Network(x, y, dtype=dtype, device=device, seed=1, threads=1)


def pictures(count=23):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 1, 6, 6), dtype=np.uint8), rng.integers(0, 3, count)
    return Feed(images, labels, np.array([1 / 255]), np.array([-0.3]))


@pytest.mark.parametrize(
    ("loss", "optimizer", "limit"),
    [
        pytest.param(SoftmaxCrossEntropy, lambda: SGD(0.1), 1e-13, id="sgd"),
        pytest.param(SoftmaxCrossEntropy, lambda: Momentum(0.05), 1e-13, id="momentum"),
        pytest.param(SoftmaxCrossEntropy, lambda: Adam(0.01), 1e-5, id="adam"),
        pytest.param(MeanSquaredError, lambda: SGD(0.1), 1e-13, id="values"),
    ],
)
def test_training_is_that_of_the_cpu(order, close, loss, optimizer, limit):
    """Joined activations, dropout, batch normalization, a smaller last mini-batch: same numbers, counts and words.

    The gradient of a bias before a batch normalization is 0, and Adam makes steps of what rounding leaves of it.
    """
    found = []
    for device in ("cpu", "cuda"):
        network, step = small(device), optimizer()
        training = Training(
            network, loss(), step, pictures(13), pictures(9), epochs=2, batch_size=5, schedule=schedules.cosine, seed=3
        )
        words = list(training.run())
        found.append((network, step, training.progress.history))
        assert words.count("epoch") == 2
    (ours, our_step, history), (theirs, their_step, their_history) = found
    for name, array in ours.state().items():
        close(theirs.state()[name], array, max(limit, 1e-12), name)
    for name, array in our_step.state["network"].items():
        close(their_step.state["network"][name], array, max(limit, 1e-11), name)
    assert (ours.draw, our_step.steps) == (theirs.draw, their_step.steps)
    for one, other in zip(history, their_history, strict=True):
        assert one["train_accuracy"] == other["train_accuracy"]
        assert one["validation_accuracy"] == other["validation_accuracy"]
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=limit * 100)
        assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=limit * 1000)


def test_activations_are_joined_in_training_alone():
    network = small("cuda")
    joined = {"conv1": "sigmoid1", "conv2": "relu1", "dense1": "relu2", "dense2": "tanh1"}
    assert network.pass_for(4, input_gradient=False, fused=True).joined == joined
    assert network.pass_for(4).joined == {}


def test_evaluation_is_that_of_the_cpu():
    results = [evaluate(small(device), pictures(), SoftmaxCrossEntropy(), 8) for device in ("cpu", "cuda")]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-12)
    np.testing.assert_array_equal(results[0].confusion, results[1].confusion)


def test_ties_and_numbers_that_are_none_are_undecided():
    network = Network(x := Input((2,)), Dense(2)(x), dtype="float64", device="cuda", threads=1)
    network.parameters["dense1.W"] = np.eye(2)
    feed = Feed(np.array([[1.0, 0], [2, 2], [np.nan, 0]]), np.array([0, 1, 0]), np.ones(1), np.zeros(1))
    result = evaluate(network, feed, SoftmaxCrossEntropy())
    assert result.confusion.tolist() == [[1, 0], [0, 0]] and result.undecided.tolist() == [1, 1]


def test_outputs_that_are_no_probabilities_are_found():
    network = Network(x := Input((2,)), Dense(2)(x), device="cuda", threads=1)
    network.parameters["dense1.b"] = [3.0, 4.0]
    feed = Feed(np.zeros((4, 2)), np.array([0, 1, 0, 1]), np.ones(1), np.zeros(1))
    training = Training(network, CrossEntropy(), SGD(), feed, feed, epochs=1, batch_size=4, schedule=schedules.constant)
    with pytest.raises(ConfigurationError, match="Softmax"):
        list(training.run())


def test_values_and_gradients_can_be_looked_at():
    network = small("cuda")
    x = np.random.default_rng(0).normal(size=(3, 1, 6, 6))
    network.backward(np.ones_like(network.forward(x, training=True)))
    assert network.values["conv2"].shape == network.value_gradients["conv2"].shape == (3, 4, 6, 6)
    assert np.abs(network.gradients["conv1.W"]).max() > 0
    assert network.statistics["batchnorm1.running_mean"].any()
    assert network.values["relu1"].min() == 0 > network.values["conv2"].min()  # nothing is joined where one can look
    np.testing.assert_array_equal(network.values["input"], x)


def test_every_layer_loss_and_optimizer_has_kernels():
    classes = [getattr(engine, name) for name in engine.__all__]
    for base, names in (
        (Layer, ("forward_cuda", "backward_cuda")),
        (Loss, ("on_cuda",)),
        (Optimizer, ("update_cuda",)),
    ):
        for one in classes:
            if isinstance(one, type) and issubclass(one, base) and one is not LossOfValues:
                assert all(getattr(one, name) is not getattr(base, name) for name in names), one


def sources():
    """Yield every file that has kernels, but for other ways to do a convolution, which a GPU does in its own."""
    for folder in ("layers", "losses", "optimizers"):
        for path in sorted((ENGINE / folder).glob("*.py")):
            if path.name not in ("conv2d_one.py", "winograd.py"):
                yield path.relative_to(ENGINE).as_posix(), path.read_text(encoding="utf-8")


def tags(text, mark):
    """Return the equation tags of the functions with a decorator of this name."""
    lines, found = text.splitlines(), set()
    for node in ast.walk(ast.parse(text)):
        names = {ast.unparse(d).partition("(")[0] for d in getattr(node, "decorator_list", ())}
        if isinstance(node, ast.FunctionDef) and mark in names:
            comments = "".join(line.partition("#")[2] for line in lines[node.lineno - 1 : node.end_lineno])
            found |= set(re.findall(r"\((\w+\.\d+)\)", comments))
    return found


@pytest.mark.parametrize(("path", "text"), [pytest.param(*source, id=source[0]) for source in sources()])
def test_cuda_kernels_carry_the_tags_of_the_cpu_kernels_and_no_atomics(path, text):
    assert tags(text, "kernel") <= tags(text, "cuda_kernel") | tags(text, "device_function") | tags(text, "scalar"), (
        path
    )
    assert "atomic" not in text


def run_without_simulator(*arguments):
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_ENABLE_CUDASIM"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment | {"CUDA_VISIBLE_DEVICES": ""}
    )


@pytest.mark.parametrize("words", [("gradcheck", "relu"), ("train", "mlp", "--data", "toy:xor"), ("evaluate", "x")])
def test_without_a_gpu_cuda_is_one_clear_line(words):
    done = run_without_simulator("-m", "handgrad", *words, "--device", "cuda")
    assert done.returncode == 4 and done.stdout == ""
    assert re.fullmatch(r"handgrad: device cuda: .+; use --device cpu.*\n", done.stderr), done.stderr


def test_without_a_gpu_auto_is_the_cpu():
    done = run_without_simulator("-m", "handgrad", "gradcheck", "relu", "--device", "auto", "--json")
    assert done.returncode == 0 and "cuda" not in done.stdout


def test_without_numba_cuda_everything_else_works():
    code = """
import sys
sys.modules["numba.cuda"] = None
from handgrad.engine import Dense, Input, Network
from handgrad.engine.checks import DeviceError
import numpy as np
x = Input((2,))
y = Dense(1)(x)
assert Network(x, y, threads=1).forward(np.ones((1, 2))).shape == (1, 1)
try:
    Network(x, y, device="cuda")
except DeviceError as error:
    print(error)
"""
    done = run_without_simulator("-c", code)
    assert done.returncode == 0, done.stderr
    assert 'pip install "handgrad[cuda]"' in done.stdout and "\n" not in done.stdout.strip()


def test_cuda_is_not_imported_before_it_is_needed():
    code = "import sys, handgrad.engine.training, handgrad.cli; print([m for m in sys.modules if m.startswith('numba.cuda')])"
    assert run_without_simulator("-c", code).stdout.strip() == "[]"


def test_a_driver_call_that_fails_is_reported():
    class Status(int):
        name = "CUDA_ERROR_INVALID_VALUE"

    assert cuda._check((Status(0), 5)) == (5,)
    with pytest.raises(DeviceError, match="CUDA_ERROR_INVALID_VALUE"):
        cuda._check((Status(1),))
