"""A step that is run again without Python computes what it computed with it, for every layer of the engine."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import Input, Network, Tanh
from handgrad.engine.arrays import add_into, copy_into
from handgrad.engine.backend import SLOTS, kernel, kernel_calls
from handgrad.engine.cases import CASES, LAYERS
from handgrad.engine.program import Program

ALL = [(name, k) for name in LAYERS for k in range(len(CASES[name]))]


@kernel
def scaled(x, factor, z):
    for k in range(x.size):
        z[k] = factor * x[k]


@kernel
def shifted(x, by, z):
    for k in range(x.size):
        z[k] = x[k] + by[0] - by[1]


@pytest.mark.parametrize(("name", "k"), ALL, ids=[f"{name}-{CASES[name][k].title}" for name, k in ALL])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_layer_does_the_same_when_it_is_run_again(name, k, threads):
    """The second mini-batch goes through a program that noted the first; a new network has noted nothing."""
    case, rng = CASES[name][k], np.random.default_rng(3)
    networks = []
    for _ in range(2):
        inputs = [Input(shape) for shape in case.shapes]
        networks.append(Network(inputs, case.layer()(*inputs), seed=1, threads=threads, dtype="float64"))
    again, new = networks
    for turn in range(2):  # of as many samples, so that the same buffers are used
        if turn:  # the new network continues where the other one is
            new.draw = again.draw
            for key, value in new.statistics.items():
                value[...] = again.statistics[key]
        x = [case.x(rng, (35, *shape)) for shape in case.shapes]
        u = rng.normal(size=(35, *again.outputs[0].shape))
        z = again.forward(x, training=case.training)
        dL_dx = again.backward(u)
    np.testing.assert_array_equal(z, new.forward(x, training=case.training))
    for actual, expected in zip(dL_dx, new.backward(u), strict=True):
        np.testing.assert_array_equal(actual, expected)
    for key in new.gradients:
        np.testing.assert_array_equal(again.gradients[key], new.gradients[key], err_msg=key)


def test_kernels_and_python_keep_their_order(rng):
    x, y, z = rng.normal(size=6), np.zeros(6), np.zeros(6)
    program = Program()
    program.add_kernels(lambda: copy_into(y, x))
    program.add_python(lambda: np.multiply(y, 10, out=y))
    program.add_kernels(lambda: (shifted(y, (3, 1), z), add_into(z, y)))
    x[:] = rng.normal(size=6)
    program.run()
    np.testing.assert_array_equal(y, 10 * x)
    np.testing.assert_allclose(z, 20 * x + 2, rtol=1e-14, atol=1e-14)


def test_arguments_that_are_no_integers_are_passed_by_python(rng):
    x, z = rng.normal(size=5), np.zeros(5)
    with kernel_calls() as calls:
        scaled(x, 2.5, z)
        shifted(x, (2, 0), z)
    (_, with_float), (_, with_tuple) = calls
    assert scaled.machine_call(with_float) is None
    address, numbers = shifted.machine_call(with_tuple)
    assert address > 0 and numbers == [0, 0, 5, 8, x.ctypes.data, 5, 8, 2, 0, 0, 0, 5, 8, z.ctypes.data, 5, 8]
    program = Program()
    program.add_kernels(lambda: scaled(x, 2.5, z))
    x[:] = rng.normal(size=5)
    program.run()
    np.testing.assert_array_equal(z, 2.5 * x)


def test_calls_with_too_many_arguments_are_made_by_python():
    @kernel
    def total(many, z):
        for array in many:
            z[0] += array[0]

    many, z = tuple(np.full(1, float(k)) for k in range(SLOTS // 7 + 1)), np.zeros(1)
    program = Program()
    program.add_kernels(lambda: total(many, z))
    assert total.machine_call((many, z)) is None
    program.run()
    assert z[0] == 2 * sum(range(len(many)))


def test_calls_are_noted_by_the_thread_that_asks_and_within_the_block_alone():
    a, b = np.zeros(2), np.ones(2)
    with kernel_calls() as outer:
        add_into(a, b)
        with kernel_calls() as inner:
            copy_into(a, b)
    add_into(a, b)
    assert [call[0] for call in outer] == [add_into] and [call[0] for call in inner] == [copy_into]


def test_large_unsigned_integers_keep_their_bits():
    @kernel
    def high_bit(key, z):
        z[0] = 1 if key >> np.uint64(63) else 0

    z = np.zeros(1)
    with kernel_calls() as calls:
        high_bit(np.uint64(2**63 + 5), z)
    assert high_bit.machine_call(calls[0][1])[1][0] == -(2**63) + 5


def test_layers_that_do_more_than_call_kernels():
    """A class says so itself: one that is derived from it and works in Python is not taken for a list of kernels."""

    class Doubled(Tanh):
        def backward(self, share):
            super().backward(share)
            share.dL_dx[0][...] *= 2

    assert {name for name in LAYERS if not CASES[name][0].layer().states("kernels_alone")} == {
        "batch_norm",
        "dropout",
        "simple_rnn",
    }
    x = Input((3,))
    network = Network(x, Doubled()(x), threads=1, dtype="float64")
    values, u = np.linspace(-1, 1, 6).reshape(2, 3), np.ones((2, 3))
    for _ in range(3):
        network.forward(values)
        np.testing.assert_allclose(network.backward(u), 2 * (1 - np.tanh(values) ** 2), rtol=1e-13)
