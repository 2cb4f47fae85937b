"""The agreement table says "ok" of what is right, "FAIL" of every planted bug, and "kink" where nothing can be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handgrad.engine import (
    Add,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPool2D,
    MeanSquaredError,
    Network,
    ReLU,
    Sigmoid,
    Softmax,
    SoftmaxCrossEntropy,
    Step,
    Tanh,
)
from handgrad.engine.agreement import DIFFERENCE_LIMIT, LITERAL_LIMIT, Agreement, Comparison, compare
from handgrad.engine.checks import ConfigurationError
from handgrad.engine.gradcheck import GradientCheck


def chain(shape, *layers, threads=1, seed=0, dtype="float64"):
    x = node = Input(shape)
    for layer in layers:
        node = layer(node)
    return Network(x, node, dtype=dtype, threads=threads, seed=seed)


def check(network, samples=3, *, loss=None, seed=0, **options):
    """Return the rows of the table by name, for random samples and labels."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(samples, *node.shape)) for node in network.inputs]
    target = rng.integers(network.outputs[0].size, size=samples)
    if loss is not None:
        target = rng.normal(size=(samples, *network.outputs[0].shape))
    run = GradientCheck(network, loss or SoftmaxCrossEntropy(), x, target, **options)
    return {row.name: row for row in run.run(elements=None)}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_correct_network_passes(threads):
    network = chain(
        (2, 5, 5), Conv2D(3, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Dense(6), Tanh(), Dense(4), threads=threads
    )
    rows = check(network, samples=17)
    value = rows.pop("value of dense2")
    assert value.verdict == "ok" and list(value.views) == ["literal"] and value.shape == (17, 4)
    assert list(rows) == [*network.parameters, "input"]
    assert [row.verdict for row in rows.values()] == ["ok"] * 7
    for name, row in rows.items():
        assert row.checked + row.kinks == np.prod(row.shape) and row.checked > 0
        assert row.views["difference"].relative < DIFFERENCE_LIMIT and row.views["literal"].relative < LITERAL_LIMIT
        if name != "input":
            assert row.largest == np.abs(network.gradients[name]).max()


@pytest.mark.parametrize("training", [False, True])
def test_every_layer_and_both_losses(training):
    network = chain((1, 6, 6), Conv2D(2, 3, stride=2, padding="same", dilation=2), Sigmoid(), AvgPool2D(2, stride=1),
                    Flatten(), Dropout(0.4), Dense(3), Softmax())  # fmt: skip
    rows = check(network, loss=MeanSquaredError(), training=training)
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert {row.verdict for row in check(network, training=training).values()} == {"ok"}


def test_graphs_with_branches_and_two_inputs():
    a, b = Input((3,), name="a"), Input((3,), name="b")
    shared = Tanh()(Add()(a, Dense(3)(b)))
    network = Network([a, b], Dense(2)(Add()(shared, shared, Sigmoid()(shared), b)), dtype="float64", threads=1)
    rows = check(network)
    assert list(rows)[-2:] == ["a", "b"]
    assert {row.verdict for row in rows.values()} == {"ok"}


def test_one_hot_targets():
    network = chain((3,), Dense(2))
    run = GradientCheck(network, SoftmaxCrossEntropy(), [np.ones((2, 3))], np.array([[1, 0], [0, 1]]))
    assert {row.verdict for row in run.run()} <= {"ok", "rounding"}


def test_nothing_is_changed():
    network = chain((3,), Dense(4), Dropout(0.5), Dense(2))
    before, x = network.theta.copy(), np.random.default_rng(0).normal(size=(5, 3))
    given = x.copy()
    run = GradientCheck(network, SoftmaxCrossEntropy(), [x], np.array([0, 1, 0, 1, 1]), training=True)
    gradients = network.dL_dtheta.copy()
    list(run.run())
    np.testing.assert_array_equal(network.theta, before)
    np.testing.assert_array_equal(network.dL_dtheta, gradients)
    np.testing.assert_array_equal(x, given)


def test_elements_are_chosen_by_seed():
    network = chain((5,), Dense(20), Tanh(), Dense(3))
    run = GradientCheck(network, SoftmaxCrossEntropy(), [np.ones((2, 5))], np.array([0, 1]))
    few, again = (list(run.run(elements=7, seed=1)) for _ in range(2))
    assert few == again
    assert [row.checked for row in few] == [0, 7, 7, 7, 3, 7]


class DoubledWeights(Dense):
    """The weight gradient twice too large."""

    def finish(self, share, rank, size):
        super().finish(share, rank, size)
        share.gradients["W"][...] *= 2


class ForgottenBias(Dense):
    """The bias gradient of the first output alone."""

    def finish(self, share, rank, size):
        super().finish(share, rank, size)
        share.gradients["b"][1:] = 0


class WrongSign(Tanh):
    """The input gradient with the wrong sign."""

    def backward(self, share):
        super().backward(share)
        share.dL_dx[0][...] *= -1


class TransposedKernel(Conv2D):
    """The weight gradient with rows and columns of the kernel exchanged."""

    def backward(self, share):
        super().backward(share)
        share.gradients["W"][...] = share.gradients["W"].swapaxes(2, 3).copy()


class SlightlyOff(Dense):
    """One element off by a millionth part: too little for finite differences, not for the literal code."""

    def finish(self, share, rank, size):
        super().finish(share, rank, size)
        share.gradients["W"][0, 0] *= 1 + 1e-7


class WrongForward(Sigmoid):
    """A value that is not the formula's; the backward pass fits to it, so finite differences alone see nothing."""

    def forward(self, share):
        super().forward(share)
        share.z[...] = 1 - share.z

    def backward(self, share):
        super().backward(share)
        share.dL_dx[0][...] *= -1


@pytest.mark.parametrize(
    ("layers", "failing"),
    [
        ((DoubledWeights(4, name="bad"), Tanh(), Dense(2)), {"bad.W"}),
        ((ForgottenBias(4, name="bad"), Tanh(), Dense(2)), {"bad.b"}),
        ((Dense(4), WrongSign(), Dense(2)), {"dense1.W", "dense1.b", "input"}),
        ((SlightlyOff(4, name="bad"), Tanh(), Dense(2)), {"bad.W"}),
        (
            (Dense(4), WrongForward(), Dense(2)),
            {"value of dense2", "dense1.W", "dense1.b", "dense2.W", "dense2.b", "input"},
        ),
    ],
    ids=lambda value: (
        "" if isinstance(value, set) else next(type(x).__name__ for x in value if type(x).__module__ == __name__)
    ),
)
def test_a_planted_bug_fails(layers, failing):
    rows = check(chain((3,), *layers))
    assert {name for name, row in rows.items() if row.verdict == "FAIL"} == failing
    assert {row.verdict for name, row in rows.items() if name not in failing} <= {"ok"}


def test_a_transposed_kernel_fails_and_the_place_is_told():
    network = chain((1, 4, 4), TransposedKernel(2, 3, name="bad"), Tanh(), Flatten(), Dense(2))
    row = check(network)["bad.W"]
    assert row.verdict == "FAIL"
    assert row.views["difference"].index[2] != row.views["difference"].index[3]  # the diagonal is right


def test_a_relu_exactly_at_a_kink():
    network = chain((3,), Dense(2), ReLU(), Dense(2))
    network.theta[...] = 0  # every z of the first layer is 0
    network.parameters["dense2.W"] = np.array([[1.0, 2.0], [3.0, 5.0]])
    rows = check(network, samples=1)
    assert rows["dense1.W"].verdict == rows["dense1.b"].verdict == "kink"
    assert rows["dense1.b"].kinks == 2 and rows["dense1.b"].checked == 0
    assert np.isnan(rows["dense1.b"].views["difference"].relative)
    assert rows["dense2.b"].verdict == "ok"


def test_ties_in_a_pooling_window_are_kinks():
    network = chain((1, 2, 2), MaxPool2D(2), Flatten(), Dense(2))
    run = GradientCheck(network, SoftmaxCrossEntropy(), [np.zeros((1, 1, 2, 2))], np.array([1]))
    rows = {row.name: row for row in run.run(elements=None)}
    assert rows["input"].kinks >= 3 and rows["input"].verdict in ("ok", "kink")
    assert rows["dense1.b"].verdict == "ok"


def row(checked=1, **errors):
    """A row with these relative errors by view."""
    surrogate = errors.pop("surrogate", False)
    views = {view: Comparison(error, error, () if checked == 0 else (0,)) for view, error in errors.items()}
    return Agreement("w", (1,), 1.0, views, checked, 1 - checked, surrogate=surrogate)


def test_verdicts():
    nan = float("nan")
    assert row(literal=0.0, difference=0.0, symbolic=0.0).verdict == "ok"
    assert row(literal=0.5, difference=nan, checked=0).verdict == "FAIL", "a kink does not hide a wrong gradient"
    assert row(literal=0.0, difference=nan, checked=0).verdict == "kink"
    for view in ("literal", "difference", "symbolic"):
        for error in (0.5, nan):
            errors = {"literal": 0.0, "difference": 0.0, "symbolic": 0.0} | {view: error}
            assert row(**errors).verdict == "FAIL", f"{view} is off by {error}"
    assert row(literal=0.0, symbolic=1e-9, difference=0.0).verdict == "FAIL"
    assert row(literal=0.0, symbolic=0.5, difference=nan, checked=0).verdict == "FAIL"
    assert replace(row(literal=0.0, difference=5e-6), rounding=1e-5).verdict == "rounding"
    assert replace(row(literal=0.0, difference=5e-6), rounding=1e-5, vanishes=True).verdict == "ok"
    assert replace(row(literal=0.0, difference=5e-5), rounding=1e-5, vanishes=True).verdict == "FAIL"
    assert row(literal=0.0, symbolic=0.5, difference=0.5, surrogate=True).verdict == "surrogate"
    assert row(literal=0.5, symbolic=0.5, difference=0.5, surrogate=True).verdict == "FAIL"


def test_infinity_and_nan_agree_with_nothing():
    for a, b in ([np.inf, 1], [np.inf, 2]), ([1, np.nan], [1, np.nan]), ([1, 2], [1, -np.inf]):
        comparison = compare(np.array(a), np.array(b))
        assert np.isnan(comparison.relative) and comparison.index in ((0,), (1,))
    assert compare(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == Comparison(2.0, 0.5, (1,))
    assert compare(np.array([1e-9]), np.array([0.0]), floor=1e-3).relative == pytest.approx(1e-6)


def test_a_bias_that_a_batch_normalization_forgets_is_compared_all_the_same():
    for seed in range(3):
        network = chain((20,), Dense(20), BatchNorm(), Dense(10), seed=seed)
        assert {row.verdict for row in check(network, samples=32, training=True, seed=seed).values()} == {"ok"}


def test_nan_in_a_parameter_is_no_agreement():
    network = chain((3,), Dense(4), Tanh(), Dense(2))
    network.parameters["dense1.W"][0, 0] = np.nan
    assert "ok" not in {row.verdict for row in check(network).values()}


def test_only_float64_and_one_output():
    with pytest.raises(ConfigurationError, match="^gradcheck: got float32, expected a float64 network"):
        check(chain((3,), Dense(2), dtype="float32"))
    x = Input((3,))
    y = Dense(2)(x)
    network = Network(x, [y, Dense(2)(y)], dtype="float64", threads=1)
    with pytest.raises(ConfigurationError, match="^gradcheck: got 2 outputs, expected one"):
        check(network)


def test_rounding_of_the_quotient_is_no_error():
    """Weights so large that the gradients vanish: what remains of the quotient is the rounding of L."""
    network = chain((4,), Dense(5), Tanh(), Dense(2))
    network.theta *= 30
    x = np.random.default_rng(0).normal(size=(3, 4))
    run = GradientCheck(network, SoftmaxCrossEntropy(), [x], network.forward(x).argmax(axis=1))
    assert {row.verdict for row in run.run()} <= {"ok", "rounding"}


def test_a_view_is_perturbed_alone():
    """Flatten shares memory with the convolution before it, which another layer reads as well."""
    x = Input((1, 4, 4))
    conv = Conv2D(2, 3, padding=1)(x)
    left = Dense(3)(Flatten()(conv))
    right = Dense(3)(Flatten()(Tanh()(conv)))
    network = Network(x, Add()(left, right), dtype="float64", threads=1)
    run = GradientCheck(
        network, SoftmaxCrossEntropy(), [np.random.default_rng(0).normal(size=(2, 1, 4, 4))], np.array([0, 2])
    )
    gradient = network.value_gradients["flatten1"]
    for place in ((0, 0), (1, 7)):
        assert abs(run.difference("flatten1", place) - gradient[place]) < 1e-8


def test_a_quotient_that_is_no_number_is_no_agreement(monkeypatch):
    network = chain((3,), Dense(2))
    right = GradientCheck.difference
    monkeypatch.setattr(
        GradientCheck,
        "difference",
        lambda self, name, place: float("nan") if place == (1, 1) else right(self, name, place),
    )
    assert check(network)["dense1.W"].verdict == "FAIL"


def test_exact_derivatives_of_a_small_network():
    network = chain((1, 3, 3), Conv2D(1, 2), Tanh(), MaxPool2D(2), Flatten(), Dense(2))
    run = GradientCheck(
        network, SoftmaxCrossEntropy(), [np.random.default_rng(0).normal(size=(2, 1, 3, 3))], np.array([0, 1])
    )
    rows = list(run.run(exact=True))
    assert [row.verdict for row in rows] == ["ok"] * 6
    for row in rows[1:]:
        assert row.views["symbolic"].relative < 1e-14  # 30 digits against sums of some ten float64 numbers


def test_batch_normalization_couples_the_samples_and_keeps_its_statistics():
    network = chain((3,), Dense(4), BatchNorm(), Tanh(), Dense(2), threads=2)
    network.statistics["batchnorm1.running_mean"][:] = 7
    rows = check(network, samples=18, training=True)
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert rows["dense1.b"].largest < 1e-15  # a shift of everything is forgotten
    assert (network.statistics["batchnorm1.running_mean"] == 7).all()
    assert (network.statistics["batchnorm1.running_variance"] == 1).all()
    assert {row.verdict for row in check(network, samples=18).values()} == {"ok"}


def test_a_surrogate_is_called_one():
    layers = Dense(3), Step(surrogate="sigmoid"), Dense(2)
    rows = check(chain((4,), *layers))
    verdicts = {name: row.verdict for name, row in rows.items()}
    assert verdicts["dense1.W"] == verdicts["dense1.b"] == verdicts["input"] == "surrogate"
    assert verdicts["dense2.W"] == verdicts["dense2.b"] == verdicts["value of dense2"] == "ok"
    rows = check(chain((4,), Dense(3), Step(), Dense(2)))
    assert {row.verdict for row in rows.values()} == {"ok"} and rows["dense1.W"].largest == 0
