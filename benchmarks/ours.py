"""The training step of this engine as a runner: what is measured beside the peers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from ..engine.cases import Projection
from ..engine.feed import Feed
from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from ..engine.network import Network
from ..engine.optimizers.sgd import SGD
from ..engine.passes import Pass
from ..engine.program import Piece, Program
from ..engine.training import TrainingStep
from .memory import held_bytes, temporary_bytes
from .nets import NETS, graph
from .runner import Runner

BATCHES = 8  # of different data, in turn


class Handgrad(Runner):
    """Train one network on uint8 data, gathered, scaled and packed in every step.

    Parameters
    ----------
    name : str
        Of NETS.
    batch : int
    threads : int
    """

    label = "handgrad"

    def __init__(self, name: str, batch: int, threads: int):
        net, rng = NETS[name], np.random.default_rng(0)
        x, z = graph(name)
        self.network = Network(x, z, seed=0, threads=threads)
        self.batch, self._turn, self._with_input = batch, 0, not net.classes
        images = rng.integers(0, 256, size=(BATCHES * batch, *net.shape), dtype=np.uint8)
        loss, targets = SoftmaxCrossEntropy(), rng.integers(0, 10, BATCHES * batch)
        if self._with_input:
            loss, targets = Projection(), rng.normal(size=(BATCHES * batch, *z.shape)).astype(np.float32)
        feed = Feed(images, targets, np.full(1, 1 / 128), np.full(1, -1.0))
        self._order = rng.permutation(BATCHES * batch)
        self.training = (StepWithInput if self._with_input else TrainingStep)(self.network, loss, SGD(0.01), feed)
        self._one = rng.normal(size=(1, *net.shape)).astype(np.float32)
        self._losses: list[Program] = []

    def step(self) -> None:
        """Train on the next mini-batch."""
        start = self._turn % BATCHES * self.batch
        self._turn += 1
        self.training(self._order[start : start + self.batch])

    def current(self):
        """Return the pass whose buffers a training step uses."""
        return self.network.pass_for(self.batch, input_gradient=self._with_input, fused=True)

    def forward(self) -> None:
        """Compute the outputs of a mini-batch that is already packed."""
        current = self.current()
        current.prepare(training=False, draw=0)
        current.run_all("forward")

    def backward_seconds(self) -> float:
        """Run both passes; the loss, whose value and gradient are one kernel, is counted with the backward pass."""
        current = self.current()
        current.allocate_gradients()
        current.prepare(training=True, draw=0)
        current.run_all("forward")
        start = time.perf_counter()
        if not self._with_input:
            self.network.workers.run_programs(self._losses or self._make_losses(current))
        current.run_all("backward")
        current.reduce_gradients()
        return time.perf_counter() - start

    def _make_losses(self, current: Pass) -> list[Program]:
        """Return what each worker does between the two passes."""
        loss, targets, dtype = self.training.loss, self.training.feed.targets, self.network.dtype
        for part in current.parts:
            program = Program()
            if part is not None:
                mine = targets[part.first_sample : part.first_sample + part.samples]
                z, target = part.values[self.network.outputs[0].name], loss.pack_target(mine, part.blocks, dtype)
                arguments = z, target, part.samples, current.samples, part.seeds[0], np.zeros(1)
                program.add_kernels(partial(loss.compute, *arguments))
            self._losses.append(program)
        return self._losses

    def classify_one(self) -> None:
        """Compute the outputs of one sample, layout and checks included."""
        self.network.forward(self._one)

    def step_bytes(self) -> int:
        """Return the bytes that a training step takes: what it holds from step to step, and what it makes besides."""
        temporary, feed = temporary_bytes(self.step), self.training.feed
        return temporary + held_bytes(self.network, self.training, without=[feed, feed.rows])


class StepWithInput(TrainingStep):
    """The same with the gradient of the input, as a layer inside a larger network has to compute it."""

    def __call__(self, chosen: np.ndarray) -> tuple[float, int]:
        """Train on the chosen samples; the projection's u, which is the upstream gradient, is packed once."""
        current = self.pass_for(len(chosen))
        if getattr(self, "_packed", None) is not current:
            current.allocate_gradients()
            current.load_seed(0, self.feed.targets[: len(chosen)])
            self._packed = current
        return super().__call__(chosen)

    def pass_for(self, samples: int) -> Pass:
        """Return the pass whose buffers are used, with the gradient of the input."""
        return self.network.pass_for(samples, fused=True)

    def pack_targets(self, plan, chosen: np.ndarray) -> None:
        """Do nothing: no loss asks for them."""

    def judge(self, rank: int, current: Pass, plan) -> Iterator[Piece]:
        """Do nothing: u is where it is needed."""
        return iter(())
