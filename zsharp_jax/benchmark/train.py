"""The loop of one training run.

It calls the compiled step, which may take many at once, and stays two calls ahead of the device, so
that neither waits for the other while every loss is still looked at.
"""

import collections
import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zsharp_jax import SamInfo
from zsharp_jax.benchmark.checkpoints import Checkpoint, Checkpoints
from zsharp_jax.benchmark.program import Carry, Program
from zsharp_jax.benchmark.settings import Settings

_CALLS_AHEAD = 2
_MOST_STEP_LOSSES = 200

CURVES = {
    "train_loss": "mean clean loss over the steps of an epoch, at w, on augmented images",
    "sharp_loss": "the same at w + perturbation; for adamw the clean loss",
    "gradient_norm": "mean L2 norm of the gradient at w",
    "perturbation_norm": "mean L2 norm of the perturbation; 0 for adamw",
    "test_loss": "mean loss over all test images after the epoch",
    "test_accuracy": "share of all test images that are classified right after the epoch",
    "seconds": "wall-clock seconds of the epoch's steps, without compilation and evaluation",
}

_TOLD = ("clean loss", "sharp loss", "gradient norm", "perturbation norm")  # as in `SamInfo`

Report = Callable[[int, float, float], None]


@dataclasses.dataclass
class Outcome:
    """What a run has found.

    Attributes:
        status: `finished`, or `failed` where a loss or a norm was not finite.
        error: Why it failed, in one line; None where it did not.
        steps: How many steps it took.
        curves: One value per epoch (the last may be cut short) for each of `CURVES`.
        step_losses: The clean loss over the run: means of equally many steps, 200 at the most.
    """

    status: str = "finished"
    error: str | None = None
    steps: int = 0
    curves: dict[str, list[float]] = dataclasses.field(
        default_factory=lambda: {name: [] for name in CURVES}
    )
    step_losses: list[float] = dataclasses.field(default_factory=list)

    def whole_seconds(self, steps_per_epoch: int) -> list[float]:
        """The seconds of each epoch, as many as it would take had it not been cut short."""
        return [
            steps_per_epoch * seconds / min(steps_per_epoch, self.steps - steps_per_epoch * epoch)
            for epoch, seconds in enumerate(self.curves["seconds"])
        ]

    def final(self, steps_per_epoch: int) -> dict[str, Any]:
        """The figures of the last epoch, and the median seconds that a whole epoch takes."""
        figures: dict[str, Any] = {name: (self.curves[name] or [None])[-1] for name in CURVES}
        seconds = self.whole_seconds(steps_per_epoch)
        del figures["seconds"]
        figures["seconds_per_epoch"] = statistics.median(seconds) if seconds else None
        return figures


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
        report: Called with the steps taken, the newest clean loss and the newest test accuracy
            (NaN before the first) after every step.
        checkpoints: Where to keep checkpoints; None for nowhere.
        resume: Whether to go on from the newest of them, if there is one.
        tell_epoch: Called after every epoch with what has been found so far.

    Returns:
        What was found. A run that tells of a loss or a norm that is not finite stops there and
        keeps what it had.
    """
    outcome, told = Outcome(), []
    key, rho = jax.random.key(settings.seed), np.float32(settings.rho)
    total = planned_steps(settings, program.steps_per_epoch)

    carry, accuracy = program.start(key), math.nan
    kept = checkpoints.newest(carry) if checkpoints and resume else None
    if kept:
        carry, told = kept.carry, kept.progress["told"]
        outcome.steps, outcome.curves = len(told), kept.progress["curves"]
        accuracy = outcome.curves["test_accuracy"][-1]

    def settle(info: SamInfo) -> None:
        columns = [np.ravel(np.asarray(values, float)).tolist() for values in info[: len(_TOLD)]]
        for of_step in zip(*columns, strict=True):
            told.append(_checked(of_step, outcome, settings))
            report(outcome.steps, of_step[0], accuracy)

    try:
        while outcome.steps < total:
            order = program.draw_order(key, np.int32(outcome.steps // program.steps_per_epoch))
            count = min(program.steps_per_epoch, total - outcome.steps)
            under_way = collections.deque()
            started = time.perf_counter()
            for _ in range(count // program.steps_at_once):
                carry, info = program.step(carry, program.data, key, order, rho)
                under_way.append(info)
                if len(under_way) > _CALLS_AHEAD:
                    settle(under_way.popleft())
            while under_way:
                settle(under_way.popleft())
            seconds = time.perf_counter() - started

            test_loss, accuracy = _evaluate(program, carry)
            _check_finite("test loss", test_loss, outcome, settings)
            means = [statistics.fmean(column) for column in zip(*told[-count:], strict=True)]
            for curve, value in zip(CURVES, (*means, test_loss, accuracy, seconds), strict=True):
                outcome.curves[curve].append(value)
            report(outcome.steps, told[-1][0], accuracy)
            if tell_epoch:
                tell_epoch(outcome)
            epochs = len(outcome.curves["seconds"])
            if checkpoints and checkpoints.is_due(epochs, is_last=outcome.steps == total):
                progress = {"told": told, "curves": outcome.curves}
                checkpoints.save(epochs, Checkpoint(carry, progress))
    except _NotFiniteError as error:
        outcome.status, outcome.error = "failed", str(error)
    outcome.step_losses = _thinned([loss for loss, *_ in told])
    return outcome


def _checked(told: tuple[float, ...], outcome: Outcome, settings: Settings) -> tuple[float, ...]:
    """Counts a step and returns what it told; raises if any of it is not finite."""
    outcome.steps += 1
    for name, value in zip(_TOLD, told, strict=True):
        _check_finite(name, value, outcome, settings)
    return told


def _check_finite(name: str, value: float, outcome: Outcome, settings: Settings) -> None:
    if not math.isfinite(value):
        raise _NotFiniteError(
            f"{settings.method}, seed {settings.seed}: "
            f"the {name} is {value} at step {outcome.steps}"
        )


def _evaluate(program: Program, carry: Carry) -> tuple[float, float]:
    """Mean loss and accuracy over all test images."""
    size = len(program.data.test_images)
    sums = [
        program.evaluate(carry, program.data, np.int32(first_row))
        for first_row in range(0, size, program.test_batch)
    ]
    right, loss = (float(sum(parts)) for parts in zip(*sums, strict=True))
    return loss / size, right / size


def _thinned(losses: list[float]) -> list[float]:
    """Means over equally many steps."""
    every = max(1, math.ceil(len(losses) / _MOST_STEP_LOSSES))
    return [statistics.fmean(losses[i : i + every]) for i in range(0, len(losses), every)]
