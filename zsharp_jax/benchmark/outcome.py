"""What a run has found: its curves, its losses step by step, and how it ended."""

import dataclasses
import math
import statistics
from typing import Any

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


@dataclasses.dataclass
class Outcome:
    """What a run has found.

    Attributes:
        status: `finished`, `failed` where a loss or a norm was not finite, or `interrupted` by a
            SIGTERM.
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

    @property
    def epochs(self) -> int:
        """How many epochs are over, their evaluation included."""
        return len(self.curves["seconds"])

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


def thinned(losses: list[float]) -> list[float]:
    """Means over equally many steps."""
    every = max(1, math.ceil(len(losses) / _MOST_STEP_LOSSES))
    return [statistics.fmean(losses[i : i + every]) for i in range(0, len(losses), every)]
