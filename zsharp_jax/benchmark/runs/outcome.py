"""What a run has found: its curves, its losses step by step, and how it ended."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

_MOST_STEP_LOSSES = 200

CURVES = {
    "train_loss": "mean clean loss over the steps of an epoch, at w, on augmented images; for "
    "methods of one pass, which take none at w, the one at w + perturbation",
    "sharp_loss": "the same at w + perturbation; for adamw the clean loss",
    "gradient_norm": "mean L2 norm of the gradient, taken where train_loss is",
    "perturbation_norm": "mean L2 norm of the perturbation; 0 for adamw",
    "test_loss": "mean loss over all test images after the epoch; where images are held out to "
    "validate on, validation_loss of these in its place",
    "test_accuracy": "share of all test images that are classified right after the epoch; or "
    "validation_accuracy",
    "seconds": "wall-clock seconds of the epoch's steps, without compilation and evaluation",
}

# What is known only at the end of a run that has validation images.
TESTED = {
    "test_loss": "mean loss over all test images after the last epoch",
    "test_accuracy": "share of all test images that are classified right after the last epoch",
    "calibration_error": "expected calibration error of the test images, see `calibration_error`",
}
BINS = 15  # of the confidence


def curve_names(judged: str) -> list[str]:
    """The names of the curves of a run; `judged` is `test`, or `validation` where it has such
    images: what it is judged on after every epoch."""
    return [name.replace("test_", f"{judged}_") for name in CURVES]


def calibration_error(gaps: Iterable[float], images: int) -> float:
    """The expected calibration error: how far confidence and accuracy are apart.

    The confidence of an image is its largest softmax probability. Images are sorted into `BINS`
    bins of equal width by their confidence, and the error is the sum over bins of the bin's share
    of all images times |accuracy - mean confidence| in it (Guo et al., On Calibration of Modern
    Neural Networks, 2017).

    Args:
        gaps: For each bin the sum over its images of 1 if it is classified right, else 0, less its
            confidence.
        images: How many images there are in all bins.

    Example:
        >>> calibration_error([1 - 0.5, (1 - 0.75) + (0 - 0.75)], images=4)  # two bins
        0.25
    """
    return sum(abs(gap) for gap in gaps) / images


def judged_in(curves: Mapping[str, Any]) -> str:
    """What a run with these curves is judged on after every epoch."""
    return "validation" if "validation_accuracy" in curves else "test"


@dataclasses.dataclass
class Outcome:
    """What a run has found.

    Attributes:
        status: `finished`, `failed` where a loss or a norm was not finite, or `interrupted` by
            SIGTERM, Ctrl-C or the end of a budget.
        error: Why it failed, in one line; None where it did not.
        steps: How many steps it took.
        curves: One value per epoch (the last may be cut short) for each of `CURVES`.
        tested: What `TESTED` says, of a run that has validation images and is over.
        step_losses: The clean loss over the run: means of equally many steps, 200 at the most.
    """

    status: str = "finished"
    error: str | None = None
    steps: int = 0
    curves: dict[str, list[float]] = dataclasses.field(
        default_factory=lambda: {name: [] for name in CURVES}
    )
    step_losses: list[float] = dataclasses.field(default_factory=list)
    tested: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def judged(self) -> str:
        """What it is judged on after every epoch: `validation`, or `test` without such images."""
        return judged_in(self.curves)

    @property
    def epochs(self) -> int:
        """How many epochs are over, their evaluation included."""
        return len(self.curves["seconds"])

    def last(self) -> dict[str, float]:
        """What the last epoch came to, of each of `CURVES`."""
        return {name: curve[-1] for name, curve in self.curves.items()}

    def whole_seconds(self, steps_per_epoch: int) -> list[float]:
        """The seconds of each epoch, as many as it would take had it not been cut short."""
        return [
            steps_per_epoch * seconds / min(steps_per_epoch, self.steps - steps_per_epoch * epoch)
            for epoch, seconds in enumerate(self.curves["seconds"])
        ]

    def final(self, steps_per_epoch: int) -> dict[str, Any]:
        """The figures of the last epoch, and the median seconds that a whole epoch takes.

        With validation images also what the test images say at the end, and `best_epoch`: the
        first one, counted from 1, with the highest validation accuracy.
        """
        figures: dict[str, Any] = {n: (curve or [None])[-1] for n, curve in self.curves.items()}
        seconds = self.whole_seconds(steps_per_epoch)
        del figures["seconds"]
        figures["seconds_per_epoch"] = statistics.median(seconds) if seconds else None
        if self.judged == "validation":
            accuracies = self.curves["validation_accuracy"]
            best = 1 + accuracies.index(max(accuracies)) if accuracies else None
            figures |= {"best_epoch": best, **{name: self.tested.get(name) for name in TESTED}}
        return figures


def rounded(value: float) -> float:
    """To six significant digits, about as many as float32 has."""
    return float(f"{value:.6g}")


def thinned(losses: list[float]) -> list[float]:
    """Means over equally many steps."""
    every = max(1, math.ceil(len(losses) / _MOST_STEP_LOSSES))
    return [rounded(statistics.fmean(losses[i : i + every])) for i in range(0, len(losses), every)]
