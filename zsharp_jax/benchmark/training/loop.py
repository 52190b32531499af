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
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.outcome import Outcome, calibration_error, curve_names, thinned
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training import interrupts
from zsharp_jax.benchmark.training.checkpoints import Checkpoint, Checkpoints
from zsharp_jax.benchmark.training.program import Carry, Program

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
        accuracy: The newest one; NaN before the first.
        judged: Which images it is that of: `test` or `validation`.
    """

    steps: int
    epoch: int
    epochs: int
    loss: float
    sharp_loss: float
    accuracy: float
    judged: str = "test"


Report = Callable[[Standing], None]


class _NotFiniteError(Exception):
    """A loss or a norm is not finite."""


def train(
    program: Program,
    settings: Settings,
    report: Report,
    checkpoints: Checkpoints | None = None,
    *,
    resume: bool = False,
    tell_epoch: Callable[[Outcome], None] | None = None,
    keep: Callable[[Carry], None] | None = None,
) -> Outcome:
    """Trains one seed.

    Args:
        program: What `compile_program` made of these settings, whatever their seed and rho.
        settings: What to train.
        report: Called after every step and every evaluation.
        checkpoints: Where to keep checkpoints; None for nowhere.
        resume: Whether to go on from the newest of them, if there is one.
        tell_epoch: Called after every epoch with what has been found so far.
        keep: Called at the end of a run that finishes, with where it stands.

    Returns:
        What was found. A run that tells of a loss or a norm that is not finite stops there and
        keeps what it had.

    Raises:
        Terminated: After a SIGTERM or Ctrl-C, with what was found; a checkpoint, due or not, then
            has where the run stands.
        OutputError: If a checkpoint cannot be written.
    """
    training = _Training(program, settings, report)
    if checkpoints and resume and (kept := checkpoints.newest(training.carry, training.total)):
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
        training.test_once()
        if keep:
            keep(training.carry)
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
        accuracy: The newest one.
        has_moved: Whether it stands elsewhere than at its newest checkpoint.
    """

    def __init__(self, program: Program, settings: Settings, report: Report) -> None:
        self._program, self._settings, self._tell = program, settings, report
        self._key = jax.jit(jax.random.key, static_argnums=0)(settings.seed)
        self._rho = jax.device_put(np.float32(settings.rho))
        self._seconds = 0.0  # that the steps of this epoch took
        self.total = settings.planned_steps(program.steps_per_epoch)
        self.epochs = math.ceil(self.total / program.steps_per_epoch)
        self.carry = program.start(self._key)
        self.told: list[tuple[float, ...]] = []
        self.outcome = Outcome(curves={n: [] for n in curve_names(program.data.judged)})
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
        self.outcome.steps, self.outcome.curves = taken, kept.progress["curves"]
        if taken < min(self.total, self._program.steps_per_epoch * self.outcome.epochs):
            # A run that was to end within this epoch closed it; here it has more steps to take.
            last = {name: curve.pop() for name, curve in self.outcome.curves.items()}
            self._seconds = last["seconds"]
        self.accuracy = (self.outcome.curves[f"{self.outcome.judged}_accuracy"] or [math.nan])[-1]

    def finish_epoch(self) -> None:
        """Takes the steps that the epoch lacks, and evaluates."""
        size, epoch = self._program.steps_per_epoch, self.outcome.epochs
        first, end = size * epoch, min(size * (epoch + 1), self.total)
        self._take_steps(epoch, end)
        loss, accuracy, _ = self._evaluated(self._program.evaluate, self.outcome.judged)
        means = [statistics.fmean(column) for column in zip(*self.told[first:end], strict=True)]
        values = (*means, loss, accuracy, self._seconds)
        for curve, value in zip(self.outcome.curves.values(), values, strict=True):
            curve.append(value)
        self.accuracy, self._seconds, self.has_moved = accuracy, 0.0, True
        self._report()

    def test_once(self) -> None:
        """Looks at the test images, where they are not what it is judged on."""
        if self._program.test is not None:
            loss, accuracy, gaps = self._evaluated(self._program.test, "test")
            error = calibration_error(gaps.tolist(), len(self._program.data.test_images))
            tested = {"test_loss": loss, "test_accuracy": accuracy, "calibration_error": error}
            self.outcome.tested = tested

    def _take_steps(self, epoch: int, end: int) -> None:
        program = self._program
        order = program.draw_order(self._key, jax.device_put(np.int32(epoch)))
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
        told = jax.device_get(info[: len(_TOLD)])
        columns = [np.ravel(np.asarray(values, float)).tolist() for values in told]
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
        judged = self.outcome.judged
        self._tell(Standing(steps, epoch, self.epochs, loss, sharp_loss, self.accuracy, judged))

    def _evaluated(
        self, evaluate: Callable[..., tuple], split: str
    ) -> tuple[float, float, np.ndarray]:
        """Mean loss and accuracy over all images of a split, and what else `evaluate` sums up."""
        data, sums = self._program.data, []
        size = len(data.split(split)[0])
        for first_row in range(0, size, self._program.images_at_once):
            interrupts.check_termination()
            row = jax.device_put(np.int32(first_row))
            sums.append(evaluate(self.carry, data, row))
        right, loss, *others = (sum(parts) for parts in zip(*jax.device_get(sums), strict=True))
        self._check_finite(f"{split} loss", float(loss) / size)
        return float(loss) / size, float(right) / size, np.array(others).ravel()

    def _check_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise _NotFiniteError(
                f"{self._settings.method}, seed {self._settings.seed}: "
                f"the {name} is {value} at step {self.outcome.steps}"
            )
