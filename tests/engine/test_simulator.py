"""The simulator of CUDA finds what goes wrong on a GPU: missing barriers, threads that part, indices below zero."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import cuda as gpu
from handgrad.engine.checks import DeviceError
from handgrad.engine.cuda import add_up, cuda, cuda_kernel, device_function, flat, load4, maps, position, store4
from handgrad.engine.simulator import ORDERS

EIGHT = 8


@cuda_kernel
def reverse_cuda(x, z):
    tile = cuda.shared.array(EIGHT, x.dtype)
    k = cuda.threadIdx.x
    tile[k] = x[k]
    cuda.syncthreads()
    z[k] = tile[EIGHT - 1 - k]


@cuda_kernel
def reverse_without_a_barrier_cuda(x, z):
    tile = cuda.shared.array(EIGHT, x.dtype)
    k = cuda.threadIdx.x
    tile[k] = x[k]
    z[k] = tile[EIGHT - 1 - k]


@cuda_kernel
def leave_cuda(x):
    tile = cuda.shared.array(EIGHT, x.dtype)
    if cuda.threadIdx.x < 4:
        tile[cuda.threadIdx.x] = x[0]
        cuda.syncthreads()


@cuda_kernel
def before_the_first_cuda(x, z):
    z[cuda.grid(1)] = x[cuda.grid(1) - 1]


@cuda_kernel
def sum_cuda(x, total):
    partial = cuda.shared.array(EIGHT, x.dtype)
    k = cuda.threadIdx.x
    partial[k] = x[k]
    add_up(partial, k, EIGHT)
    if k == 0:
        total[0] = partial[0]


@device_function
def twice(number):
    return number + number


def make(factor):
    @cuda_kernel
    def scale_cuda(x, z):
        k = cuda.grid(1)
        if k < x.size:
            z[k] = twice(x[k]) * factor

    return scale_cuda


@cuda_kernel
def places_cuda(z, C):
    n, c, h, q, v = position(C)
    if q < z.shape[3]:
        z[n, c, h, q, v] = 1000 * n + 100 * c + 10 * h + q + v / 10


@cuda_kernel
def copy_by_fours_cuda(x, z):
    first = 4 * cuda.grid(1)
    a, b, c, d = load4(x, first)
    store4(z, first, d, c, b, a)


@pytest.fixture(params=ORDERS)
def simulator(request):
    found = gpu.device().simulator
    found.order, found.is_guarded = request.param, False
    yield found
    found.order, found.is_guarded = "forward", False


def test_threads_wait_for_each_other(simulator):
    x, z = np.arange(8.0), np.zeros(8)
    reverse_cuda[1, 8](x, z)
    np.testing.assert_array_equal(z, x[::-1])


def test_a_missing_barrier_shows_in_any_order(simulator):
    z = np.zeros(8)
    reverse_without_a_barrier_cuda[1, 8](np.arange(8.0), z)
    assert np.isnan(z).any()


def test_threads_that_do_not_reach_a_barrier_are_an_error(simulator):
    with pytest.raises(DeviceError, match="leave_cuda: 4 of 8 threads wait at a barrier"):
        leave_cuda[1, 8](np.ones(1))


def test_an_index_below_zero_is_an_error(simulator):
    x, z = np.arange(4.0), np.zeros(4)
    before_the_first_cuda[1, 4](x, z)  # NumPy takes the last one
    simulator.is_guarded = True
    with pytest.raises(IndexError, match=r"index -1 .* negative in a CUDA kernel"):
        before_the_first_cuda[1, 4](x, z)
    with pytest.raises(IndexError):
        before_the_first_cuda[2, 4](np.arange(4.0)[1:], z)


def test_sums_are_taken_in_one_order(simulator):
    x, total = np.random.default_rng(0).normal(size=8), np.zeros(1)
    sum_cuda[1, 8](x, total)
    assert total[0] == ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))


def test_kernels_call_functions_and_enclose_numbers(simulator):
    x, z = np.arange(20.0, dtype=np.float32), np.zeros(20, np.float32)
    make(np.float32(3))[flat(20)](x, z)
    np.testing.assert_array_equal(z, 6 * x)


def test_every_number_of_a_map_has_a_thread(simulator):
    z = np.full((2, 3, 4, 5, gpu.WARP), np.nan)
    places_cuda[maps(z.shape)](z, 3)
    n, c, h, q, v = np.indices(z.shape)
    np.testing.assert_array_equal(z, 1000 * n + 100 * c + 10 * h + q + v / 10)


def test_four_numbers_at_a_time(simulator):
    x, z = np.arange(8.0), np.zeros(8)
    copy_by_fours_cuda[1, 2](x, z)
    assert z.tolist() == [3, 2, 1, 0, 7, 6, 5, 4]


def test_a_capture_runs_nothing_until_it_is_replayed():
    device, x, z = gpu.device(), np.ones(3), np.zeros(3)
    with device.capture() as graph:
        gpu.add_into_cuda[flat(3)](z, x)
        gpu.add_into_cuda[flat(3)](z, x)
    assert not z.any()
    graph.replay()
    graph.replay()
    assert z.tolist() == [4, 4, 4]


def test_outside_of_a_kernel_there_is_no_cuda():
    with pytest.raises(AttributeError, match="in CUDA kernels alone"):
        cuda.threadIdx.x  # noqa: B018
