"""Training on a GPU: many steps are enqueued at once, each a replay of a CUDA graph that holds all of its kernels.

Floor 4. What changes from step to step lies in tables on the GPU, a row for each of the next steps: which samples, the
keys of the random numbers, the optimiser's constants with the learning rate. A kernel at the beginning of a step takes
its row, one at the end writes what the step found and counts on. Between two stretches the host has everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import cuda as gpu
from .cuda import REDUCERS, add_up, cuda, cuda_kernel, flat
from .cuda_feed import Batches, FeedThere
from .feed import Feed
from .losses.loss import Loss
from .metrics import judge_cuda
from .network import Network
from .optimizers.optimizer import STATE_NAME, Optimizer

AT_ONCE = 128  # steps between two looks of the host: of LeNet-5 some milliseconds


@cuda_kernel
def begin_step_cuda(step, all_keys, keys, all_constants, constants):
    """Take the current step's row of the tables of keys and of constants, one thread for each number."""
    k = cuda.grid(1)
    if k < keys.size:
        keys[k] = all_keys[step[0], k]
    if k < constants.size:
        constants[k] = all_constants[step[0], k]


@cuda_kernel
def end_step_cuda(losses, predicted, classes, totals, step):
    """Write the step's summed loss and its number of right samples into its row, and count on; one block of threads."""
    loss, right = cuda.shared.array(REDUCERS, losses.dtype), cuda.shared.array(REDUCERS, losses.dtype)
    thread, row = cuda.threadIdx.x, step[0]
    zero, one = losses.dtype.type(0), losses.dtype.type(1)
    loss[thread], right[thread] = zero, zero
    for k in range(thread, losses.size, REDUCERS):
        loss[thread] += losses[k]
        if predicted[k] == classes[k]:
            right[thread] += one
    add_up(loss, thread, REDUCERS)
    add_up(right, thread, REDUCERS)
    if thread == 0:
        totals[row, 0], totals[row, 1] = loss[0], right[0]
        step[0] = row + 1


class CudaTrainingStep:
    """Forward, loss, backward and update of mini-batches, all on the GPU; as ``TrainingStep`` otherwise.

    Parameters
    ----------
    network : Network
        One input, one output, with ``device="cuda"``.
    loss : Loss
    optimizer : Optimizer
    feed : Feed
    """

    at_once = AT_ONCE

    def __init__(self, network: Network, loss: Loss, optimizer: Optimizer, feed: Feed):
        self.network, self.loss, self.optimizer, self.feed = network, loss, optimizer, feed.fitting(network, loss)
        self._feed = FeedThere(self.feed, network.dtype)
        self._plans: dict[int, _Plan] = {}
        self._state: dict[str, object] = {}

    def __call__(self, chosen: np.ndarray) -> tuple[float, int]:
        """Train on the chosen samples; see ``TrainingStep``."""
        return self.run([chosen], [self.optimizer.learning_rate])[0]

    def run(self, batches: Sequence[np.ndarray], rates: Sequence[float]) -> list[tuple[float, int]]:
        """Train on some mini-batches of one size, one after the other, each with its learning rate.

        Parameters
        ----------
        batches : sequence of numpy.ndarray of shape (N,), int64
            At most ``at_once``.
        rates : sequence of float

        Returns
        -------
        list of (float, int)
            For each, the summed loss and the number of right samples, both before its step.
        """
        network, device, samples = self.network, gpu.device(), len(batches[0])
        network.check_samples(samples)
        constants = []
        for self.optimizer.learning_rate in rates:
            self.optimizer.begin_step(STATE_NAME, network.theta)
            constants.append(tuple(self.optimizer.current[STATE_NAME]))
        if samples not in self._plans:
            self._plans[samples] = _Plan(self, samples, len(constants[0]))
        plan = self._plans[samples]
        plan.batches.choose(list(batches))
        keys = [plan.current.draw_keys(network.draw + row) for row in range(len(batches))]
        network.draw += len(batches)
        if plan.random:
            device.write(plan.all_keys, _table(keys, plan.all_keys))
        device.write(plan.all_constants, _table(constants, plan.all_constants))
        self._upload()
        for _ in batches:
            plan.step()
        totals = device.get(plan.totals)[: len(batches)]
        self._download()
        if not (totals[:, 0] >= 0).all():
            self.loss.check_output(plan.current.value(network.outputs[0].name))
        return [(float(loss_sum), int(right)) for loss_sum, right in totals]

    def _upload(self) -> None:
        self.network.upload()
        for name, array in self.optimizer.state[STATE_NAME].items():
            if name not in self._state:
                self._state[name] = gpu.device().put(array)
            else:
                gpu.device().write(self._state[name], array)

    def _download(self) -> None:
        self.network.download(parameters=True, gradients=True, statistics=True)
        for name, array in self.optimizer.state[STATE_NAME].items():
            array[...] = gpu.device().get(self._state[name])

    def enqueue(self, plan: _Plan) -> None:
        """Launch all kernels of one step."""
        network, (part,), batches = self.network, plan.current.active, plan.batches
        plan.current.prepare_layers(training=True)
        begin_step_cuda[flat(max(plan.keys.size, plan.constants.size))](
            batches.step, plan.all_keys, plan.keys, plan.all_constants, plan.constants
        )
        batches.load()
        plan.current.forward(part)
        judge_cuda(batches, self.loss)
        flat_lanes = (array.reshape(-1) for array in (batches.losses, batches.predicted, batches.classes))
        end_step_cuda[1, REDUCERS](*flat_lanes, plan.totals, batches.step)
        plan.current.backward(part)
        self.optimizer.update_cuda(network.theta_there, network.gradients_there, self._state, plan.constants)


def _table(rows: list, like) -> np.ndarray:
    """Return rows with empty ones behind them, of the shape and dtype of an array on the GPU."""
    table = np.zeros(like.shape, like.dtype)
    table[: len(rows)] = rows
    return table


class _Plan:
    """Everything on the GPU that steps with mini-batches of one size need, and the graph of one step."""

    def __init__(self, owner: CudaTrainingStep, samples: int, count: int):
        network, device = owner.network, gpu.device()
        self.owner = owner
        self.current = network.pass_for(samples, input_gradient=False, fused=True)
        self.current.allocate_gradients()
        self.batches = Batches(self.current, owner._feed, AT_ONCE)
        self.random = len(self.current.draw_keys(0))
        self.keys = self.current.parts[0].draws if self.random else device.zeros(1, np.uint64)
        self.all_keys = device.zeros((AT_ONCE, max(1, self.random)), np.uint64)
        self.constants = device.zeros(count, network.dtype)
        self.all_constants = device.zeros((AT_ONCE, count), network.dtype)
        self.totals = device.zeros((AT_ONCE, 2), network.dtype)
        self.graph, self._is_warm = None, False

    def step(self) -> None:
        """Enqueue one step: launched the first time, which compiles its kernels, then captured, then replayed."""
        if not self._is_warm:
            self.owner.enqueue(self)
            self._is_warm = True
            return
        if self.graph is None:
            with gpu.device().capture() as self.graph:
                self.owner.enqueue(self)
        self.graph.replay()
