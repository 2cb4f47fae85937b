"""Every CUDA kernel compiles for a GPU, without one: nothing spills, nothing is computed in float64 by mistake."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None or importlib.util.find_spec("cuda") is None,
    reason='the compiler for GPUs is not installed: pip install "handgrad[cuda]"',
)

PLANTED = """
import numpy as np
from handgrad.benchmarks.kernels import examine
from handgrad.engine.cuda import OfflineCompiler, cuda, cuda_kernel, launching_on
from handgrad.engine.layers.dense import matrix_kernel

MANY = 256


@cuda_kernel
def good_cuda(x, z):
    k = cuda.grid(1)
    if k < x.size:
        z[k] = x[k] * x.dtype.type(0.5)


@cuda_kernel
def literal_cuda(x, z):
    k = cuda.grid(1)
    if k < x.size:
        z[k] = x[k] * 0.1


@cuda_kernel
def array_cuda(x, z):
    some = cuda.local.array(MANY, x.dtype)
    for k in range(MANY):
        some[k] = x[k]
    z[0] = some[int(x[0])]


product_cuda = matrix_kernel("forward", 128, 128)
spill_cuda = cuda_kernel(product_cuda.function, threads=256, blocks=8)  # which leaves a thread 32 registers
x, size = np.ones(1024, np.float32), np.uint32(32)
with launching_on(OfflineCompiler()) as compiler:
    for kernel in (good_cuda, literal_cuda, array_cuda):
        kernel[1, 32](x, x)
    spill_cuda[1, 256](x, x, x, x, size, size, size)
    literal_cuda[1, 32](x.astype(np.float64), x.astype(np.float64))
for (kernel, types), ptx in compiler.compiled.items():
    print("; ".join(examine(kernel.__name__, str(types), ptx).complaints))
"""


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=dict(os.environ))


def test_every_kernel_is_good():
    done = run("-m", "handgrad.benchmarks.kernels", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and report["architecture"] == "sm_90"
    names = {kernel["name"] for kernel in report["kernels"]}
    assert len(names) > 80 and {"conv2d_tile_cuda", "dense_matrix_cuda", "adam_update_cuda", "gather_cuda"} <= names
    assert all(kernel["registers"] > 0 and not kernel["complaints"] for kernel in report["kernels"])


def test_planted_mistakes_are_found():
    """A number of type float64 in float32 arithmetic, an array that has no place in registers, too few registers."""
    done = run("-c", PLANTED)
    assert done.returncode == 0, done.stderr
    good, literal, array, spill, double = done.stdout.splitlines()
    assert good == double == ""
    assert "float64 instructions" in literal
    assert "1024 bytes of stack" in array
    assert "bytes spilled" in spill


def test_an_unknown_subject_is_named():
    done = run("-m", "handgrad.benchmarks.kernels", "conv3d")
    assert done.returncode == 2 and "got conv3d, expected one of dense, conv2d" in done.stderr


def test_the_table_can_be_read():
    done = run("-m", "handgrad.benchmarks.kernels", "relu")
    assert done.returncode == 0
    assert "relu_forward_cuda" in done.stdout and "2 kernels for sm_90, all good" in done.stdout
