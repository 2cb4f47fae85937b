"""The rungs of one convolution, from the formula to the machine: what each adds is said above its kernels.

The convolution is LeNet's second: 6 channels of 14 x 14, 16 filters of 5 x 5, stride 1, no padding. Letters are
those of ``derivations/notation.py``; every rung computes z, dL/dW and dL/dx from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..derivations import conv2d as derivation
from ..engine.arrays import aligned
from ..engine.graph import Input
from ..engine.layers.conv2d import Conv2D
from ..engine.network import Network
from .machine import measured

C, H, O, F = 6, 14, 16, 5  # channels, rows and columns of the image, filters, rows and columns of a kernel
P = H - F + 1
OPERATIONS = ("forward", "weight gradient", "input gradient")
FLOPS = 2 * O * P * P * C * F * F  # of each of the three, for one sample


@dataclass(frozen=True)
class Problem:
    """The numbers that all rungs work on: x (N, C, H, H), W (O, C, F, F), b (O,), dL_dz (N, O, P, P), float32."""

    x: np.ndarray
    W: np.ndarray
    b: np.ndarray
    dL_dz: np.ndarray

    @classmethod
    def random(cls, samples: int, seed: int = 0) -> Problem:
        """Return normally distributed numbers for so many samples."""
        rng = np.random.default_rng(seed)
        shapes = (samples, C, H, H), (O, C, F, F), (O,), (samples, O, P, P)
        return cls(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


@dataclass(frozen=True)
class Call:
    """How a rung computes one of the OPERATIONS.

    Attributes
    ----------
    run : callable
        Does the work once; this is timed.
    result : callable
        Returns what it computed, in user layout.
    computes : int
        How many of the three one run computes.
    less : callable, optional
        A part of ``run`` that belongs to another operation; its time is taken off.
    """

    run: Callable[[], object]
    result: Callable[[], np.ndarray]
    computes: int = 1
    less: Callable[[], object] | None = None


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes
    ----------
    name, adds : str
        What it is called, and what it adds to the one below.
    prepare : callable
        From a Problem to a Call for each of OPERATIONS; may copy and allocate, which is not timed.
    samples : int or None
        On how many it is timed where all would take too long.
    """

    name: str
    adds: str
    prepare: Callable[[Problem], dict[str, Call]]
    samples: int | None = None


# 1. The derivation itself, equations 1, 4 and 7, on Python numbers: every one of them is an object that is made, looked
#    up and thrown away. Its backward pass computes both gradients in one go.
def literal(problem: Problem) -> dict[str, Call]:
    """Run the loops of ``derivations/conv2d.py``, sample by sample."""
    x, W, b, dL_dz = (array.astype(object) for array in (problem.x, problem.W, problem.b, problem.dL_dz))
    z, dL_dx, dL_dW = [None] * len(x), [None] * len(x), [None] * len(x)

    def forward():
        for n in range(len(x)):
            z[n] = derivation.forward(x[n], W, b)

    def backward():
        for n in range(len(x)):
            dL_dx[n], dL_dW[n], _ = derivation.backward(dL_dz[n], x[n], W, b)

    return {
        "forward": Call(forward, lambda: np.array(z, dtype=float)),
        "weight gradient": Call(backward, lambda: sum(dL_dW).astype(float), computes=2),
        "input gradient": Call(backward, lambda: np.array(dL_dx, dtype=float), computes=2),
    }


# 2. The same nests, compiled: numbers live in registers and machine code replaces the interpreter. The innermost loops
#    are five steps long, too short for vectors of eight, so most of the machine still waits.
@measured
def plain_forward(x, W, b, z):
    """z[o,h,q] = b[o] + Σ W[o,c,i,j] x[c, h + i, q + j], a sample at a time."""
    for n in range(x.shape[0]):
        for o in range(O):
            for h in range(P):
                for q in range(P):
                    total = b[o]
                    for c in range(C):
                        for i in range(F):
                            for j in range(F):
                                total += W[o, c, i, j] * x[n, c, h + i, q + j]
                    z[n, o, h, q] = total


@measured
def plain_weight_gradient(x, dL_dz, dL_dW):
    """dL/dW[o,c,i,j] = Σ dL/dz[o,h,q] x[c, h + i, q + j]: every product is added to a sum in memory."""
    dL_dW[...] = 0
    for n in range(x.shape[0]):
        for o in range(O):
            for h in range(P):
                for q in range(P):
                    for c in range(C):
                        for i in range(F):
                            for j in range(F):
                                dL_dW[o, c, i, j] += dL_dz[n, o, h, q] * x[n, c, h + i, q + j]


@measured
def plain_input_gradient(W, dL_dz, dL_dx):
    """dL/dx[c,a,b] = Σ W[o,c,i,j] dL/dz[o, a - i, b - j], where that is inside."""
    dL_dx[...] = 0
    for n in range(dL_dx.shape[0]):
        for o in range(O):
            for c in range(C):
                for a in range(H):
                    for b in range(H):
                        for i in range(max(0, a - P + 1), min(F, a + 1)):
                            for j in range(max(0, b - P + 1), min(F, b + 1)):
                                dL_dx[n, c, a, b] += W[o, c, i, j] * dL_dz[n, o, a - i, b - j]


def plain(problem: Problem) -> dict[str, Call]:
    """Run the compiled nests on (N, C, H, W) arrays."""
    x, W, b, dL_dz = problem.x, problem.W, problem.b, problem.dL_dz
    z, dL_dx, dL_dW = np.empty_like(dL_dz), np.empty_like(x), np.empty_like(W)
    return {
        "forward": Call(lambda: plain_forward(x, W, b, z), lambda: z),
        "weight gradient": Call(lambda: plain_weight_gradient(x, dL_dz, dL_dW), lambda: dL_dW),
        "input gradient": Call(lambda: plain_input_gradient(W, dL_dz, dL_dx), lambda: dL_dx),
    }


# 3. Samples lie side by side, x (C, H, H, N), and the innermost loop is over them: the formula for one sample becomes
#    vector instructions without a word about vectors. But every product is added to a number in memory, so that each
#    multiply-add also loads and stores.
@measured
def lanes_forward(x, W, b, z):
    """The forward pass for all samples at once; z (O, P, P, N)."""
    for o in range(O):
        for h in range(P):
            for q in range(P):
                z_q = z[o, h, q]
                z_q[:] = b[o]
                for c in range(C):
                    for i in range(F):
                        for j in range(F):
                            w, x_j = W[o, c, i, j], x[c, h + i, q + j]
                            for v in range(z_q.size):
                                z_q[v] += w * x_j[v]


@measured
def lanes_weight_gradient(x, dL_dz, dL_dW):
    """The weight gradient; the products of all samples at one position are added up in a vector."""
    for o in range(O):
        for c in range(C):
            for i in range(F):
                for j in range(F):
                    total = dL_dW.dtype.type(0)
                    for h in range(P):
                        for q in range(P):
                            dL_dz_q, x_j = dL_dz[o, h, q], x[c, h + i, q + j]
                            for v in range(x_j.size):
                                total += dL_dz_q[v] * x_j[v]
                    dL_dW[o, c, i, j] = total


@measured
def lanes_input_gradient(W, dL_dz, dL_dx):
    """The input gradient for all samples at once; dL_dx (C, H, H, N)."""
    dL_dx[...] = 0
    for c in range(C):
        for a in range(H):
            for b in range(H):
                dL_dx_b = dL_dx[c, a, b]
                for o in range(O):
                    for i in range(max(0, a - P + 1), min(F, a + 1)):
                        for j in range(max(0, b - P + 1), min(F, b + 1)):
                            w, dL_dz_j = W[o, c, i, j], dL_dz[o, a - i, b - j]
                            for v in range(dL_dx_b.size):
                                dL_dx_b[v] += w * dL_dz_j[v]


def samples_last(array: np.ndarray) -> np.ndarray:
    """Return a copy with the samples in the last axis, on a cache line."""
    return aligned(np.moveaxis(array, 0, -1))


def lanes(problem: Problem) -> dict[str, Call]:
    """Run the nests with the samples innermost."""
    x, W, b, dL_dz = samples_last(problem.x), problem.W, problem.b, samples_last(problem.dL_dz)
    z, dL_dx, dL_dW = aligned(dL_dz), aligned(x), np.empty_like(W)
    return {
        "forward": Call(lambda: lanes_forward(x, W, b, z), lambda: np.moveaxis(z, -1, 0)),
        "weight gradient": Call(lambda: lanes_weight_gradient(x, dL_dz, dL_dW), lambda: dL_dW),
        "input gradient": Call(lambda: lanes_input_gradient(W, dL_dz, dL_dx), lambda: np.moveaxis(dL_dx, -1, 0)),
    }


# 4. The engine's kernels: the sums of several channels times sixteen samples stay in registers until they are complete,
#    one load of a pixel serves all of these channels, and enough sums are under way that none waits for another.
#    Packing the weights and the bias gradient are counted in.
def tile(problem: Problem) -> dict[str, Call]:
    """Run the engine's layer as a network does."""
    network = Network(image := Input((C, H, H)), Conv2D(O, F, name="conv")(image), threads=1)
    network.parameters["conv.W"][...], network.parameters["conv.b"][...] = problem.W, problem.b
    network.forward(problem.x)
    network.backward(problem.dL_dz)
    current, layer = network.last_pass, network.nodes["conv"].layer
    share = current.active[0].shares["conv"]
    both = share.dL_dx

    def weight_gradient():
        share.dL_dx = (None,)
        layer.backward(share)
        share.dL_dx = both

    return {
        "forward": Call(lambda: layer.forward(share), lambda: current.value("conv")),
        "weight gradient": Call(weight_gradient, lambda: share.gradients["W"]),
        "input gradient": Call(lambda: layer.backward(share), lambda: current.gradient("input"), less=weight_gradient),
    }


RUNGS = (
    Rung("literal", "the derivation's own loops on Python numbers", literal, samples=1),
    Rung("plain loops", "the same nest, compiled", plain),
    Rung("lanes", "samples side by side, innermost: vectors", lanes),
    Rung("tile", "sums of several channels share each load", tile),
)
