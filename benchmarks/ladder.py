"""The rungs of one convolution with ReLU, from the formula to the machine: what each adds is said above its kernels.

The convolution is LeNet's second: 6 channels of 14 x 14, 16 filters of 5 x 5, stride 1, no padding. Letters are
those of ``derivations/notation.py``; every rung computes a = max(0, z), dL/dW and dL/dx from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..derivations import conv2d as derivation
from ..derivations import relu as relu_derivation
from ..engine.arrays import aligned
from ..engine.graph import Input
from ..engine.layers.conv2d import Conv2D, input_gradient
from ..engine.layers.flatten import Flatten
from ..engine.layers.relu import ReLU, relu_backward, relu_forward
from ..engine.network import Network
from ..engine.program import Program
from .machine import measured

C, H, O, F = 6, 14, 16, 5  # channels, rows and columns of the image, filters, rows and columns of a kernel
P = H - F + 1
OPERATIONS = ("forward", "weight gradient", "input gradient")
FLOPS = 2 * O * P * P * C * F * F  # of each of the three, for one sample


@dataclass(frozen=True)
class Problem:
    """The numbers that all rungs work on: x (N, C, H, H), W (O, C, F, F), b (O,), dL_da (N, O, P, P), float32."""

    x: np.ndarray
    W: np.ndarray
    b: np.ndarray
    dL_da: np.ndarray

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
    """

    run: Callable[[], object]
    result: Callable[[], np.ndarray]
    computes: int = 1


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
    x, W, b, dL_da = (array.astype(object) for array in (problem.x, problem.W, problem.b, problem.dL_da))
    z, a, dL_dx, dL_dW = ([None] * len(x) for _ in range(4))

    def forward():
        for n in range(len(x)):
            z[n] = derivation.forward(x[n], W, b)
            a[n] = relu_derivation.forward(z[n])

    def backward():
        for n in range(len(x)):
            (dL_dz,) = relu_derivation.backward(dL_da[n], z[n])
            dL_dx[n], dL_dW[n], _ = derivation.backward(dL_dz, x[n], W, b)

    forward()
    return {
        "forward": Call(forward, lambda: np.array(a, dtype=float)),
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
    kernels = plain_forward, plain_weight_gradient, plain_input_gradient
    return nests(kernels, problem.x, problem.W, problem.b, problem.dL_da, lambda array: array)


def nests(kernels, x, W, b, dL_da, in_user_layout) -> dict[str, Call]:
    """Return the calls of three nests, each with ReLU behind or before it."""
    (forward, weight_gradient, input_gradient), (z, a, dL_dz) = kernels, (aligned(dL_da) for _ in range(3))
    dL_dx, dL_dW = aligned(x), np.empty_like(W)

    def run_forward():
        forward(x, W, b, z)
        relu_forward(z.reshape(-1), a.reshape(-1))

    def run_weight_gradient():
        relu_backward(a.reshape(-1), dL_da.reshape(-1), dL_dz.reshape(-1))
        weight_gradient(x, dL_dz, dL_dW)

    def run_input_gradient():
        relu_backward(a.reshape(-1), dL_da.reshape(-1), dL_dz.reshape(-1))
        input_gradient(W, dL_dz, dL_dx)

    run_forward()
    return {
        "forward": Call(run_forward, lambda: in_user_layout(a)),
        "weight gradient": Call(run_weight_gradient, lambda: dL_dW),
        "input gradient": Call(run_input_gradient, lambda: in_user_layout(dL_dx)),
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
    kernels, x = (lanes_forward, lanes_weight_gradient, lanes_input_gradient), samples_last(problem.x)
    return nests(kernels, x, problem.W, problem.b, samples_last(problem.dL_da), lambda array: np.moveaxis(array, -1, 0))


# 4. The engine's kernels: the sums of several channels times sixteen samples stay in registers until they are complete,
#    one load of a pixel serves all of these channels, and enough sums are under way that none waits for another.
#    Packing the weights and the bias gradient are counted in.
def tile(problem: Problem) -> dict[str, Call]:
    """Run the engine's two layers one after the other."""
    return layers(problem, fused=False)


# 5. ReLU is applied to what the convolution has just stored, while it is near, and its backward pass is part of the
#    bias gradient's: two passes over memory less, and the map before the activation needs no memory at all. Where
#    pooling stands behind, as in LeNet-5, that goes back through ReLU on its way, which takes still less.
def fused(problem: Problem) -> dict[str, Call]:
    """Run the convolution that applies the activation behind it, as training does where no pooling follows."""
    return layers(problem, fused=True)


def layers(problem: Problem, *, fused: bool) -> dict[str, Call]:
    """Run the engine's layers as a network does."""
    image, conv, relu = Input((C, H, H)), Conv2D(O, F, name="conv"), ReLU(name="relu")
    network = Network(image, Flatten()(relu(conv(image))), threads=1)
    network.parameters["conv.W"][...], network.parameters["conv.b"][...] = problem.W, problem.b
    current = network.pass_for(len(problem.x), fused=fused)
    current.allocate_gradients()
    current.load("input", problem.x)
    current.load_seed(0, problem.dL_da.reshape(len(problem.x), -1))
    (part,) = current.active
    share, dL_dx = part.shares["conv"], part.shares["conv"].dL_dx[0]
    share.dL_dx = (None,)  # the layer's own backward pass computes the other gradients alone

    def forward():
        conv.forward(share)
        if not fused:
            relu.forward(part.shares["relu"])

    def backward():
        if not fused:
            relu.backward(part.shares["relu"])
        conv.backward(share)

    def gradient():
        input_gradient(conv._sizes, share.dL_dz, dL_dx, share.scratch)

    programs = {work: Program() for work in (forward, backward, gradient)}  # as in a network: no Python in between
    for work, program in programs.items():
        program.add_kernels(work)
    return {
        "forward": Call(programs[forward].run, lambda: current.value("relu")),
        "weight gradient": Call(programs[backward].run, lambda: share.gradients["W"]),
        "input gradient": Call(programs[gradient].run, lambda: current.gradient("input")),
    }


RUNGS = (
    Rung("literal", "the derivation's own loops on Python numbers", literal, samples=1),
    Rung("plain loops", "the same nest, compiled", plain),
    Rung("lanes", "samples side by side, innermost: vectors", lanes),
    Rung("tile", "a tile of sums shares each load", tile),
    Rung("fused", "ReLU while its numbers are near", fused),
)
