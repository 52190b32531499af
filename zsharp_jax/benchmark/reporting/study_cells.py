"""The runs of a study by method, quantile and radius, and which radius is the best of a method."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from zsharp_jax.benchmark.runs.fields import Record
from zsharp_jax.benchmark.runs.methods import filters, has_plain_steps, perturbs

_EQUAL = 0.1  # lengths that differ by less, as a ratio, count as equal


class Cell(NamedTuple):
    """The runs that differ in nothing but their seed: for each seed what it came to.

    Attributes:
        name: The method, with its quantile where the study has several.
        method: What was trained.
        quantile: Q_p; None where the method has no use for it.
        rho: The radius; None where the method has no use for it.
        finals: By seed the figures that its run ended with.
        unfinished: How many runs failed or were cut short.
    """

    name: str
    method: str
    quantile: float | None
    rho: float | None
    finals: dict[int, dict[str, float]]
    unfinished: int

    @property
    def length(self) -> float:
        """‖ε‖ at the steps that have one: its mean over the last epoch, and over seeds.

        Where only some steps of an epoch have one it is rho, which they are brought to.
        """
        if self.rho is not None and has_plain_steps(self.method):
            return self.rho
        return self.mean("perturbation_norm")

    def mean(self, figure: str) -> float:
        """Over seeds."""
        return statistics.fmean(self.values(figure))

    def std(self, figure: str) -> float:
        """The sample std over seeds; NaN with one."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def values(self, figure: str) -> list[float]:
        """A figure of each seed."""
        return [final[figure] for final in self.finals.values()]


def cells_of(records: Sequence[Record]) -> list[Cell]:
    """The cells of a study, in the order in which they first appear."""
    quantiles: dict[str, set[float]] = {}
    for record in records:
        settings = record["settings"]
        quantiles.setdefault(settings["method"], set()).add(settings["quantile"])
    cells: dict[tuple, Cell] = {}
    for record in records:
        settings = record["settings"]
        method = settings["method"]
        quantile = settings["quantile"] if filters(method) else None
        rho = settings["rho"] if perturbs(method) else None
        has_several = quantile is not None and len(quantiles[method]) > 1
        name = f"{method} Q{quantile:g}" if has_several else method
        cell = cells.setdefault((name, rho), Cell(name, method, quantile, rho, {}, 0))
        if record["status"] == "finished":
            cell.finals[settings["seed"]] = record["final"]
        else:
            cells[name, rho] = cell._replace(unfinished=cell.unfinished + 1)
    return list(cells.values())


def judged_on(cells: Sequence[Cell]) -> str:
    """Which images radii are chosen on: `validation` where all runs have them, else `test`."""
    finals = [final for cell in cells for final in cell.finals.values()]
    is_held_out = finals and all("validation_accuracy" in final for final in finals)
    return "validation" if is_held_out else "test"


def best(cells: Sequence[Cell], name: str) -> Cell | None:
    """The radius with the highest mean accuracy on what the study chooses radii on.

    Means are over the seeds that all radii have. A radius of which a run did not finish is not
    chosen, as it would be judged by its luckier runs, unless there is no other.

    Args:
        cells: All of a study.
        name: Of the cells that are compared.

    Returns:
        The cell; None without a finished run.
    """
    own = [cell for cell in cells if cell.name == name and cell.finals]
    own = [cell for cell in own if not cell.unfinished] or own
    if not own:
        return None
    common = set.intersection(*(set(cell.finals) for cell in own))
    figure = f"{judged_on(cells)}_accuracy"

    def accuracy(cell: Cell) -> float:
        return statistics.fmean(cell.finals[seed][figure] for seed in common or cell.finals)

    return max(own, key=accuracy)


def are_equally_long(cell: Cell, other: Cell) -> bool:
    """Whether the lengths of ε differ by less than 10 %."""
    if not (cell.finals and other.finals):
        return False
    lengths = sorted((cell.length, other.length))
    return lengths[0] > 0 and lengths[1] / lengths[0] < 1 + _EQUAL
