"""A study part by part at the same rho: what each change does to a figure.

This is for studies without validation images, whose methods have the values of rho in common.
"""

import math
import statistics
from collections.abc import Callable, Sequence

from zsharp_jax.benchmark.reporting.markdown import markdown_lines
from zsharp_jax.benchmark.reporting.study_cells import Cell, best
from zsharp_jax.benchmark.runs.methods import perturbs

# What is changed from the second method to the first, all else being equal.
PARTS = (
    ("sam", "adamw", "the perturbation"),
    ("zsharp", "sam", "the filter, at SAM's radius"),
    ("zsharp", "zsharp_random", "which entries are kept, at SAM's radius"),
    ("zsharp_global", "zsharp", "one percentile over all tensors"),
    ("sam_matched", "sam", "the radius alone"),
    ("zsharp_matched", "zsharp", "the radius, with the filter"),
    ("zsharp_matched", "sam_matched", "the filter, at the large radius"),
    ("sam_layerwise", "sam_matched", "every tensor at rho, biases and BatchNorm too"),
    ("zsharp_reference", "sam_layerwise", "the filter, biases and BatchNorm together at rho"),
    ("zsharp_reference", "sam", "all that the authors' code changes"),
)


def part_lines(cells: Sequence[Cell]) -> list[str]:
    """Both tables, of the test accuracy and of the clean loss; nothing where no two methods of
    `PARTS` have a radius in common.

    Methods with several quantiles are not compared part by part.
    """
    if not _common_radii(cells):
        return []
    return [
        "## Part by part: test accuracy",
        "",
        *_part_rows(cells, "test_accuracy", _points),
        "",
        "Percentage points, mean over seeds of the difference at the same seed ± its standard "
        "error, at the same rho and at the best rho of each of the two. ‖ε‖ ratio: how many times "
        "as long it becomes, at the same rho.",
        "",
        "## Part by part: clean loss",
        "",
        *_part_rows(cells, "train_loss", _loss),
        "",
        "The same of the clean loss of the last epoch.",
        "",
    ]


def difference_in(cell: Cell | None, other: Cell | None, figure: str) -> tuple[float, float] | None:
    """Mean and standard error of the difference in a figure over the seeds that both have.

    The error is NaN with one seed; None without any.
    """
    if cell is None or other is None:
        return None
    seeds = cell.finals.keys() & other.finals.keys()
    if not seeds:
        return None
    gains = [cell.finals[seed][figure] - other.finals[seed][figure] for seed in seeds]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return statistics.fmean(gains), error


def _part_rows(
    cells: Sequence[Cell], figure: str, told: Callable[[tuple[float, float] | None], str]
) -> list[str]:
    rhos = _common_radii(cells)
    header = (
        "what is changed",
        "from",
        "to",
        "‖ε‖ ratio",
        *(f"rho {rho:g}" for rho in rhos),
        "each at its best",
    )
    rows, trained = [], {cell.name for cell in cells}
    for method, other, what in PARTS:
        if not {method, other} <= trained:
            continue
        pairs = [(_at(cells, method, rho), _at(cells, other, rho)) for rho in rhos]
        differences = [difference_in(*pair, figure) for pair in pairs]
        differences.append(difference_in(best(cells, method), best(cells, other), figure))
        rows.append([what, other, method, _times_as_long(pairs), *map(told, differences)])
    return markdown_lines(header, rows)


def _common_radii(cells: Sequence[Cell]) -> list[float]:
    """The values of rho at which both methods of a part were trained."""
    rhos = sorted({cell.rho for cell in cells if cell.rho is not None})
    pairs = [part[:2] for part in PARTS]
    return [
        rho
        for rho in rhos
        if any(_at(cells, method, rho) and _at(cells, other, rho) for method, other in pairs)
    ]


def _at(cells: Sequence[Cell], name: str, rho: float) -> Cell | None:
    """The cell of a method at a radius, or the only one of a method that has none."""
    wanted = name, rho if perturbs(name) else None
    return next((cell for cell in cells if (cell.name, cell.rho) == wanted), None)


def _times_as_long(pairs: Sequence[tuple[Cell | None, Cell | None]]) -> str:
    """The ratio of both lengths, mean over rhos; empty where one has none."""
    lengths = [
        (cell.length, other.length)
        for cell, other in pairs
        if cell and other and cell.finals and other.finals
    ]
    ratios = [length / other for length, other in lengths if other > 0]
    return f"{statistics.fmean(ratios):.2f}" if ratios else ""


def _points(gain: tuple[float, float] | None) -> str:
    return "" if gain is None else _with_error([100 * value for value in gain], 2)


def _loss(gain: tuple[float, float] | None) -> str:
    return "" if gain is None else _with_error(gain, 4)


def _with_error(gain: Sequence[float], digits: int) -> str:
    mean, error = gain
    told = f"{mean:+.{digits}f}"
    return told if math.isnan(error) else f"{told} ± {error:.{digits}f}"
