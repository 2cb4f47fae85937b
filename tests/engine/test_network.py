"""Network: how it is used, buffers, batch sizes, threads, seeds, states and every message."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from handgrad.engine import (
    BatchNorm,
    Concat,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    LeakyReLU,
    Linear,
    MaxPool2D,
    Network,
    ReLU,
    Softmax,
    SoftmaxCrossEntropy,
    passes,
    workers,
)
from handgrad.engine.backend import LANES
from handgrad.engine.checks import ConfigurationError, DeviceError, ShapeError
from handgrad.engine.workers import Workers, shared_workers


def small_cnn(dtype="float64", threads=1, seed=0, rate=None):
    image = Input((1, 6, 6))
    x = MaxPool2D(2)(ReLU()(Conv2D(3, 3, padding="same", name="conv1")(image)))
    x = Flatten()(x)
    if rate is not None:
        x = Dropout(rate)(x)
    return Network(image, Dense(4, name="fc")(x), dtype=dtype, threads=threads, seed=seed)


def run(network, samples, training=False):
    rng = np.random.default_rng(samples)
    z = network.forward(rng.normal(size=(samples, 1, 6, 6)), training=training)
    dL_dx = network.backward(rng.normal(size=z.shape))
    return z, dL_dx, {name: array.copy() for name, array in network.gradients.items()}


def test_the_example_of_the_design():
    image = Input((1, 28, 28))
    x = Conv2D(6, 5, padding="same", name="conv1")(image)
    x = ReLU()(x)
    x = Dense(10, name="fc")(Flatten()(x))
    network = Network(image, x, dtype="float32", device="cpu", seed=0, threads=1)
    images, labels = np.random.default_rng(0).random((5, 1, 28, 28)), np.array([0, 1, 2, 3, 9])
    z = network.forward(images, training=False)
    L, dL_dz = SoftmaxCrossEntropy()(z, labels)
    dL_dx = network.backward(dL_dz)
    assert z.shape == dL_dz.shape == (5, 10) and dL_dx.shape == images.shape and L > 0
    assert z.dtype == dL_dx.dtype == np.float32
    assert network.parameters["conv1.W"].shape == network.gradients["conv1.W"].shape == (6, 1, 5, 5)
    assert network.parameters["fc.W"].shape == (10, 6 * 28 * 28)
    assert network.values["relu1"].shape == network.value_gradients["relu1"].shape == (5, 6, 28, 28)
    assert list(network.values) == ["input", "conv1", "relu1", "flatten1", "fc"]
    np.testing.assert_array_equal(network.values["input"], images.astype(np.float32))
    np.testing.assert_array_equal(network.values["fc"], z)
    np.testing.assert_array_equal(network.value_gradients["fc"], dL_dz)
    np.testing.assert_array_equal(network.value_gradients["input"], dL_dx)


def test_parameters_are_assignable_in_place_and_by_name():
    network = small_cnn()
    x = np.random.default_rng(0).normal(size=(3, 1, 6, 6))
    w = np.random.default_rng(1).normal(size=(4, 27))
    network.parameters["fc.W"][...] = w
    in_place = network.forward(x)
    network.parameters["fc.W"][...] = 0
    assert not network.forward(x).any()
    network.parameters["fc.W"] = w
    np.testing.assert_array_equal(network.forward(x), in_place)
    network.parameters["fc.W"] = w.tolist()  # whatever NumPy takes for an array
    network.parameters["fc.W"][2, 3] += 1
    np.testing.assert_allclose(
        network.forward(x)[:, 2] - in_place[:, 2], network.values["flatten1"][:, 3], rtol=0, atol=1e-12
    )
    network.gradients["fc.b"] = np.arange(4)
    assert network.gradients["fc.b"].tolist() == [0, 1, 2, 3]


def test_parameters_and_gradients_are_views_of_flat_arrays():
    network = small_cnn()
    assert network.theta.shape == network.dL_dtheta.shape
    for name in network.parameters:
        assert np.shares_memory(network.parameters[name], network.theta)
        assert np.shares_memory(network.gradients[name], network.dL_dtheta)
        assert network.parameters[name].flags.c_contiguous
    assert network.parameter_count == 3 * 9 + 3 + 4 * 27 + 4
    stretches = sorted((a.ctypes.data, a.nbytes) for a in network.parameters.values())
    assert all(start + size <= after for (start, size), (after, _) in pairwise(stretches))


def test_wrong_assignments_and_names():
    network = small_cnn()
    with pytest.raises(ShapeError, match=r"^parameter 'fc\.W': got shape \(27, 4\), expected \(4, 27\)"):
        network.parameters["fc.W"] = np.zeros((27, 4))
    with pytest.raises(ShapeError, match=r"^parameter 'fc\.b': got shape \(\), expected \(4,\)"):
        network.parameters["fc.b"] = 0.0
    with pytest.raises(KeyError, match=r"parameter 'fc\.w'; there are conv1\.W, conv1\.b, fc\.W, fc\.b"):
        network.parameters["fc.w"] = np.zeros((4, 27))
    with pytest.raises(KeyError, match=r"gradient 'fc'; there are conv1\.W"):
        network.gradients["fc"]
    with pytest.raises(KeyError, match="node 'relu7'; there are input, conv1, relu1"):
        network.values["relu7"]
    assert "fc.W" in network.parameters and "fc.w" not in network.parameters and len(network.parameters) == 4


def test_there_is_no_value_before_forward_and_no_gradient_before_backward():
    network = small_cnn()
    with pytest.raises(ConfigurationError, match="^Network: there is no value yet; call forward first"):
        network.values["relu1"]
    with pytest.raises(ConfigurationError, match="^Network: there is no gradient yet"):
        network.value_gradients["relu1"]
    with pytest.raises(ConfigurationError, match="^Network: backward before any forward pass; call forward first"):
        network.backward(np.zeros((3, 4)))
    network.forward(np.zeros((3, 1, 6, 6)))
    with pytest.raises(ConfigurationError, match="^Network: there is no gradient yet"):
        network.value_gradients["relu1"]  # forward alone makes none


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 36)), "Network: input 'input': got shape (3, 36), expected (N, 1, 6, 6)"),
        (np.zeros((1, 6, 6)), "Network: input 'input': got shape (1, 6, 6), expected (N, 1, 6, 6)"),
        (np.zeros((3, 3, 6, 6)), "Network: input 'input': got shape (3, 3, 6, 6), expected (N, 1, 6, 6)"),
        (np.float64(3), "Network: input 'input': got shape (), expected (N, 1, 6, 6)"),
        (np.zeros((0, 1, 6, 6)), "Network: input: got 0 samples, expected at least one"),
    ],
)
def test_input_shapes_are_checked(x, message):
    with pytest.raises(ShapeError) as caught:
        small_cnn().forward(x)
    assert str(caught.value) == message


def test_gradient_shapes_are_checked():
    network = small_cnn()
    network.forward(np.zeros((3, 1, 6, 6)))
    for shape in ((3, 5), (2, 4), (4,)):
        with pytest.raises(ShapeError) as caught:
            network.backward(np.zeros(shape))
        assert str(caught.value) == f"Network: gradient of 'fc': got shape {shape}, expected (3, 4)"


def test_several_inputs_and_outputs_are_lists():
    a, b = Input((2,)), Input((2,), name="b")
    network = Network([a, b], [Linear()(a), Linear()(b)], threads=1)
    assert [z.tolist() for z in network.forward([[[1, 2]], [[3, 4]]])] == [[[1, 2]], [[3, 4]]]
    assert [g.tolist() for g in network.backward([[[5, 6]], [[7, 8]]])] == [[[5, 6]], [[7, 8]]]
    with pytest.raises(ShapeError, match="^Network: input: got 1 arrays, expected 2, one per node"):
        network.forward([np.zeros((1, 2))])
    with pytest.raises(ShapeError, match=r"^Network: input 'b': got shape \(2, 2\), expected \(1, 2\)"):
        network.forward([np.zeros((1, 2)), np.zeros((2, 2))])
    with pytest.raises(ShapeError, match="^Network: gradient of: got 3 arrays, expected 2"):
        network.backward([np.zeros((1, 2))] * 3)
    with pytest.raises(ConfigurationError, match=r"^Network\.predict: works for one input and one output; use forward"):
        network.predict(np.zeros((1, 2)))
    alone = Network([x := Input((2,))], [ReLU()(x)], threads=1)
    assert isinstance(alone.forward([[[1, 2]]]), list) and isinstance(alone.backward([[[1, 2]]]), list)


def test_integers_and_strided_samples_are_converted():
    network = small_cnn(dtype="float32")
    pixels = np.random.default_rng(0).integers(0, 256, size=(5, 6, 6, 1), dtype=np.uint8)
    strided = np.moveaxis(pixels, 3, 1)[::-1]
    z = network.forward(strided)
    np.testing.assert_array_equal(z, network.forward(np.ascontiguousarray(strided, dtype=np.float32)))
    assert z.dtype == np.float32


def test_results_are_copies():
    network = small_cnn()
    z, dL_dx, _ = run(network, 5)
    z[...] = dL_dx[...] = np.nan
    assert np.isfinite(network.values["fc"]).all() and np.isfinite(network.value_gradients["input"]).all()
    network.values["relu1"][...] = np.nan
    assert np.isfinite(network.values["relu1"]).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_single_sample_goes_forward_without_lanes_and_back_with_them(threads):
    network, x = small_cnn(threads=threads, rate=0.5), np.random.default_rng(0).normal(size=(2, 1, 6, 6))
    z, dL_dz = network.forward(x[:1]), np.random.default_rng(1).normal(size=(1, 4))
    assert network.last_pass.active[0].values["conv1"].shape == (1, 3, 6, 6, 1)
    values = {name: network.values[name] for name in network.values}
    dL_dx = network.backward(dL_dz)
    gradients = {name: array.copy() for name, array in network.gradients.items()}
    assert network.last_pass.active[0].values["conv1"].shape == (1, 3, 6, 6, LANES)
    both = network.forward(x)
    np.testing.assert_allclose(z, both[:1], rtol=0, atol=1e-12)
    for name, value in values.items():
        np.testing.assert_allclose(value, network.values[name][:1], rtol=0, atol=1e-12, err_msg=name)
    both_dL_dx = network.backward(np.concatenate([dL_dz, np.zeros((1, 4))]))
    np.testing.assert_allclose(dL_dx, both_dL_dx[:1], rtol=0, atol=1e-12)
    for name, gradient in network.gradients.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=1e-12, err_msg=name)


def test_a_single_sample_is_not_trained_on_without_lanes():
    network = small_cnn(rate=0.5)
    network.forward(np.ones((1, 1, 6, 6)), training=True)
    assert not network.last_pass.is_one and network.draw == 1


def branches(threads, dtype="float32"):
    image = Input((4, 9, 9))
    x = ReLU()(Conv2D(19, 3, padding="same", name="wide")(image))
    pooled, some = MaxPool2D(2)(x), Conv2D(19, 2, stride=2, groups=19, name="depthwise")(x)
    x = Dropout(0.5)(Flatten()(Concat()(Conv2D(2, 1, name="narrow")(pooled), some)))
    return Network(image, Dense(5, name="last")(ReLU()(Dense(33, name="fc")(x))), dtype=dtype, threads=threads)


@pytest.fixture
def shared_gladly(monkeypatch):
    """Samples that are not worth it are shared as well, and by more workers than there are cores."""
    monkeypatch.setattr(Workers, "can_meet", True)
    monkeypatch.setattr(workers, "PAUSE", np.inf)
    monkeypatch.setattr(passes, "WORTH_A_WORKER", 1)
    monkeypatch.setattr(passes, "WORTH_A_MEETING", 1)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_workers_share_a_single_sample(shared_gladly, threads):
    """Each computes some filters or features, and reads what others have computed; the bits are those of one alone."""
    alone, together = branches(1), branches(threads)
    x = np.random.default_rng(0).normal(size=(30, 1, 4, 9, 9))
    for sample in x:
        np.testing.assert_array_equal(together.forward(sample), alone.forward(sample))
    assert together.last_pass.is_one and 1 < len(together.last_pass.active) <= threads
    for name in alone.values:
        np.testing.assert_array_equal(together.values[name], alone.values[name], err_msg=name)
    np.testing.assert_array_equal(together.backward(np.ones((1, 5))), alone.backward(np.ones((1, 5))))
    together.workers._give_up()  # as after Ctrl-C: other threads come, who have not made these programs
    np.testing.assert_array_equal(together.forward(x[0]), alone.forward(x[0]))


def test_who_shares_a_single_sample_meets_the_others(shared_gladly):
    """Around every layer that is shared, and no scratch is shared."""
    network = branches(2)
    network.forward(np.ones((1, 4, 9, 9)))
    current, found = network.last_pass, []
    for part in current.active:
        works = [work for _, work in current._forward_pieces(part)]
        names = {id(share): name for name, share in part.shares.items()}
        found.append(["meet" if work.func == network.workers.meet else names[id(work.args[1])] for work in works])
    alone = ["relu1", "maxpool1", "narrow", "depthwise", "concat1", "flatten1", "dropout1"]
    shared = ["meet", "fc", "meet", "relu2", "last"]  # the few features of the last are one tile
    assert sorted(found[0]) == sorted(["wide", "meet", *alone, *shared])
    assert [found[0][:2], found[0][-5:]] == [["wide", "meet"], shared]
    assert found[1] == ["wide", "meet", "meet", "fc", "meet"]
    for name, share in current.active[1].shares.items():
        for key, array in share.scratch.items():
            assert not np.shares_memory(array, current.active[0].shares[name].scratch[key])


def test_one_worker_computes_a_sample_alone_while_the_others_are_asleep(shared_gladly, monkeypatch, fall_asleep):
    alone, together = branches(1), branches(2)
    others, x = shared_workers(2), np.random.default_rng(0).normal(size=(3, 1, 4, 9, 9))
    others.run(lambda rank: None)  # they are awake, or were not long ago
    monkeypatch.setattr(workers, "PAUSE", 0.0)
    for sample in x:
        fall_asleep(others)
        runs = others._crew.runs
        np.testing.assert_array_equal(together.forward(sample), alone.forward(sample))
        assert others._crew.runs == runs
    monkeypatch.setattr(passes, "WORTH_WAKING", 1)  # they would be asleep for longer than one worker takes
    branches(2).forward(x[0])
    assert others._crew.runs == runs + 1
    monkeypatch.setattr(workers, "PAUSE", np.inf)  # now a third call seems to follow
    np.testing.assert_array_equal(together.forward(x[0]), alone.forward(x[0]))
    assert others._crew.runs == runs + 2
    for name in alone.values:
        np.testing.assert_array_equal(together.values[name], alone.values[name], err_msg=name)


def test_where_python_makes_the_calls_one_worker_computes_a_sample(shared_gladly):
    """A slope is a number that is no integer, which a program leaves to Python."""

    def network(threads):
        image = Input((3, 9, 9))
        return Network(image, LeakyReLU(0.25)(Conv2D(40, 3)(image)), threads=threads)

    alone, together, x = network(1), network(2), np.random.default_rng(0).normal(size=(1, 3, 9, 9))
    for active in (2, 1, 1):  # which shows in the first run
        np.testing.assert_array_equal(together.forward(x), alone.forward(x))
        assert len(together.last_pass.active) == active


@pytest.mark.parametrize(
    ("layer", "size", "threads", "sharing"),
    [
        (lambda: Dense(1000), 520, 4, 2),  # a worker for each 250,000 products
        (lambda: Dense(1000), 480, 4, 1),
        (lambda: Dense(1000), 520, 1, 1),
        (lambda: Dense(3), 200_000, 2, 1),  # a tile has more outputs
    ],
)
def test_a_single_sample_is_shared_where_it_is_worth_it(monkeypatch, layer, size, threads, sharing):
    def active():
        image = Input((size,))
        network = Network(image, layer()(image), threads=threads)
        network.forward(np.ones((1, size)))
        return len(network.last_pass.active)

    monkeypatch.setattr(Workers, "can_meet", True)
    assert active() == sharing
    monkeypatch.setattr(Workers, "can_meet", False)  # then whoever waits would take a core from the others
    assert active() == 1


def test_some_layers_leave_a_single_sample_to_one_worker(shared_gladly):
    """Those that need Python, and those that do not say themselves what others could do."""

    class Scaled(Dense):
        kernels_alone = takes_one = True

        def forward(self, share):
            super().forward(share)
            share.z /= np.abs(share.z).max()

    for layers in ((Dense(40), BatchNorm()), (Scaled(40),)):
        node = image = Input((40,))
        for layer in layers:
            node = layer(node)
        network = Network(image, node, threads=2)
        network.forward(np.ones((1, 40)))
        assert len(network.last_pass.active) == 1


def test_buffers_are_reused_between_steps():
    network = small_cnn()
    run(network, 20)
    part = network.last_pass.active[0]
    before = {name: array.ctypes.data for name, array in (part.values | part.gradients).items()}
    scratch = {name: {key: a.ctypes.data for key, a in s.scratch.items()} for name, s in part.shares.items()}
    theta, gradients = network.theta.ctypes.data, network.dL_dtheta.ctypes.data
    run(network, 20)
    assert network.last_pass.active[0] is part
    assert before == {name: array.ctypes.data for name, array in (part.values | part.gradients).items()}
    assert scratch == {name: {key: a.ctypes.data for key, a in s.scratch.items()} for name, s in part.shares.items()}
    assert (theta, gradients) == (network.theta.ctypes.data, network.dL_dtheta.ctypes.data)


def test_a_pass_itself_allocates_next_to_nothing():
    """Buffers of this batch are 1 MB and more; a step may make views and small objects, not arrays."""
    network = small_cnn()
    run(network, 400)
    current = network.last_pass

    def step():
        current.prepare(True, 0)
        current.run(current.forward)
        current.run(current.backward)

    step()
    tracemalloc.start()
    try:
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000


def test_batch_sizes_may_change_and_come_back():
    fresh = {samples: run(small_cnn(), samples) for samples in (1, 16, 5, 33, 40)}
    network = small_cnn()
    for samples in (1, 16, 5, 33, 40, 5, 1, 33, 16):  # more than the three whose buffers are kept
        z, dL_dx, gradients = run(network, samples)
        expected_z, expected_dL_dx, expected = fresh[samples]
        np.testing.assert_array_equal(z, expected_z)
        np.testing.assert_array_equal(dL_dx, expected_dL_dx)
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, expected[name])


def test_gradients_are_replaced_and_not_added_to_those_before():
    network = small_cnn()
    _, _, first = run(network, 20)
    _, _, again = run(network, 20)
    for name, gradient in first.items():
        np.testing.assert_array_equal(again[name], gradient)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [1, 16, 17, 40, 100])
def test_threads_change_only_the_rounding(close, dtype, samples):
    """Sums over the samples are cut at other places: some hundred additions, each rounded."""
    results = {threads: run(small_cnn(dtype, threads), samples) for threads in (1, 2, 3)}
    z, dL_dx, gradients = results[1]
    for threads in (2, 3):
        other_z, other_dL_dx, other = results[threads]
        np.testing.assert_array_equal(other_z, z)  # a sample's own sums do not depend on the others
        np.testing.assert_array_equal(other_dL_dx, dL_dx)
        for name, gradient in gradients.items():
            close(other[name], gradient, 200 * np.finfo(dtype).eps, name)
        again = run(small_cnn(dtype, threads), samples)[2]
        for name, gradient in other.items():
            np.testing.assert_array_equal(again[name], gradient, f"{name} with {threads} threads, twice")


def test_a_backward_pass_outlives_an_interrupted_one():
    """Its program holds meetings of threads that are left behind by Ctrl-C; those of others take their place."""
    x = Input((20,))
    network = Network(x, Dense(4)(ReLU()(Dense(30)(x))), seed=0, threads=2)
    samples, u = np.random.default_rng(0).normal(size=(2, 40, 20)), np.ones((40, 4))
    gradients = []
    for k in range(4):
        network.forward(samples[k % 2])
        gradients.append(network.backward(u))
        network.workers._in_the_middle = k == 1  # as Ctrl-C leaves it
    np.testing.assert_array_equal(gradients[2], gradients[0])
    np.testing.assert_array_equal(gradients[3], gradients[1])


def test_gradient_without_that_of_the_input_is_the_same():
    network = small_cnn()
    _, _, expected = run(network, 20)
    rng = np.random.default_rng(20)
    current = network.pass_for(20, input_gradient=False)
    current.allocate_gradients()
    current.load("input", rng.normal(size=(20, 1, 6, 6)))
    current.prepare(False, 0)
    current.run(current.forward)
    current.load_seed(0, rng.normal(size=(20, 4)))
    network.dL_dtheta[...] = np.nan
    current.run(current.backward)
    current.reduce_gradients()
    for name, gradient in expected.items():
        np.testing.assert_array_equal(network.gradients[name], gradient)
    assert set(current.active[0].gradients) == {"conv1", "relu1", "maxpool1", "flatten1", "fc"}


@pytest.mark.parametrize(
    ("layer", "shape", "unused"),
    [
        (lambda: Conv2D(16, 3, padding=1), (16, 8, 8), {"mirrored_U", "mirrored_x_band"}),
        (lambda: Conv2D(9, 2, padding=(0, 1, 0, 1)), (1, 8, 8), {"planes"}),
        (lambda: Conv2D(9, 1), (2, 8, 8), {"back_image"}),
    ],
)
def test_memory_for_a_gradient_that_nobody_wants_is_not_made(layer, shape, unused):
    """The other gradients are the same, and a layer of another class, which may use it otherwise, keeps it."""
    derived = type("Derived", (Conv2D,), {"kind": "conv"})
    gradients = []
    for is_wanted in (True, False):
        x = Input(shape)
        network = Network(x, Flatten()(ReLU()(layer()(x))), seed=0, threads=1)
        current = network.pass_for(20, input_gradient=is_wanted)
        current.allocate_gradients()
        current.load(network.inputs[0].name, np.random.default_rng(0).normal(size=(20, *shape)))
        current.prepare(False, 0)
        current.run(current.forward)
        current.load_seed(0, np.random.default_rng(1).normal(size=(20, *network.outputs[0].shape)))
        current.run(current.backward)
        current.reduce_gradients()
        gradients.append(network.dL_dtheta.copy())
        assert (unused <= set(current.active[0].shares["conv1"].scratch)) == is_wanted
    np.testing.assert_array_equal(*gradients)
    x, settings = Input(shape), layer().settings()
    network = Network(x, derived(**settings)(x))
    (share,) = network.pass_for(16, input_gradient=False).active[0].shares.values()
    assert unused <= set(share.scratch)


def test_seeds():
    one, same, other = small_cnn(seed=0), small_cnn(seed=0), small_cnn(seed=1)
    np.testing.assert_array_equal(one.theta, same.theta)
    assert (one.parameters["fc.W"] != other.parameters["fc.W"]).all()
    assert small_cnn(seed=np.int64(7)).seed == 7


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True])
def test_seed_is_checked(seed):
    with pytest.raises(ConfigurationError) as caught:
        small_cnn(seed=seed)
    assert str(caught.value) == f"Network: seed: got {seed!r}, expected an integer from 0 up"


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex128", "float31"])
def test_dtype_is_checked(dtype):
    with pytest.raises(ConfigurationError) as caught:
        small_cnn(dtype=dtype)
    assert str(caught.value) == f"Network: dtype: got {dtype!r}, expected float32 or float64"


def test_device_and_threads_are_checked():
    x = Input((2,))
    with pytest.raises(DeviceError, match="^Network: device: got 'tpu', expected 'cpu' or 'cuda'"):
        Network(x, ReLU()(x), device="tpu")
    with pytest.raises(ConfigurationError, match="^workers: threads: got 0, expected an integer of at least 1"):
        Network(x, ReLU()(x), threads=0)


def test_training_and_draw():
    network = small_cnn(rate=0.5)
    x = np.ones((20, 1, 6, 6))
    calm = network.forward(x)
    assert network.draw == 0
    np.testing.assert_array_equal(network.forward(x), calm)
    first, second = network.forward(x, training=True), network.forward(x, training=True)
    assert network.draw == 2 and (first != second).any() and (first != calm).any()
    network.draw = 0
    np.testing.assert_array_equal(network.forward(x, training=True), first)
    np.testing.assert_array_equal(network.forward(x), calm)


@pytest.mark.parametrize("samples", [0, 1, 16, 50])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 256])
def test_predict_is_forward_in_pieces(samples, batch_size):
    network = small_cnn()
    x = np.random.default_rng(0).normal(size=(samples, 1, 6, 6))
    z = network.predict(x, batch_size)
    assert z.shape == (samples, 4)
    if samples:  # a mini-batch of one goes through dense layers in another order of sums
        np.testing.assert_allclose(z, network.forward(x), rtol=1e-12, atol=1e-13)


def test_predict_checks_the_batch_size():
    with pytest.raises(ConfigurationError, match=r"^Network\.predict: batch_size: got 0, expected an integer"):
        small_cnn().predict(np.zeros((3, 1, 6, 6)), 0)


def test_state_is_a_copy_and_load_state_brings_it_back():
    network = small_cnn()
    state, z = network.state(), network.forward(np.ones((3, 1, 6, 6)))
    network.theta[...] = 0
    assert state["fc.W"].any() and not np.shares_memory(state["fc.W"], network.theta)
    network.load_state(state)
    np.testing.assert_array_equal(network.forward(np.ones((3, 1, 6, 6))), z)
    other = small_cnn(dtype="float32", seed=9)
    other.load_state(state)
    np.testing.assert_array_equal(other.parameters["fc.W"], state["fc.W"].astype(np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.b"), r"parameters do not belong to this network: expected also \['fc\.b'\]"),
        (lambda s: s.update({"fc2.W": 0}), r"parameters do not belong to this network: got unknown \['fc2\.W'\]"),
        (lambda s: s.update({"fc.b": np.zeros(5)}), r"^parameter 'fc\.b': got shape \(5,\), expected \(4,\)"),
    ],
)
def test_a_wrong_state_changes_nothing(change, message):
    network, other = small_cnn(), small_cnn(seed=1)
    before, state = network.theta.copy(), other.state()
    change(state)
    with pytest.raises(ShapeError, match=message):
        network.load_state(state)
    np.testing.assert_array_equal(network.theta, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanes_without_a_sample_have_no_influence(dtype):
    """Padded lanes compute rubbish forward; their upstream gradient is zero, so no parameter notices."""
    x = Input((3,))
    network = Network(x, Softmax()(Dense(2)(ReLU()(Dense(5)(x)))), dtype=dtype, threads=1)
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(5, 3))
    z = network.forward(samples)
    upstream = rng.normal(size=z.shape)
    network.backward(upstream)
    alone = {name: array.copy() for name, array in network.gradients.items()}
    full = np.concatenate([samples, rng.normal(size=(11, 3))])
    network.forward(full)
    network.backward(np.concatenate([upstream, np.zeros((11, 2))]))
    for name, gradient in alone.items():
        np.testing.assert_allclose(network.gradients[name], gradient, rtol=0, atol=40 * np.finfo(dtype).eps)


def test_a_layer_may_be_called_input():
    x = Input((3,))
    network = Network(x, Dense(2, name="input")(x), threads=1)
    assert list(network.nodes) == ["input1", "input"]


def test_gradients_of_an_older_forward_pass_are_not_shown():
    x = Input((3,))
    network = Network(x, Dense(2)(x), threads=1)
    network.forward(np.ones((2, 3)))
    network.backward(np.ones((2, 2)))
    assert network.value_gradients["dense1"].shape == (2, 2)
    network.forward(np.zeros((2, 3)))
    with pytest.raises(ConfigurationError, match="call backward first"):
        network.value_gradients["dense1"]


def test_asking_for_a_shape_does_not_change_a_built_layer():
    x, pool = Input((1, 7, 7)), MaxPool2D(2, padding="same")
    network = Network(x, pool(x), dtype="float64", threads=1)
    images = np.random.default_rng(0).normal(size=(3, 1, 7, 7))
    before = network.forward(images)
    pool.output_shape((1, 8, 8)), pool.multiply_adds((1, 8, 8))
    np.testing.assert_array_equal(network.forward(images), before)
