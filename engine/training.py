"""Training: a fresh shuffle in every epoch, one step per mini-batch, all of it repeatable and resumable.

Floor 4.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from . import cuda
from .backend import LANES, compile_seconds
from .checks import ConfigurationError, TrainingDiverged, require_positive_integers
from .cuda_training import CudaTrainingStep
from .feed import Feed
from .losses.loss import Loss
from .metrics import evaluate, predicted_classes
from .network import Network
from .optimizers.optimizer import STATE_NAME, Optimizer
from .passes import Pass
from .program import Piece, Program, states


def _compile_seconds() -> float:
    return compile_seconds() + cuda.compile_seconds()


class TrainingStep:
    """Forward, loss, backward and update of one mini-batch, on all workers in a single dispatch.

    Parameters
    ----------
    network : Network
        One input, one output.
    loss : Loss
    optimizer : Optimizer
    feed : Feed

    Attributes
    ----------
    at_once : int
        Mini-batches that ``run`` is best given at a time.
    """

    at_once = 1

    def __init__(self, network: Network, loss: Loss, optimizer: Optimizer, feed: Feed):
        self.network, self.loss, self.optimizer, self.feed = network, loss, optimizer, feed.fitting(network, loss)
        size, workers = network.theta.size, network.workers.size
        self._bounds = [size * rank // workers // LANES * LANES for rank in range(workers)] + [size]
        self._losses = np.zeros(workers)

    def run(self, batches: Sequence[np.ndarray], rates: Sequence[float]) -> list[tuple[float, int]]:
        """Train on some mini-batches, each with its learning rate; return for each what a call returns."""
        results = []
        for chosen, self.optimizer.learning_rate in zip(batches, rates, strict=True):
            results.append(self(chosen))
        return results

    def __call__(self, chosen: np.ndarray) -> tuple[float, int]:
        """Train on the chosen samples.

        Parameters
        ----------
        chosen : numpy.ndarray of shape (N,), int64

        Returns
        -------
        loss_sum : float
            Sum over the samples of the loss before the step.
        correct : int
            Samples whose largest output was that of the true class, before the step; 0 for targets that are no labels.
        """
        network, N = self.network, len(chosen)
        network.check_samples(N)
        current = self.pass_for(N)
        current.allocate_gradients()
        current.prepare(training=True, draw=network.draw)
        network.draw += 1
        self.optimizer.begin_step(STATE_NAME, network.theta)
        plan = self._plan_for(current)
        plan.lanes[:N] = chosen
        self.pack_targets(plan, chosen)
        self._losses[:] = 0
        if current.as_programs and len(plan.programs) == network.workers.size:
            network.workers.run_programs([plan.programs[rank] for rank in range(network.workers.size)])
        else:
            network.workers.run(lambda rank: self._work(rank, current, plan))
        labels = self.feed.labels
        correct = 0 if labels is None else (plan.predicted.reshape(-1)[:N] == labels[chosen]).sum()
        return float(self._losses.sum()), int(correct)

    def _plan_for(self, current: Pass) -> _Plan:
        plan, crew = current.training_plan, self.network.workers.crew
        moved = self.optimizer.current[STATE_NAME], *self.optimizer.state[STATE_NAME].values()
        needed = self, self.feed, self.optimizer, self.loss, crew, *moved
        if plan is None or not same_objects(plan.made_for, needed):
            plan = current.training_plan = _Plan(needed, self.feed.choose(np.zeros(current.samples, np.int64)))
        return plan

    def pass_for(self, samples: int) -> Pass:
        """Return the pass whose buffers a step on so many samples uses."""
        return self.network.pass_for(samples, input_gradient=False, fused=True)

    def pack_targets(self, plan: _Plan, chosen: np.ndarray) -> None:
        """Put the targets of a mini-batch in lane layout where the plan has them."""
        packed = self.loss.pack_target(self.feed.targets[chosen], len(plan.lanes) // LANES, self.network.dtype)
        if plan.targets is None:
            plan.targets = packed
        else:
            plan.targets[...] = packed

    def _work(self, rank: int, current: Pass, plan: _Plan) -> None:
        """Do one worker's part of a step: piece by piece the first time, then as a program."""
        if not current.as_programs:
            for _, work in self._pieces(rank, current, plan):
                work()
        elif rank in plan.programs:
            plan.programs[rank].run()
        else:
            plan.programs[rank] = Program.of(self._pieces(rank, current, plan))

    def _pieces(self, rank: int, current: Pass, plan: _Plan) -> Iterator[Piece]:
        """Yield what one worker does; workers that wait for each other in a kernel need not wait for Python's lock."""
        network, part = self.network, current.parts[rank]
        workers, stretch = network.workers, slice(self._bounds[rank], self._bounds[rank + 1])
        if part is not None:
            forward, backward = current.training_pieces(part)
            yield True, partial(self.feed.load, current, part, plan.lanes)
            yield from forward
            yield from self.judge(rank, current, plan)
            yield from backward
        yield current.meeting(workers.size)  # everybody's gradients are ready
        yield True, partial(current.reduce_gradients, stretch)
        update = partial(self.optimizer.update_stretch, STATE_NAME, network.theta, network.dL_dtheta, stretch)
        yield states(self.optimizer, "kernels_alone"), update

    def judge(self, rank: int, current: Pass, plan: _Plan) -> Iterator[Piece]:
        """Yield what is done with the output: the loss and its gradient, and the predicted classes."""
        part = current.parts[rank]
        z, first = part.values[self.network.outputs[0].name], part.first_sample // LANES
        mine = slice(first, first + part.blocks)
        into = part.seeds[0], self._losses[rank : rank + 1]
        yield (
            states(self.loss, "kernels_alone"),
            lambda: self.loss.compute(z, plan.targets[mine], part.samples, current.samples, *into),
        )
        if self.feed.labels is not None:
            yield True, partial(predicted_classes, z, plan.predicted[mine])


class _Plan:
    """What a training step remembers with a pass.

    Attributes
    ----------
    made_for : tuple of object
        The step with its data, optimiser and loss, the workers' threads, and the optimiser's constants and state: with
        others, the programs are wrong.
    lanes : array of shape (blocks * LANES,), int64
        The chosen sample of each lane, -1 behind the last.
    predicted : array of shape (blocks, LANES), int64
    targets : array, blocks first, or None
        Packed, always in the same array.
    programs : dict of int to Program
        By rank.
    """

    def __init__(self, made_for: tuple[object, ...], lanes: np.ndarray):
        self.made_for, self.lanes = made_for, lanes
        self.predicted = np.empty((len(lanes) // LANES, LANES), dtype=np.int64)
        self.targets: np.ndarray | None = None
        self.programs: dict[int, Program] = {}


def same_objects(some: Sequence[object], others: Sequence[object]) -> bool:
    """Return whether these are the same objects, and not only equal ones."""
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


@dataclass
class Progress:
    """How far a training has come; saved in checkpoints, so that a resumed training continues in the same place.

    Attributes
    ----------
    epoch, batch : int
        Epochs finished, and mini-batches done in the current one.
    loss_sum, correct, seen : float, int, int
        Sums over the samples of the current epoch.
    best_accuracy, best_loss, best_epoch : float, float, int
        Of the validation part: the epoch with the highest accuracy, and of equal ones, or where there are no classes,
        the one with the lowest loss; -1, infinity and 0 before the first epoch.
    seconds : float
        Spent in steps of the current epoch, compiling left out.
    history : list of dict
        One entry per finished epoch.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)


class Training:
    """A training run: epochs of shuffled mini-batches with a validation after each.

    Parameters
    ----------
    network : Network
    loss : Loss
    optimizer : Optimizer
        Its learning rate is the base that the schedule multiplies.
    train, validation : Feed
    epochs, batch_size : int
    schedule : callable
        From ``handgrad.engine.schedules``.
    seed : int
        Of the shuffles.
    progress : Progress, optional
        Where to continue.

    Attributes
    ----------
    progress : Progress
    learning_rate : float
        Of the last step.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        optimizer: Optimizer,
        train: Feed,
        validation: Feed,
        *,
        epochs: int,
        batch_size: int,
        schedule: Callable[[float], float],
        seed: int = 0,
        progress: Progress | None = None,
    ):
        require_positive_integers("training", epochs=epochs, batch_size=batch_size)
        if len(train) == 0 or len(validation) == 0:
            raise ConfigurationError("training", got="an empty part", expected="samples to train and to validate on")
        for samples in {min(batch_size, len(train)), len(train) % batch_size} - {0}:
            network.check_samples(samples)
        train, validation = train.fitting(network, loss), validation.fitting(network, loss)
        self.network, self.loss, self.optimizer = network, loss, optimizer
        self.train, self.validation = train, validation
        self.epochs, self.batch_size, self.schedule, self.seed = epochs, batch_size, schedule, seed
        self.progress = progress or Progress()
        self.base_learning_rate = self.learning_rate = optimizer.learning_rate
        self.batches = -(-len(train) // batch_size)
        self._step = (CudaTrainingStep if network.machine.is_gpu else TrainingStep)(network, loss, optimizer, train)

    def shuffle(self, epoch: int) -> np.ndarray:
        """Return the order of the samples in an epoch; it depends on the seed and the epoch alone."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.train))

    def run(self) -> Iterator[str]:
        """Train, and say "step" and "epoch" after each of them; stop asking to interrupt it.

        On a GPU "step" is said after every ``CudaTrainingStep.at_once`` steps.

        Between two words the network, the optimiser and ``progress`` belong together and can be saved.

        Raises
        ------
        TrainingDiverged
            When the loss is no longer a finite number.
        """
        try:
            while self.progress.epoch < self.epochs:
                order = self.shuffle(self.progress.epoch)
                while self.progress.batch < self.batches:
                    self._train_on(order)
                    if self.progress.batch < self.batches:
                        yield "step"
                self._finish_epoch()
                yield "epoch"
        finally:
            self.optimizer.learning_rate = self.base_learning_rate

    def _train_on(self, order: np.ndarray) -> None:
        at, size = self.progress, self.batch_size
        whole = len(self.train) // size  # the last mini-batch of an epoch may be smaller
        steps = range(at.batch, min(at.batch + self._step.at_once, whole) if at.batch < whole else at.batch + 1)
        batches = [order[k * size : (k + 1) * size] for k in steps]
        done = [(at.epoch * self.batches + k) / (self.epochs * self.batches) for k in steps]
        rates = [self.base_learning_rate * self.schedule(share) for share in done]
        start, compiling = time.perf_counter(), _compile_seconds()
        results = self._step.run(batches, rates)
        at.seconds += time.perf_counter() - start - (_compile_seconds() - compiling)
        for chosen, self.learning_rate, (loss_sum, correct) in zip(batches, rates, results, strict=True):
            at.batch, at.seen = at.batch + 1, at.seen + len(chosen)
            at.loss_sum, at.correct = at.loss_sum + loss_sum, at.correct + correct
            if not math.isfinite(loss_sum):
                raise TrainingDiverged(
                    f"training diverged: the loss became {loss_sum} in epoch {at.epoch + 1}, mini-batch {at.batch}",
                    remedy=f"lower the learning rate (it was {self.base_learning_rate:g})",
                )

    def _finish_epoch(self) -> None:
        at, result = self.progress, evaluate(self.network, self.validation, self.loss)
        if not math.isfinite(result.loss):
            raise TrainingDiverged(
                f"training diverged: the validation loss became {result.loss} after epoch {at.epoch + 1}",
                remedy=f"lower the learning rate (it was {self.base_learning_rate:g})",
            )
        at.history.append(
            {
                "epoch": at.epoch + 1,
                "train_loss": at.loss_sum / at.seen,
                "train_accuracy": at.correct / at.seen,
                "validation_loss": result.loss,
                "validation_accuracy": result.accuracy,
                "learning_rate": self.learning_rate,
                "seconds": at.seconds,
                "images_per_second": at.seen / max(at.seconds, 1e-9),
            }
        )
        at.epoch += 1
        accuracy = result.accuracy if result.confusion.size else at.best_accuracy  # without classes the loss decides
        if (accuracy, -result.loss) > (at.best_accuracy, -at.best_loss):
            at.best_epoch, at.best_accuracy, at.best_loss = at.epoch, accuracy, result.loss
        at.batch, at.loss_sum, at.correct, at.seen, at.seconds = 0, 0.0, 0, 0, 0.0
