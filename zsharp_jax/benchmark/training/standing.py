"""What a run under way has told so far, and where it stands."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zsharp_jax.benchmark.runs.outcome import (
    Outcome,
    calibration_error,
    curve_names,
    rounded,
    thinned,
)

TOLD = ("clean loss", "sharp loss", "gradient norm", "perturbation norm")  # as in `SamInfo`


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


class Finding:
    """What one run has found; it takes no more in once something is not finite.

    Attributes:
        told: What each step has told: losses and norms.
        outcome: What has been found so far, but for its step losses.
        accuracy: The newest one.
        error: What is not finite, and when; None as long as everything is.
    """

    def __init__(self, run: str, judged: str) -> None:
        self._run = run  # what it is called in an error
        self.told: list[tuple[float, ...]] = []
        self.outcome = Outcome(curves={name: [] for name in curve_names(judged)})
        self.accuracy = math.nan
        self.error: str | None = None

    def take_step(self, told: tuple[float, ...]) -> None:
        """Takes in what a step has told."""
        self.outcome.steps += 1
        if all([self._is_finite(*each) for each in zip(TOLD, told, strict=True)]):
            self.told.append(told)

    def end_epoch(self, first: int, loss: float, accuracy: float, seconds: float) -> None:
        """Takes in what was found after an epoch whose first step was number `first`, from 0."""
        if self._is_finite(f"{self.outcome.judged} loss", loss):
            means = [statistics.fmean(column) for column in zip(*self.told[first:], strict=True)]
            values = (*means, loss, accuracy, seconds)
            for curve, value in zip(self.outcome.curves.values(), values, strict=True):
                curve.append(rounded(value))
            self.accuracy = rounded(accuracy)

    def end_run(self, loss: float, accuracy: float, gaps: Sequence[float], images: int) -> None:
        """Takes in what the test images say at the end; `gaps` are those of their bins."""
        if self._is_finite("test loss", loss):
            self.outcome.tested = {
                "test_loss": rounded(loss),
                "test_accuracy": rounded(accuracy),
                "calibration_error": rounded(calibration_error(gaps, images)),
            }

    def ended(self, status: str) -> Outcome:
        """What has been found, and how it ended: with `status`, or failed if there is an error."""
        self.outcome.status = "failed" if self.error else status
        self.outcome.error = self.error
        self.outcome.step_losses = thinned([loss for loss, *_ in self.told])
        return self.outcome

    def standing(self, steps_per_epoch: int, epochs: int) -> Standing:
        """Where it stands after a step at least."""
        loss, sharp_loss, *_ = self.told[-1]
        steps, judged = self.outcome.steps, self.outcome.judged
        epoch = math.ceil(steps / steps_per_epoch)
        return Standing(steps, epoch, epochs, loss, sharp_loss, self.accuracy, judged)

    def _is_finite(self, name: str, value: float) -> bool:
        if self.error is None and not math.isfinite(value):
            self.error = f"{self._run}: the {name} is {value} at step {self.outcome.steps}"
        return self.error is None
