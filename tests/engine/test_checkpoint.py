"""Checkpoints: what comes back is what was saved, and whatever is wrong with a file is one line."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest

from handgrad.engine import SGD, Adam, Dense, Dropout, Input, Momentum, Network, ReLU, checkpoint
from handgrad.engine.checks import DataError
from handgrad.engine.training import Progress


def network_after_steps(optimizer, *, steps=3, features=4, seed=0, dtype="float32"):
    x = Input((3,))
    network = Network(x, Dense(2)(Dropout(0.5)(ReLU()(Dense(features)(x)))), seed=seed, dtype=dtype, threads=1)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        network.backward(rng.normal(size=network.forward(rng.normal(size=(5, 3)), training=True).shape))
        optimizer.step(network)
    return network


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a network after three steps of momentum."""
    optimizer = Momentum()
    checkpoint.save(tmp_path / "last.npz", network_after_steps(optimizer), optimizer, Progress(epoch=2, batch=1))
    return tmp_path / "last.npz"


def contents(path):
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def refused(path, network=None, optimizer=None):
    """Return the message of the DataError that loading gives: one line that names the file."""
    with pytest.raises(DataError) as caught:
        checkpoint.load(path, network or network_after_steps(Momentum()), optimizer)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"checkpoint {path} ")
    return message.removeprefix(f"checkpoint {path} ")


@pytest.mark.parametrize("make", [SGD, Momentum, Adam])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_comes_back(tmp_path, make, steps, dtype):
    optimizer, fresh = make(), make()
    network = network_after_steps(optimizer, steps=steps, dtype=dtype)
    progress = Progress(1, 2, 3.5, 4, 5, 0.75, 1, 6.25, [{"epoch": 1, "train_loss": 0.5}])
    checkpoint.save(tmp_path / "c.npz", network, optimizer, progress)
    other = network_after_steps(make(), steps=1, seed=9, dtype=dtype)
    assert checkpoint.load(tmp_path / "c.npz", other, fresh) == progress
    np.testing.assert_array_equal(other.theta, network.theta)
    assert other.draw == network.draw == steps
    assert fresh.steps.get("network", 0) == optimizer.steps.get("network", 0) == steps
    for name, array in optimizer.state.get("network", {}).items():
        np.testing.assert_array_equal(fresh.state["network"][name], array)
        assert fresh.state["network"][name].dtype == dtype


def test_parameters_alone_can_be_loaded(saved):
    network = network_after_steps(SGD(), seed=1)
    assert checkpoint.load(saved, network).epoch == 2
    np.testing.assert_array_equal(network.parameters["dense1.W"], contents(saved)["parameter/dense1.W"])


def test_names_in_the_file(saved):
    assert set(contents(saved)) == {
        "parameter/dense1.W", "parameter/dense1.b", "parameter/dense2.W", "parameter/dense2.b", "optimizer/v",
        "progress",
    }  # fmt: skip
    assert json.loads(str(contents(saved)["progress"]))["optimizer_steps"] == 3


def test_missing(tmp_path):
    assert refused(tmp_path / "none.npz") == "does not exist; the run ended before its first epoch did; train again"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip file at all", b"\x80\x04N."])
def test_not_a_checkpoint_at_all(tmp_path, content):
    (tmp_path / "c.npz").write_bytes(content)
    assert refused(tmp_path / "c.npz").startswith("is damaged (")


def test_a_folder_or_a_single_array_or_pickled_objects(tmp_path):
    assert refused(tmp_path).startswith("is damaged (")
    np.save(tmp_path / "array.npy", np.zeros(3))
    assert refused(tmp_path / "array.npy").startswith("is damaged (")
    np.savez(tmp_path / "objects.npz", progress=np.array([{}], dtype=object))
    assert "allow_pickle=False" in refused(tmp_path / "objects.npz")


def test_truncated_anywhere(saved):
    whole, network = saved.read_bytes(), network_after_steps(Momentum())
    before = network.theta.copy()
    for length in range(0, len(whole), 29):
        saved.write_bytes(whole[:length])
        assert refused(saved, network).startswith("is damaged (")
    np.testing.assert_array_equal(network.theta, before)


@pytest.mark.parametrize(("flip", "step"), [(0x01, 1), (0xFF, 5)])
def test_a_changed_byte_is_noticed_or_harmless(saved, flip, step):
    """Never another exception, never other numbers; a byte that nobody reads, of a time stamp, may go unnoticed."""
    whole, network, optimizer = saved.read_bytes(), network_after_steps(Momentum()), Momentum()
    expected = network.theta.copy()
    noticed = 0
    for place in range(0, len(whole), step):
        changed = bytearray(whole)
        changed[place] ^= flip
        saved.write_bytes(changed)
        try:
            checkpoint.load(saved, network, optimizer)
        except DataError as error:
            noticed += 1
            assert "\n" not in str(error)
        np.testing.assert_array_equal(network.theta, expected)
    assert noticed > len(whole) / step / 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '"a"', "{}", '{"draw": 1, "optimizer_steps": 1, "spam": 1}']
)
def test_damaged_progress(saved, text):
    np.savez(saved, **(contents(saved) | {"progress": np.array(text)}))
    assert refused(saved).startswith("is damaged (")


def test_without_progress(saved):
    arrays = contents(saved)
    del arrays["progress"]
    np.savez(saved, **arrays)
    assert refused(saved).startswith("is damaged (")


def test_parameters_that_are_no_numbers(saved):
    np.savez(saved, **(contents(saved) | {"parameter/dense2.b": np.array(["one", "two"])}))
    assert refused(saved).startswith("is damaged (")


def test_of_another_network(saved):
    network = network_after_steps(SGD(), features=5)
    before = network.theta.copy()
    assert refused(saved, network) == (
        "belongs to another network (parameter 'dense1.W': got shape (4, 3), expected (5, 3))"
    )
    x = Input((3,))
    other = Network(x, Dense(2)(Dense(4, name="first")(x)), threads=1)
    message = refused(saved, other)
    assert message.startswith("belongs to another network (Network: parameters do not belong to this network")
    assert "unknown ['dense2.W', 'dense2.b']" in message or "'dense1.W'" in message
    np.testing.assert_array_equal(network.theta, before)


@pytest.mark.parametrize("make", [SGD, Adam])
def test_of_another_optimizer(saved, make):
    network, optimizer = network_after_steps(SGD(), seed=1), make()
    before, draw = network.theta.copy(), network.draw
    message = refused(saved, network, optimizer)
    assert message.startswith("belongs to another optimiser")
    if optimizer.state_names:
        assert message.endswith(", expected m, v")
    np.testing.assert_array_equal(network.theta, before, "a refused checkpoint changes nothing")
    assert network.draw == draw and optimizer.state == {} and optimizer.steps == {}


def test_state_of_another_size(saved):
    np.savez(saved, **(contents(saved) | {"optimizer/v": np.zeros(3)}))
    assert refused(saved, optimizer=Momentum()).startswith("belongs to another network")


def test_loading_the_start_forgets_later_steps(tmp_path):
    """A checkpoint from before the first step has no state, and none may be left over."""
    optimizer = Adam()
    network = network_after_steps(optimizer, steps=0)
    checkpoint.save(tmp_path / "c.npz", network, optimizer, Progress())
    used = Adam()
    later = network_after_steps(used, steps=2)
    checkpoint.load(tmp_path / "c.npz", later, used)
    np.testing.assert_array_equal(later.theta, network.theta)
    assert used.steps.get("network", 0) == 0


@pytest.mark.parametrize("fail_at", ["fsync", "replace"])
def test_a_failing_write_keeps_the_old_file(saved, monkeypatch, fail_at):
    before = saved.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fail_at, full)
    with pytest.raises(DataError) as caught:
        checkpoint.save(saved, network_after_steps(Momentum(), steps=0), Momentum(), Progress())
    message = str(caught.value)
    assert "No space left on device" in message and str(saved) in message and "\n" not in message
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupted_write_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomically(saved, b"new")
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"^cannot write .*/file/c\.npz: "):
        checkpoint.save(tmp_path / "file" / "c.npz", network_after_steps(SGD()), SGD(), Progress())


def test_others_may_read_what_was_written(tmp_path):
    checkpoint.write_atomically(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o444 == 0o444 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
