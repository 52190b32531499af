"""The losses around the solutions of several runs, one after the other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.measuring.landscape import loss_on_line, loss_on_plane
from zsharp_jax.benchmark.measuring.progress import MeasuringProgress
from zsharp_jax.benchmark.measuring.solutions import Solutions
from zsharp_jax.benchmark.runs.fields import DamagedError
from zsharp_jax.benchmark.runs.reading import Run


class Around(NamedTuple):
    """The losses on training images around the solution of a run.

    Attributes:
        line: See `loss_on_line`.
        plane: See `loss_on_plane`; None where only the line was asked for.
        images: On how many images.
    """

    line: np.ndarray
    plane: np.ndarray | None
    images: int


def losses_around(
    runs: Sequence[tuple[Run, bool]], origin: Origin, points: int
) -> tuple[dict[Run, Around], list[str]]:
    """Finds the losses around runs.

    Args:
        runs: Runs with weights, each with whether a plane is asked for too.
        origin: Where their datasets may come from.
        points: How many values a coefficient has on a plane.

    Returns:
        By run the losses, and a sentence for each run of which there are none, or for each dataset
        that is not at hand.
    """
    found, problems, missing, solutions = {}, [], {}, Solutions(origin)
    with MeasuringProgress(len(runs), parts=2) as progress:
        for run, with_plane in runs:
            name = f"{run.method}, rho {run.settings.get('rho', 0):g}, seed {run.seed}"
            progress.begin(name)
            if run.dataset in missing:
                progress.finish(f"{name}: {missing[run.dataset]}")
                continue
            try:
                solution, images = solutions.of(run), solutions.counts(run)["train"]
                progress.tell("loss on a line")
                line, plane = loss_on_line(solution, run.seed), None
                progress.tell("loss on a plane")
                if with_plane:
                    plane = loss_on_plane(solution, run.seed, points)
            except RequestError as error:  # the images are not at hand
                missing[run.dataset] = str(error)
                problems.append(f"{run.dataset}: {error}")
                progress.finish(f"{name}: {error}")
            except DamagedError as error:
                problems.append(f"{run.path}: {error}")
                progress.finish(f"{name}: {error}")
            else:
                found[run] = Around(line, plane, images)
                progress.finish(f"{name}: the loss around it")
    return found, problems
