"""Batch normalization: kernels, literal code, finite differences, PyTorch and numbers by hand agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.derivations import batch_norm as derivation
from handgrad.engine import (
    SGD,
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    Input,
    MeanSquaredError,
    Network,
    ReLU,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
)
from handgrad.engine.checks import ConfigurationError, ShapeError
from handgrad.engine.feed import Feed
from handgrad.engine.training import Training, TrainingStep

FLAT = st.tuples(st.integers(2, 40), st.integers(1, 7))
IMAGES = st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(1, 4), st.integers(2, 4))
SHAPES = FLAT | IMAGES
OPTIONS = st.fixed_dictionaries({"eps": st.sampled_from([1e-5, 0.1]), "momentum": st.sampled_from([0.1, 1.0])})


def random_input(shape, seed):
    """Channels of different mean and spread."""
    rng = np.random.default_rng(seed)
    C = (1, shape[1], *[1] * (len(shape) - 2))
    return rng.normal(size=shape) * rng.uniform(0.5, 3, size=C) + rng.normal(size=C)


def random_statistics(C, seed):
    rng = np.random.default_rng([seed, 1])
    return {"running_mean": rng.normal(size=C), "running_variance": rng.uniform(0.5, 2, size=C)}


def total(x):
    """Sum over samples and positions, for each channel."""
    return x.sum(axis=(0, *range(2, x.ndim)))


def by_channel(values, x):
    return np.reshape(values, (1, -1, *[1] * (x.ndim - 2)))


@example((17, 2, 3, 3), {}, 0, 2)
@example((33, 3), {}, 0, 3)
@given(SHAPES, OPTIONS, st.integers(0, 99), st.sampled_from([1, 2, 3]))
def test_kernel_is_the_literal_code_in_training(at_point, close, shape, options, seed, threads):
    point = at_point(lambda: BatchNorm(**options), random_input(shape, seed), training=True, seed=seed, threads=threads)
    z, gradients = point.literal()
    close(point.z, z, 1e-10)
    # two values that are almost equal have a variance near 0, and 1 / √(variance + eps) multiplies rounding by up to
    # 300; their gradient is a small difference of large numbers
    scale = np.abs(by_channel(point.parameters["gamma"], z) / np.sqrt(point.x[0].var() + 1e-5)).max() + 1
    for name, gradient in point.all_gradients().items():
        np.testing.assert_allclose(gradient, gradients[name], rtol=1e-9, atol=1e-9 * scale, err_msg=name)


@given(SHAPES, OPTIONS, st.integers(0, 99), st.sampled_from([1, 2, 3]))
def test_kernel_is_the_literal_code_in_inference(at_point, shape, options, seed, threads):
    x, statistics = random_input(shape, seed), random_statistics(shape[1], seed)
    point = at_point(lambda: BatchNorm(**options), x, statistics=statistics, seed=seed, threads=threads)
    point.check_literal()
    for name, before in statistics.items():
        np.testing.assert_array_equal(point.network.statistics[f"{point.name}.{name}"], before)


@given(SHAPES, OPTIONS, st.integers(0, 99), st.sampled_from([1, 2, 3]))
def test_running_statistics_are_those_of_the_literal_code(at_point, close, shape, options, seed, threads):
    x, before = random_input(shape, seed), random_statistics(shape[1], seed)
    point = at_point(lambda: BatchNorm(**options), x, training=True, statistics=before, threads=threads)
    expected = derivation.running(
        *(a.astype(object) for a in before.values()), x.astype(object), momentum=options["momentum"]
    )
    for name, value in zip(before, expected):
        close(point.network.statistics[f"{point.name}.{name}"], value.astype(float), 1e-12, name)


@pytest.mark.parametrize("shape", [(5, 3), (19, 2, 2, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_finite_differences(at_point, shape, training):
    statistics = random_statistics(shape[1], 3)
    point = at_point(BatchNorm, random_input(shape, 0), training=training, statistics=statistics, threads=2)
    point.check_differences(h=1e-5, limit=1e-6)  # truncation h² |f'''| = 1e-10, rounding 1e-16 |L| / h = 1e-10


def test_four_samples_by_hand(at_point, close):
    """Mean 1, variance 1: x_hat is -1, -1, 1, 1; the two samples with one x_hat share what they get."""
    parameters = {"gamma": [3.0], "beta": [10.0]}
    point = at_point(
        lambda: BatchNorm(eps=1e-12),
        [[0], [0], [2], [2]],
        training=True,
        parameters=parameters,
        dL_dz=[[1], [0], [0], [0]],
    )
    close(point.z, [[7], [7], [13], [13]], 1e-11)
    close(point.dL_dx[0], [[1.5], [-1.5], [0], [0]], 1e-11)
    close(point.gradients["gamma"], [-1], 1e-11)
    close(point.gradients["beta"], [1], 1e-15)
    close(point.network.statistics["batchnorm1.running_mean"], [0.1], 1e-12)
    close(point.network.statistics["batchnorm1.running_variance"], [0.9 + 0.1 * 4 / 3], 1e-12)


@given(SHAPES, st.integers(0, 99))
def test_output_has_the_mean_beta_and_the_deviation_gamma(at_point, shape, seed):
    x = random_input(shape, seed)
    point = at_point(BatchNorm, x, training=True, seed=seed)
    m, gamma, beta = x.size // x.shape[1], point.parameters["gamma"], point.parameters["beta"]
    np.testing.assert_allclose(total(point.z) / m, beta, rtol=0, atol=1e-10)
    variance = total((x - by_channel(total(x) / m, x)) ** 2) / m
    spread = total((point.z - by_channel(beta, x)) ** 2) / m
    np.testing.assert_allclose(spread, gamma**2 * variance / (variance + 1e-5), rtol=1e-8, atol=1e-12)


@given(SHAPES, st.integers(0, 99))
def test_input_gradient_sums_to_0_and_is_orthogonal_to_x_hat_but_for_eps(at_point, shape, seed):
    x = random_input(shape, seed)
    point = at_point(lambda: BatchNorm(eps=0.1), x, training=True, seed=seed)
    m, gamma = x.size // x.shape[1], point.parameters["gamma"]
    variance = total((x - by_channel(total(x) / m, x)) ** 2) / m
    x_hat = (x - by_channel(total(x) / m, x)) / by_channel(np.sqrt(variance + 0.1), x)
    size = np.abs(point.dL_dx[0]).sum() + 1e-9
    np.testing.assert_allclose(total(point.dL_dx[0]), 0, atol=1e-12 * size)
    expected = gamma / np.sqrt(variance + 0.1) * point.gradients["gamma"] * 0.1 / (variance + 0.1)  # (batch_norm.17)
    np.testing.assert_allclose(total(point.dL_dx[0] * x_hat), expected, rtol=1e-9, atol=1e-11 * size)


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 99))
def test_shift_and_scale_of_the_input_are_forgotten(at_point, close, factor, offset, seed):
    x = random_input((9, 3), seed)
    one = at_point(lambda: BatchNorm(eps=1e-14), x, training=True)
    other = at_point(lambda: BatchNorm(eps=1e-14), factor * x + offset, training=True)
    close(other.z, one.z, 1e-10)
    close(factor * other.dL_dx[0], one.dL_dx[0], 1e-9)


@pytest.mark.parametrize("shape", [(50, 3), (50, 2, 3, 3)])
def test_number_of_workers_does_not_matter(at_point, close, shape):
    x = random_input(shape, 0)
    one, many = (at_point(BatchNorm, x, training=True, threads=threads) for threads in (1, 4))
    close(many.z, one.z, 1e-13)
    for name, gradient in one.all_gradients().items():
        close(many.all_gradients()[name], gradient, 1e-12, name)
    for name, array in one.network.statistics.items():
        close(many.network.statistics[name], array, 1e-13, name)


def test_empty_lanes_get_no_gradient_and_teach_nothing(at_point):
    """The gradient of x is not 0 where dL/dz is 0, so an empty lane would reach the weights of the layer before."""
    x = random_input((3, 2, 2, 2), 0)
    point = at_point(BatchNorm, x, training=True)
    gradient = point.network.last_pass.active[0].gradients["in0"]
    assert gradient.shape[-1] == 16 and np.abs(gradient[..., :3]).min() > 0 and not gradient[..., 3:].any()


@pytest.mark.parametrize("training", [True, False])
def test_what_lies_in_empty_lanes_does_not_count(training):
    """Layers before and after may leave numbers there, NaN as well."""
    rng, results = np.random.default_rng(0), []
    image = Input((2, 3, 3), name="x")
    network = Network(image, BatchNorm()(image), dtype="float64", threads=1)
    x, u = rng.normal(size=(2, 19, 2, 3, 3))
    for left in (0, 7, np.nan):
        current = network.pass_for(19)
        current.allocate_gradients()
        (part,) = current.active
        current.load("x", x)
        current.load_seed(0, u)
        part.values["x"][1, ..., 3:] = part.seeds[0][1, ..., 3:] = left
        current.prepare(training=training, draw=0)
        current.forward(part)
        current.backward(part)
        found = current.value(network.outputs[0].name), current.gradient("x"), network.dL_dtheta
        results.append([array.copy() for array in found])
    for other in results[1:]:
        for one, array in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(array, one)


@pytest.mark.parametrize("activation", [ReLU, Tanh, Sigmoid])
@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 2, 3]), st.booleans())
def test_joined_with_the_activation_behind_it_it_is_the_two_layers(activation, shape, seed, threads, training):
    rng, results = np.random.default_rng(seed), []
    node = Input(shape[1:], name="x")
    last = Flatten()(activation(name="a")(BatchNorm(name="bn")(node)))
    network = Network(node, last, dtype="float64", threads=threads)
    for array in network.parameters.values():
        array[...] = rng.normal(size=array.shape)
    x, u = random_input(shape, seed), rng.normal(size=(shape[0], last.size))
    statistics = random_statistics(shape[1], seed)
    for fused in (False, True):
        for name, array in statistics.items():
            network.statistics[f"bn.{name}"][...] = array
        current = network.pass_for(len(x), fused=fused)
        assert current.joined == ({"bn": "a"} if fused else {})
        current.allocate_gradients()
        current.load("x", x)
        current.load_seed(0, u)
        current.prepare(training=training, draw=0)
        current.run(current.forward)
        current.run(current.backward)
        current.reduce_gradients()
        found = current.value("a"), current.gradient("x"), current.gradient("bn"), network.dL_dtheta
        results.append([array.copy() for array in (*found, *network.statistics.values())])
    for one, other in zip(*results, strict=True):  # but for the order of sums, the same operations
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-11 * (1 + np.abs(one).max()))


def test_layer_before_learns_from_the_samples_alone(close):
    """Conv2D, then batch normalization: the weight gradient of 3 samples against finite differences."""
    rng = np.random.default_rng(0)
    image = Input((1, 4, 4))
    network = Network(image, Flatten()(BatchNorm()(Conv2D(2, 3)(image))), dtype="float64", threads=1)
    x, u, h = rng.normal(size=(3, 1, 4, 4)), rng.normal(size=(3, 8)), 1e-5
    network.forward(x, training=True)
    network.backward(u)
    found, W = network.gradients["conv1.W"].copy(), network.parameters["conv1.W"]
    quotients = np.empty(W.shape)
    for place in np.ndindex(*W.shape):
        before, L = W[place], []
        for value in (before + h, before - h):
            W[place] = value
            L.append((u * network.forward(x, training=True)).sum())
        W[place], quotients[place] = before, (L[0] - L[1]) / (2 * h)
    close(found, quotients, 1e-7)
    assert np.abs(network.gradients["conv1.b"]).max() < 1e-14  # a shift of a whole channel changes nothing


def test_float32_of_values_far_from_0(at_point, close):
    """Two passes over the values: one pass would lose every digit of the variance at a mean of 10,000."""
    x = (random_input((64, 2, 3, 3), 0) / 3 + 10_000).astype(np.float32)
    single = at_point(BatchNorm, x, dtype="float32", training=True)
    double = at_point(BatchNorm, x, training=True, parameters=single.parameters, dL_dz=single.dL_dz.astype(np.float64))
    # x - mean is exact but for the rounding of the mean, half a unit in the last place of 10,000: 5e-4
    close(single.z, double.z, 2e-3)
    close(single.gradients["gamma"], double.gradients["gamma"], 2e-3)


def test_float32_of_large_images_with_a_background(at_point, close):
    """50,000 pixels, most of them equal: all roundings of a long sum have one sign there."""
    x = np.full((16, 1, 224, 224), -0.4242, dtype=np.float32)
    x[:, :, 80:140, 80:140] = np.random.default_rng(0).normal(size=(16, 1, 60, 60))
    single = at_point(BatchNorm, x, dtype="float32", training=True)
    double = at_point(BatchNorm, x, training=True, parameters=single.parameters, dL_dz=single.dL_dz)
    close(single.z, double.z, 2e-6)  # sums of 64 values: 32 eps, of which the mean of 784 such sums keeps a part
    close(single.dL_dx[0], double.dL_dx[0], 2e-6)


def test_float32_is_float64_but_for_rounding(at_point, close):
    x = random_input((40, 3, 5, 5), 1).astype(np.float32)
    single = at_point(BatchNorm, x, dtype="float32", training=True)
    double = at_point(BatchNorm, x, training=True, parameters=single.parameters, dL_dz=single.dL_dz)
    close(single.z, double.z, 1e-5)  # sums of 1,000 values lane by lane: at most 63 eps / 2, and a few operations
    for name, gradient in single.all_gradients().items():
        assert gradient.dtype == np.float32
        close(gradient, double.all_gradients()[name], 1e-5, name)


def test_nan_stays_in_its_sample_in_inference_and_in_its_channel_in_training(at_point):
    x = random_input((20, 3), 0)
    x[17, 1] = np.nan
    inference, training = at_point(BatchNorm, x), at_point(BatchNorm, x, training=True)
    assert np.argwhere(np.isnan(inference.z)).tolist() == [[17, 1]]
    assert np.isnan(training.z[:, 1]).all() and np.isfinite(training.z[:, [0, 2]]).all()


@pytest.mark.parity
@given(SHAPES, OPTIONS, st.integers(0, 99), st.booleans())
def test_pytorch_agrees(at_point, shape, options, seed, training):
    torch = pytest.importorskip("torch")
    x, statistics = random_input(shape, seed), random_statistics(shape[1], seed)
    point = at_point(lambda: BatchNorm(**options), x, training=training, statistics=statistics, seed=seed)
    tensor = torch.tensor(x, requires_grad=True)
    gamma, beta = (torch.tensor(point.parameters[name], requires_grad=True) for name in ("gamma", "beta"))
    mean, variance = (torch.tensor(a.copy()) for a in statistics.values())
    z = torch.nn.functional.batch_norm(
        tensor, mean, variance, gamma, beta, training, options["momentum"], options["eps"]
    )
    z.backward(torch.tensor(point.dL_dz))
    worst = 1 + np.abs(gamma.detach().numpy()).max() / np.sqrt(options["eps"])  # two almost equal values
    for found, expected in [
        (point.z, z),
        (point.dL_dx[0], tensor.grad),
        (point.gradients["gamma"], gamma.grad),
        (point.gradients["beta"], beta.grad),
        (point.network.statistics["batchnorm1.running_mean"], mean),
        (point.network.statistics["batchnorm1.running_variance"], variance),
    ]:
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-9, atol=1e-11 * worst)


def a_network(shape=(4,), **options):
    x = Input(shape)
    return Network(x, Dense(2)(ReLU()(BatchNorm()(Dense(6)(x)))), **options)


def test_start():
    """In inference a new layer leaves its input as it is, but for eps; in training it only normalizes."""
    x = Input((4, 2, 2))
    network = Network(x, BatchNorm(name="bn")(x), threads=1)
    start = {name: array.tolist() for name, array in network.state().items()}
    assert start == {
        "bn.gamma": [1] * 4, "bn.beta": [0] * 4, "bn.running_mean": [0] * 4, "bn.running_variance": [1] * 4
    }  # fmt: skip
    assert network.nodes["bn"].layer.settings() == {"momentum": 0.1, "eps": 1e-5}


def test_training_moves_the_statistics_and_checkpoints_hold_them(close):
    rng = np.random.default_rng(0)
    network, one = a_network(threads=2), np.ones(1)
    feed = Feed(rng.normal(size=(90, 4)) + 3, rng.integers(0, 2, 90), one, 0 * one)
    step = TrainingStep(network, SoftmaxCrossEntropy(), SGD(0.1), feed)
    first, _ = step(np.arange(90))
    for _ in range(60):
        last, _ = step(np.arange(90))
    assert last < first
    state = network.state()
    assert set(network.statistics) == {"batchnorm1.running_mean", "batchnorm1.running_variance"} < set(state)
    assert np.abs(state["batchnorm1.running_mean"]).max() > 0.1
    other = a_network(seed=1, threads=1)
    other.load_state(state)
    x = rng.normal(size=(5, 4))
    close(other.forward(x), network.forward(x), 1e-5)


def test_a_state_without_statistics_is_refused():
    network = a_network()
    state = {name: array for name, array in network.state().items() if "running" not in name}
    with pytest.raises(ShapeError, match=r"expected also \['batchnorm1.running_mean', 'batchnorm1.running_variance'\]"):
        network.load_state(state)


def test_one_sample_per_worker_and_workers_without_any(at_point):
    """Seventeen samples are two blocks: of four workers two have nothing to do, and nobody waits for them."""
    x = random_input((17, 2), 0)
    at_point(BatchNorm, x, training=True, threads=4).check_literal()
    network, one = a_network(threads=4), np.ones(1)
    step = TrainingStep(network, SoftmaxCrossEntropy(), SGD(0.1), Feed(np.ones((20, 4)), np.zeros(20, int), one, one))
    assert np.isfinite(step(np.arange(17))[0]) and np.isfinite(step(np.arange(5))[0])


def test_a_single_value_cannot_be_trained_on(at_point):
    message = r"^BatchNorm 'bn': got a mini-batch of 1 sample in training, .*, expected at least 2; choose a batch size"
    with pytest.raises(ShapeError, match=message):
        at_point(lambda: BatchNorm(name="bn"), np.ones((1, 3)), training=True)
    assert at_point(lambda: BatchNorm(name="bn"), np.ones((1, 3))).z.shape == (1, 3)
    assert at_point(BatchNorm, np.ones((1, 3, 1, 2)), training=True).z.shape == (1, 3, 1, 2)


def test_a_training_whose_last_mini_batch_is_a_single_sample_is_refused_before_it_starts():
    one = np.ones(1)
    feed = Feed(np.ones((9, 4)), np.zeros((9, 2)), one, one)
    options = {"epochs": 1, "schedule": lambda done: 1.0}
    with pytest.raises(ShapeError, match="BatchNorm 'batchnorm1': got a mini-batch of 1 sample"):
        Training(a_network(), MeanSquaredError(), SGD(0.1), feed, feed, batch_size=4, **options)
    Training(a_network(), MeanSquaredError(), SGD(0.1), feed, feed, batch_size=5, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "BatchNorm 'bn': eps: got 0, expected a number above 0"),
        ({"eps": True}, "BatchNorm 'bn': eps: got True, expected a number above 0"),
        ({"momentum": 0.0}, "BatchNorm 'bn': momentum: got 0.0, expected a number above 0 up to 1"),
        ({"momentum": 1.5}, "BatchNorm 'bn': momentum: got 1.5, expected a number above 0 up to 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigurationError) as caught:
        BatchNorm(name="bn", **options)
    assert str(caught.value) == message


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match="^BatchNorm 'bn': got an input of 3 x 4, expected flat samples, or images"):
        BatchNorm(name="bn")(Input((3, 4)))
    assert BatchNorm()(Input((3, 4, 5))).shape == (3, 4, 5)


def test_a_training_step_on_a_single_sample_is_refused():
    one = np.ones(1)
    step = TrainingStep(a_network(), SoftmaxCrossEntropy(), SGD(0.1), Feed(np.ones((3, 4)), np.zeros(3, int), one, one))
    with pytest.raises(ShapeError, match="mini-batch of 1 sample"):
        step(np.arange(1))


def test_a_refused_mini_batch_changes_nothing():
    network = a_network(dtype="float64")
    x = np.random.default_rng(0).normal(size=(5, 4))
    z = network.forward(x)
    with pytest.raises(ShapeError, match="mini-batch of 1 sample"):
        network.forward(x[:1], training=True)
    np.testing.assert_array_equal(network.values["input"], x)
    np.testing.assert_array_equal(network.values["dense2"], z)
    assert network.draw == 0 and not any(s.training for s in network.last_pass.active[0].shares.values())


def test_a_trace_names_the_equations_that_were_computed():
    layer = BatchNorm()
    tags = {e.tag for e in derivation.EQUATIONS if e.computed}
    assert tags - layer.unused_equations(True) == {f"batch_norm.{n}" for n in (1, 2, 3, 4, 7, 8, 15, 19, 20)}
    assert tags - layer.unused_equations(False) == {f"batch_norm.{n}" for n in (3, 4, 7, 8, 18)}
