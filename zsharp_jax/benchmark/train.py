"""The loop of one training run.

It calls the compiled step, which may take many at once, and stays two calls ahead of the device, so
that neither waits for the other while every loss is still looked at.
"""

import collections
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from zsharp_jax import SamInfo
from zsharp_jax.benchmark import interrupts
from zsharp_jax.benchmark.checkpoints import Checkpoint, Checkpoints
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.outcome import CURVES, Outcome, thinned
from zsharp_jax.benchmark.program import Program
from zsharp_jax.benchmark.settings import Settings

_CALLS_AHEAD = 2
_TOLD = ("clean loss", "sharp loss", "gradient norm", "perturbation norm")  # as in `SamInfo`


class Standing(NamedTuple):
    """Where a run under way stands.

    Attributes:
        steps: How many steps it has taken.
        epoch: Which epoch the last of them was in, from 1.
        epochs: How many it will take, the last of which may be cut short.
        loss: The clean loss of the last step.
        sharp_loss: The one at w + ε.
        test_accuracy: The newest one; NaN before the first.
    """

    steps: int
    epoch: int
    epochs: int
    loss: float
    sharp_loss: float
    test_accuracy: float


Report = Callable[[Standing], None]


class _NotFiniteError(Exception):
    """A loss or a norm is not finite."""


def planned_steps(settings: Settings, steps_per_epoch: int) -> int:
    """How many steps a run takes."""
    if settings.steps is not None:
        return settings.steps
    return (settings.epochs or 0) * steps_per_epoch


def train(
    program: Program,
    settings: Settings,
    report: Report,
    checkpoints: Checkpoints | None = None,
    *,
    resume: bool = False,
    tell_epoch: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Trains one seed.

    Args:
        program: What `compile_program` made of these settings, whatever their seed and rho.
        settings: What to train.
        report: Called after every step and every evaluation.
        checkpoints: Where to keep checkpoints; None for nowhere.
        resume: Whether to go on from the newest of them, if there is one.
        tell_epoch: Called after every epoch with what has been found so far.

    Returns:
        What was found. A run that tells of a loss or a norm that is not finite stops there and
        keeps what it had.

    Raises:
        Terminated: After a SIGTERM, with what was found; a checkpoint, due or not, then has where
            the run stands.
        OutputError: If a checkpoint cannot be written.
    """
    training = _Training(program, settings, report)
    if checkpoints and resume and (kept := checkpoints.newest(training.carry)):
        training.go_on_from(kept)
    outcome = training.outcome
    try:
        while outcome.epochs < training.epochs:
            training.finish_epoch()
            if tell_epoch:
                tell_epoch(outcome)
            is_last = outcome.steps == training.total
            if checkpoints and checkpoints.is_due(outcome.epochs, is_last):
                checkpoints.save(outcome.steps, training.checkpoint())
    except _NotFiniteError as error:
        return training.ended("failed", str(error))
    except interrupts.Terminated:
        if checkpoints and training.has_moved:
            checkpoints.save(outcome.steps, training.checkpoint())
        where = f"{settings.method}, seed {settings.seed}: "
        where += f"after {outcome.steps} of {training.total} steps"
        raise interrupts.Terminated(where, training.ended("interrupted")) from None
    return training.ended("finished")


class _Training:
    """A run under way.

    Attributes:
        total: How many steps it takes in all.
        epochs: How many epochs these are, the last of which may be cut short.
        carry: What the next step takes.
        told: What each step has told: losses and norms.
        outcome: What has been found so far, but for its step losses.
        accuracy: The newest test accuracy.
        has_moved: Whether it stands elsewhere than at its newest checkpoint.
    """

    def __init__(self, program: Program, settings: Settings, report: Report) -> None:
        self._program, self._settings, self._tell = program, settings, report
        self._key, self._rho = jax.random.key(settings.seed), np.float32(settings.rho)
        self._seconds = 0.0  # that the steps of this epoch took
        self.total = planned_steps(settings, program.steps_per_epoch)
        self.epochs = math.ceil(self.total / program.steps_per_epoch)
        self.carry = program.start(self._key)
        self.told: list[tuple[float, ...]] = []
        self.outcome = Outcome()
        self.accuracy = math.nan
        self.has_moved = False

    def ended(self, status: str, error: str | None = None) -> Outcome:
        """What has been found, and how it ended."""
        self.outcome.status, self.outcome.error = status, error
        self.outcome.step_losses = thinned([loss for loss, *_ in self.told])
        return self.outcome

    def checkpoint(self) -> Checkpoint:
        """Where it stands, be it within an epoch."""
        self.has_moved = False
        size = self._program.steps_per_epoch
        is_evaluated = self.outcome.steps <= size * self.outcome.epochs
        curves = {name: list(curve) for name, curve in self.outcome.curves.items()}
        progress = {"told": list(self.told), "curves": curves, "seconds": self._seconds}
        return Checkpoint(self.carry, progress, self.accuracy if is_evaluated else None)

    def go_on_from(self, kept: Checkpoint) -> None:
        """Takes over where a run stood.

        Raises:
            RequestError: If that is within what is one call here.
        """
        at_once, taken = self._program.steps_at_once, len(kept.progress["told"])
        if taken % self._program.steps_per_epoch % at_once:
            raise RequestError(
                f"cannot resume after {taken} steps where a call takes {at_once}: the run was "
                "broken off within an epoch on a CPU, go on there"
            )
        self.carry = kept.carry
        self.told, self._seconds = kept.progress["told"], kept.progress["seconds"]
        self.outcome.steps, self.outcome.curves = len(self.told), kept.progress["curves"]
        self.accuracy = (self.outcome.curves["test_accuracy"] or [math.nan])[-1]

    def finish_epoch(self) -> None:
        """Takes the steps that the epoch lacks, and evaluates."""
        size, epoch = self._program.steps_per_epoch, self.outcome.epochs
        first, end = size * epoch, min(size * (epoch + 1), self.total)
        self._take_steps(epoch, end)
        test_loss, accuracy = self._evaluated()
        means = [statistics.fmean(column) for column in zip(*self.told[first:end], strict=True)]
        values = (*means, test_loss, accuracy, self._seconds)
        for curve, value in zip(CURVES, values, strict=True):
            self.outcome.curves[curve].append(value)
        self.accuracy, self._seconds, self.has_moved = accuracy, 0.0, True
        self._report()

    def _take_steps(self, epoch: int, end: int) -> None:
        program = self._program
        order = program.draw_order(self._key, np.int32(epoch))
        under_way = collections.deque()
        started = time.perf_counter()
        for _ in range(self.outcome.steps, end, program.steps_at_once):
            if interrupts.is_terminated():
                break
            self.carry, info = program.step(self.carry, program.data, self._key, order, self._rho)
            self.has_moved = True
            under_way.append(info)
            if len(under_way) > _CALLS_AHEAD:
                self._settle(under_way.popleft())
        while under_way:
            self._settle(under_way.popleft())
        self._seconds += time.perf_counter() - started
        interrupts.check_termination()

    def _settle(self, info: SamInfo) -> None:
        """Waits for a call; raises if anything that one of its steps tells is not finite."""
        columns = [np.ravel(np.asarray(values, float)).tolist() for values in info[: len(_TOLD)]]
        for told in zip(*columns, strict=True):
            self.outcome.steps += 1
            for name, value in zip(_TOLD, told, strict=True):
                self._check_finite(name, value)
            self.told.append(told)
            self._report()

    def _report(self) -> None:
        loss, sharp_loss, *_ = self.told[-1]
        steps = self.outcome.steps
        epoch = math.ceil(steps / self._program.steps_per_epoch)
        self._tell(Standing(steps, epoch, self.epochs, loss, sharp_loss, self.accuracy))

    def _evaluated(self) -> tuple[float, float]:
        """Mean loss and accuracy over all test images."""
        program, sums = self._program, []
        size = len(program.data.test_images)
        for first_row in range(0, size, program.test_batch):
            interrupts.check_termination()
            sums.append(program.evaluate(self.carry, program.data, np.int32(first_row)))
        right, loss = (float(sum(parts)) for parts in zip(*sums, strict=True))
        self._check_finite("test loss", loss / size)
        return loss / size, right / size

    def _check_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise _NotFiniteError(
                f"{self._settings.method}, seed {self._settings.seed}: "
                f"the {name} is {value} at step {self.outcome.steps}"
            )
