"""The training step of this engine as a runner: what is measured beside the peers."""

from __future__ import annotations

import numpy as np

from ..engine.cases import Projection
from ..engine.feed import Feed
from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from ..engine.network import Network
from ..engine.optimizers.optimizer import STATE_NAME
from ..engine.optimizers.sgd import SGD
from ..engine.training import TrainingStep
from .machine import runs_per_second
from .nets import NETS, graph

BATCHES = 8  # of different data, in turn


class Handgrad:
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
        self.batch, self._turn = batch, 0
        images = rng.integers(0, 256, size=(BATCHES * batch, *net.shape), dtype=np.uint8)
        loss, targets = SoftmaxCrossEntropy(), rng.integers(0, 10, BATCHES * batch)
        if not net.classes:
            loss, targets = Projection(), rng.normal(size=(BATCHES * batch, *z.shape)).astype(np.float32)
        feed = Feed(images, targets, np.full(1, 1 / 128), np.full(1, -1.0))
        self._order = rng.permutation(BATCHES * batch)
        self._step = (TrainingStep if net.classes else StepWithInput)(self.network, loss, SGD(0.01), feed)

    def step(self) -> None:
        """Train on the next mini-batch."""
        start = self._turn % BATCHES * self.batch
        self._turn += 1
        self._step(self._order[start : start + self.batch])

    def forward(self) -> None:
        """Compute the outputs of a mini-batch that is already packed."""
        current = self.network.pass_for(self.batch, input_gradient=isinstance(self._step, StepWithInput))
        current.prepare(training=False, draw=0)
        current.run(current.forward)

    def images_per_second(self, seconds: float, forward: bool = False) -> float:
        """Run for about so long and return the rate."""
        return self.batch * runs_per_second(self.forward if forward else self.step, seconds)

    def buffers(self) -> int:
        """Return the bytes of parameters, gradients, values and scratch that a step holds."""
        seen: dict[int, int] = {}

        def add(array):
            base = array
            while isinstance(base.base, np.ndarray):
                base = base.base
            seen[id(base)] = base.nbytes

        add(self.network.theta)
        for current in self.network._passes.values():
            for part in current.active:
                add(part.dL_dtheta)
                for arrays in (part.values, part.gradients, part.edges, part.seeds):
                    for array in arrays.values():
                        if array is not None:
                            add(array)
                for share in part.shares.values():
                    for array in share.scratch.values():
                        add(array)
        return sum(seen.values())


class StepWithInput(TrainingStep):
    """The same with the gradient of the input, as a layer inside a larger network has to compute it."""

    def __call__(self, chosen: np.ndarray) -> None:
        """Train on the chosen samples; the projection's u, which is the upstream gradient, is packed once."""
        network = self.network
        current = network.pass_for(len(chosen))
        if not hasattr(self, "_packed"):
            current.allocate_gradients()
            u = self.feed.targets[: len(chosen)]
            current.load_seed(0, u)
            self._packed = True
        current.prepare(training=True, draw=network.draw)
        network.draw += 1
        self.optimizer.begin_step(STATE_NAME, network.theta)
        lanes = self.feed.choose(chosen)
        network.workers.run(lambda rank: self._train(rank, current, lanes))

    def _train(self, rank: int, current, lanes: np.ndarray) -> None:
        part = current.parts[rank]
        if part is not None:
            self.feed.load(current, part, lanes)
            current.forward(part)
            current.backward(part)
        self._update(rank, current)
