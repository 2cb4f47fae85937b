"""Training: repeatable to the last bit, resumable in any place, and it says so when it diverges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from handgrad.engine import (
    SGD,
    Adam,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPool2D,
    MeanSquaredError,
    Momentum,
    Network,
    ReLU,
    SoftmaxCrossEntropy,
    Tanh,
    checkpoint,
)
from handgrad.engine.checks import ConfigurationError, TrainingDiverged
from handgrad.engine.feed import Feed
from handgrad.engine.metrics import evaluate
from handgrad.engine.schedules import constant, cosine, linear
from handgrad.engine.training import Progress, Training, TrainingStep


def bars(samples=101, seed=0):
    """Return images of 6 x 6 with a bright row (class 0), a bright column (1) or noise alone (2), as uint8."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 80, size=(samples, 1, 6, 6)), rng.integers(3, size=samples)
    for n, label in enumerate(labels):
        if label == 0:
            images[n, 0, rng.integers(6)] += 150
        elif label == 1:
            images[n, 0, :, rng.integers(6)] += 150
    return Feed(images.astype(np.uint8), labels, np.array([1 / 128]), np.array([-0.5]))


def training(*, threads=1, optimizer=None, seed=0, epochs=3, batch_size=25, dtype="float32", progress=None, **options):
    image = Input((1, 6, 6))
    x = Flatten()(MaxPool2D(2)(ReLU()(Conv2D(4, 3)(image))))
    network = Network(image, Dense(3)(Dropout(0.3)(Tanh()(Dense(20)(x)))), dtype=dtype, threads=threads, seed=seed)
    return Training(
        network,
        SoftmaxCrossEntropy(),
        optimizer or Adam(0.01),
        bars(),
        bars(50, 1),
        epochs=epochs,
        batch_size=batch_size,
        schedule=options.get("schedule", linear),
        seed=seed,
        progress=progress,
    )


def finish(run):
    words = list(run.run())
    return run.network.theta.copy(), words


def comparable(history):
    """Return the history without the times, which no seed fixes."""
    return [{k: v for k, v in entry.items() if k not in ("seconds", "images_per_second")} for entry in history]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("optimizer", [SGD, Momentum, Adam])
def test_same_seed_same_bits(threads, optimizer):
    one, other = (training(threads=threads, optimizer=optimizer()) for _ in range(2))
    theta, _ = finish(one)
    again, _ = finish(other)
    np.testing.assert_array_equal(theta, again)
    assert comparable(one.progress.history) == comparable(other.progress.history)


def test_another_seed_another_training():
    theta, _ = finish(training(seed=0, epochs=1))
    other, _ = finish(training(seed=1, epochs=1))
    assert (theta != other).any()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_only_the_rounding(threads):
    """In float64 a sum of 25 samples is cut at other places; 15 steps leave 1e-9 of the parameters alone."""
    theta, _ = finish(training(dtype="float64", optimizer=SGD(0.1)))
    other, _ = finish(training(dtype="float64", optimizer=SGD(0.1), threads=threads))
    np.testing.assert_allclose(other, theta, rtol=0, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", [SGD, Momentum, Adam])
@pytest.mark.parametrize("words_before", [0, 1, 5, 8, 14])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, threads, optimizer, words_before):
    """5 mini-batches an epoch: before the first, in the middle, after an epoch, and before the last step."""
    whole = training(threads=threads, optimizer=optimizer(), schedule=cosine)
    expected, words = finish(whole)
    first = training(threads=threads, optimizer=optimizer(), schedule=cosine)
    interrupted = first.run()
    assert [next(interrupted) for _ in range(words_before)] == words[:words_before]
    checkpoint.save(tmp_path / "last.npz", first.network, first.optimizer, first.progress)

    resumed = training(threads=threads, optimizer=optimizer(), schedule=cosine)
    for parameter in resumed.network.parameters.values():
        parameter[...] = 7  # whatever was there is replaced
    resumed.progress = checkpoint.load(tmp_path / "last.npz", resumed.network, resumed.optimizer)
    theta, rest = finish(resumed)
    np.testing.assert_array_equal(theta, expected)
    assert words[:words_before] + rest == words
    assert comparable(resumed.progress.history) == comparable(whole.progress.history)
    for name, array in whole.optimizer.state["network"].items():
        np.testing.assert_array_equal(resumed.optimizer.state["network"][name], array)
    assert resumed.optimizer.steps == whole.optimizer.steps
    assert resumed.network.draw == whole.network.draw == 15


def test_words_and_progress():
    run = training(epochs=2)
    words = []
    for word in run.run():
        words.append(word)
        at = run.progress
        if word == "step":
            assert 0 < at.batch < 5 and at.seen == 25 * at.batch and at.epoch == words.count("epoch")
        else:
            assert (at.batch, at.seen, at.correct, at.loss_sum) == (0, 0, 0, 0.0)
            assert at.epoch == words.count("epoch") == len(at.history)
    assert words == (["step"] * 4 + ["epoch"]) * 2
    assert list(run.run()) == []


def test_one_batch_an_epoch():
    assert finish(training(epochs=2, batch_size=1000))[1] == ["epoch", "epoch"]


def test_shuffle_is_a_permutation_and_another_one_in_each_epoch():
    run, same, other = training(), training(), training(seed=1)
    orders = [run.shuffle(epoch) for epoch in range(4)]
    for order in orders:
        assert sorted(order) == list(range(101))
    for k, order in enumerate(orders):
        np.testing.assert_array_equal(order, same.shuffle(k))
        assert (order != other.shuffle(k)).any()
        assert all((order != before).any() for before in orders[:k])


def test_every_sample_is_seen_once_an_epoch_and_the_last_batch_is_smaller():
    run, seen = training(epochs=2), []
    step = run._step.run
    run._step.run = lambda batches, rates: (seen.extend(batch.copy() for batch in batches), step(batches, rates))[1]
    finish(run)
    assert [len(chosen) for chosen in seen] == [25, 25, 25, 25, 1] * 2
    for epoch in (seen[:5], seen[5:]):
        assert sorted(np.concatenate(epoch)) == list(range(101))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 16, 37, 101])
def test_a_step_is_forward_loss_backward_update(close, threads, samples):
    """The one dispatch per step gives what the public API gives in four calls."""
    one, other = training(threads=threads, dtype="float64"), training(threads=threads, dtype="float64")
    chosen = np.random.default_rng(0).permutation(101)[:samples]
    step = TrainingStep(one.network, one.loss, one.optimizer, one.train)
    for _ in range(2):
        loss_sum, correct = step(chosen)
        z = other.network.forward(other.train.inputs(chosen), training=True)
        L, dL_dz = other.loss(z, other.train.targets[chosen])
        other.network.backward(dL_dz)
        other.optimizer.step(other.network)
        assert loss_sum == pytest.approx(L * samples, rel=1e-10)
        assert correct == (z.argmax(axis=1) == other.train.targets[chosen]).sum()
        close(one.network.dL_dtheta, other.network.dL_dtheta, 1e-10)
        close(one.network.theta, other.network.theta, 1e-6)  # Adam divides by gradients that may be as small as 1e-8


def test_steps_of_two_data_sets_take_turns_with_one_network(close):
    """What a step remembers with the network's buffers is forgotten when another step uses them."""
    one, other = training(threads=2, dtype="float64"), training(threads=2, dtype="float64")
    darker = Feed(one.train.images // 2, one.train.targets, one.train.scale[:1], one.train.shift[:1])
    steps = [TrainingStep(one.network, one.loss, SGD(0.1), feed) for feed in (one.train, darker)]
    chosen, network = np.arange(37), other.network
    for step in steps * 2:
        step(chosen)
        z = network.forward(step.feed.inputs(chosen), training=True)
        network.backward(other.loss(z, step.feed.targets[chosen])[1])
        SGD(0.1).step(network)
    close(one.network.theta, network.theta, 1e-12)


@pytest.mark.parametrize("recorded", [False, True])
def test_parameters_stay_when_a_worker_fails_in_the_middle_of_a_step(monkeypatch, recorded):
    run = training(threads=2, dtype="float64")
    step, before = TrainingStep(run.network, run.loss, SGD(0.1), run.train), run.loss.compute
    monkeypatch.setattr(type(run.loss), "kernels_alone", False)  # called in every step
    if recorded:
        step(np.arange(37))
    theta = run.network.theta.copy()

    def fails_once(z, target, samples, N, dL_dz, L):
        if samples < 20:  # the second worker's
            raise ZeroDivisionError("in the loss")
        return before(z, target, samples, N, dL_dz, L)

    monkeypatch.setattr(run.loss, "compute", fails_once)
    with pytest.raises(ZeroDivisionError, match="in the loss"):
        step(np.arange(37))
    assert (run.network.theta == theta).all()
    monkeypatch.undo()
    step(np.arange(37))
    assert (run.network.theta != theta).any()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_goes_on_with_the_arrays_that_a_resumed_optimizer_has(close, threads):
    """A program moves the arrays that were noted; a checkpoint that is read in between brings others."""
    thetas = []
    for replaces in (False, True):
        run = training(threads=threads, dtype="float64")
        step = TrainingStep(run.network, run.loss, Momentum(0.1), run.train)
        for start in (0, 30, 60):
            step(np.arange(start, start + 37))
            state = step.optimizer.state["network"]
            if replaces:
                state["v"] = np.ones_like(state["v"])
            else:
                state["v"][...] = 1
        thetas.append(run.network.theta)
    close(*thetas, 1e-14)


def test_an_optimizer_of_two_networks_keeps_its_rate_for_both():
    """The second network has another dtype, and with it other constants; the first must not go on with its old ones."""
    one, other = training(dtype="float32"), training(dtype="float64")
    optimizer = SGD(0.1)
    steps = [TrainingStep(run.network, run.loss, optimizer, run.train) for run in (one, other)]
    for step in (steps[0], steps[0], steps[1]):
        step(np.arange(20))
    optimizer.learning_rate, before = 1e-30, one.network.theta.copy()
    steps[0](np.arange(20))
    assert (one.network.theta == before).all()


class HalvedLoss(SoftmaxCrossEntropy):
    """Does more than call a kernel, and does not say so: it states nothing."""

    def compute(self, z, target, samples, N, dL_dz, L):
        super().compute(z, target, samples, N, dL_dz, L)
        dL_dz *= 0.5


class Decaying(SGD):
    """The same for an optimizer."""

    def update_stretch(self, name, theta, g, stretch):
        super().update_stretch(name, theta, g, stretch)
        theta[stretch] *= 0.5


@pytest.mark.parametrize("threads", [1, 2])
def test_derived_losses_and_optimizers_do_in_every_step_what_they_add(close, threads):
    run, usual = training(threads=threads, dtype="float64"), training(threads=threads, dtype="float64")
    step = TrainingStep(run.network, HalvedLoss(), Decaying(0.1), run.train)
    half = TrainingStep(usual.network, SoftmaxCrossEntropy(), SGD(0.05), usual.train)
    for start in (0, 30, 60):
        chosen = np.arange(start, start + 37)
        step(chosen)
        half(chosen)
        usual.network.theta[...] *= 0.5
    close(run.network.theta, usual.network.theta, 1e-13)


def test_an_interrupted_dispatch_does_not_spoil_the_next_step(close):
    one, other = training(threads=2, dtype="float64"), training(threads=2, dtype="float64")
    steps = [TrainingStep(run.network, run.loss, SGD(0.1), run.train) for run in (one, other)]
    for step in steps:
        step(np.arange(37))
    workers = one.network.workers
    crew = workers.crew
    workers._in_the_middle = True  # as Ctrl-C leaves it: the next dispatch begins with other threads
    assert workers.crew is not crew and workers.crew is workers.crew
    for step in steps:
        step(np.arange(37, 74))
    close(one.network.theta, other.network.theta, 1e-14)


@pytest.mark.parametrize("optimizer", [lambda: SGD(0.3), lambda: Momentum(0.05), lambda: Adam(0.01)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_loss_falls_and_the_bars_are_learned(optimizer, threads):
    run = training(optimizer=optimizer(), threads=threads, epochs=25)
    finish(run)
    first, last = run.progress.history[0], run.progress.history[-1]
    assert last["train_loss"] < 0.5 * first["train_loss"]
    assert last["validation_loss"] < first["validation_loss"] and last["validation_accuracy"] > 0.8


def test_exclusive_or():
    x = Input((2,))
    network = Network(x, Dense(2)(Tanh()(Dense(8)(x))), threads=1, seed=3)
    points = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    feed = Feed(points, np.array([0, 1, 1, 0]), np.ones(2), np.zeros(2))
    run = Training(network, SoftmaxCrossEntropy(), Adam(0.05), feed, feed, epochs=200, batch_size=4, schedule=constant)
    finish(run)
    assert run.progress.history[-1]["validation_accuracy"] == 1
    assert run.progress.best_accuracy == 1 and run.progress.best_epoch <= 200


def test_history_is_what_evaluate_says():
    run = training(epochs=2)
    for word in run.run():
        if word == "epoch":
            entry, result = run.progress.history[-1], evaluate(run.network, run.validation, run.loss)
            assert entry["validation_loss"] == result.loss and entry["validation_accuracy"] == result.accuracy
            assert entry["epoch"] == run.progress.epoch
            assert 0 <= entry["train_accuracy"] <= 1 and entry["train_loss"] > 0
            assert entry["seconds"] > 0 and entry["images_per_second"] > 0


def test_best_epoch_is_the_first_of_the_best():
    run = training(epochs=6)
    finish(run)
    accuracies = [entry["validation_accuracy"] for entry in run.progress.history]
    assert run.progress.best_accuracy == max(accuracies)
    assert run.progress.best_epoch == accuracies.index(max(accuracies)) + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_without_learning_every_epoch_is_the_same(threads):
    """A rate of 1e-30 changes no bit: the history must be what evaluate says of the training part, epoch by epoch."""
    x = Input((1, 6, 6))
    network = Network(x, Dense(3)(Flatten()(x)), threads=threads)
    feed, loss = bars(), SoftmaxCrossEntropy()
    options = {"epochs": 3, "batch_size": 25, "schedule": constant}
    run = Training(network, loss, SGD(1e-30), feed, bars(50, 1), **options)
    expected = evaluate(network, feed, loss)
    finish(run)
    for entry in run.progress.history:
        assert entry["train_loss"] == pytest.approx(expected.loss, rel=1e-5)  # float32, summed in another order
        assert entry["train_accuracy"] == expected.accuracy
    assert run.progress.best_epoch == 1 and run.progress.best_accuracy == entry["validation_accuracy"]


@pytest.mark.parametrize("schedule", [constant, linear, cosine])
def test_schedule_multiplies_the_base_rate(schedule):
    run, rates = training(optimizer=SGD(0.2), epochs=2, schedule=schedule), []
    for _ in run.run():
        rates.append(run.learning_rate)
        assert run.optimizer.learning_rate == run.learning_rate
    assert rates == pytest.approx([0.2 * schedule(k / 10) for k in range(10)])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_diverging_loss_is_said_in_one_line(threads):
    run = training(optimizer=SGD(1e38), threads=threads, schedule=constant)
    with pytest.raises(TrainingDiverged) as caught:
        finish(run)
    message = str(caught.value)
    assert message.startswith("training diverged: the loss became ") and "\n" not in message
    assert "in epoch 1, mini-batch " in message and message.endswith("lower the learning rate (it was 1e+38)")


def test_labels_that_do_not_exist_are_refused():
    """A kernel would read, without a word, what lies behind the classes in memory."""
    run = training()
    run.train.targets[7] = 3
    with pytest.raises(ValueError, match="got 3, expected integers from 0 to 2"):
        Training(
            run.network, run.loss, run.optimizer, run.train, run.validation, epochs=1, batch_size=25, schedule=constant
        )


@pytest.mark.parametrize(("epochs", "batch_size"), [(0, 25), (3, 0), (1.5, 25), (3, True)])
def test_epochs_and_batch_size_are_checked(epochs, batch_size):
    with pytest.raises(ConfigurationError, match=r"^training: (epochs|batch_size): got .*, expected an integer"):
        training(epochs=epochs, batch_size=batch_size)


def test_empty_parts_are_refused():
    run, nothing = training(), Feed(np.empty((0, 1, 6, 6), np.uint8), np.empty(0, int), np.ones(1), np.zeros(1))
    for parts in ((nothing, run.validation), (run.train, nothing)):
        with pytest.raises(ConfigurationError, match="^training: got an empty part, expected samples to train and to"):
            Training(run.network, run.loss, run.optimizer, *parts, epochs=1, batch_size=1, schedule=constant)


def test_regression_trains_too():
    rng = np.random.default_rng(0)
    x = Input((3,))
    network = Network(x, Dense(2)(x), dtype="float64", threads=1)
    images = rng.normal(size=(64, 3))
    feed = Feed(images, images @ rng.normal(size=(3, 2)), np.ones(3), np.zeros(3))
    step = TrainingStep(network, MeanSquaredError(), SGD(0.2), feed)
    results = [step(np.arange(64)) for _ in range(100)]
    assert results[-1][0] < 1e-3 * results[0][0]
    assert all(correct == 0 for _, correct in results)  # targets are no labels


def test_new_progress_is_at_the_start():
    assert Progress() == Progress(0, 0, 0.0, 0, 0, -1.0, math.inf, 0, 0.0, [])
    assert not math.isnan(Progress().best_accuracy)


def test_a_regression_trains_through_whole_epochs_and_keeps_its_best():
    rng = np.random.default_rng(0)
    x = Input((3,))
    network = Network(x, Dense(2)(x), dtype="float64", threads=2)
    images = rng.normal(size=(100, 3))
    feed = Feed(images, images @ rng.normal(size=(3, 2)), np.ones(3), np.zeros(3))
    run = Training(network, MeanSquaredError(), SGD(0.2), feed, feed, epochs=5, batch_size=20, schedule=constant)
    list(run.run())
    losses = [entry["validation_loss"] for entry in run.progress.history]
    assert losses == sorted(losses, reverse=True)
    assert run.progress.best_epoch == 5 and run.progress.best_loss == losses[-1] < 1e-3
    assert all(math.isnan(entry["validation_accuracy"]) for entry in run.progress.history)


def test_a_validation_loss_that_is_no_number_ends_the_training():
    run = training()
    run.validation.scale[:] = np.nan
    with pytest.raises(
        TrainingDiverged, match=r"the validation loss became nan after epoch 1; lower the learning rate"
    ):
        finish(run)


def test_one_hot_targets_train_like_labels():
    thetas = []
    for encode in (lambda labels: labels, lambda labels: np.eye(3)[labels]):
        run = training()
        one = np.ones(1)
        parts = (Feed(part.images, encode(part.targets), one, 0 * one) for part in (run.train, run.validation))
        other = Training(run.network, run.loss, run.optimizer, *parts, epochs=2, batch_size=25, schedule=constant)
        thetas.append(finish(other)[0])
    assert (thetas[0] == thetas[1]).all()


def test_the_schedule_leaves_the_optimizers_rate_as_it_was():
    optimizer = SGD(0.2)
    finish(training(optimizer=optimizer))
    assert optimizer.learning_rate == 0.2
