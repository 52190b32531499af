"""Which part of the gain comes from the filter and which from the radius: the question that the
paper leaves open, asked of any dataset and network.

Every method is trained with several values of rho, so that it is judged at its best, and with the
same seeds, so that two methods are compared seed by seed.
"""

import math
import shlex
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zsharp_jax.benchmark.results import Record, markdown_lines, short

STUDIED = (
    "adamw",
    "sam",
    "asam",
    "friendly_sam",
    "zsharp",
    "zsharp_reference",
    "sam_matched",
    "sam_layerwise",
    "zsharp_matched",
    "zsharp_global",
    "zsharp_random",
)

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


class Cell(NamedTuple):
    """The runs of one method with one rho: for each seed what it came to."""

    method: str
    rho: float | None
    finals: dict[int, dict[str, float]]
    unfinished: int

    def mean(self, figure: str) -> float:
        return statistics.fmean(final[figure] for final in self.finals.values())

    def std(self, figure: str) -> float:
        values = [final[figure] for final in self.finals.values()]
        return statistics.stdev(values) if len(values) > 1 else math.nan


def study_markdown(records: Sequence[Record], command: Sequence[str]) -> str:
    """The tables of a study.

    Args:
        records: Run files of one dataset and network.
        command: What asked for them last; with `--resume` older ones may have had another.
    """
    settings, device = records[0]["settings"], records[0]["device"]
    cells = cells_of(records)
    told = [f"{name} {settings[name]}" for name in (
        "recipe", "epochs", "batch_size", "learning_rate", "quantile", "dtype")]  # fmt: skip
    return "\n".join([
        f"# What earns the gain: {settings['dataset']}, {settings['model']}",
        "",
        f"`{shlex.join(command)}`",
        "",
        f"Settings: {', '.join(told)}. Device: {device['kind']} ({device['platform']}).",
        "",
        "## Every method with every rho",
        "",
        *_all_rows(cells),
        "",
        "Accuracy on all test images after the last epoch, mean ± sample std over seeds. Losses "
        "are means over the last epoch on augmented training images, at w (clean) and at w + ε "
        "(sharp). The method's best rho is marked: it was chosen on the test set, so its accuracy "
        "is optimistic by about as much for each method.",
        "",
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
    ])  # fmt: skip


def cells_of(records: Sequence[Record]) -> list[Cell]:
    """The runs by method and rho, in the order in which they first appear."""
    cells: dict[tuple[str, float | None], Cell] = {}
    for record in records:
        settings = record["settings"]
        rho = None if settings["method"] == "adamw" else settings["rho"]
        new = Cell(settings["method"], rho, {}, 0)
        cell = cells.setdefault((new.method, rho), new)
        if record["status"] == "finished":
            cell.finals[settings["seed"]] = record["final"]
        else:
            cells[new.method, rho] = cell._replace(unfinished=cell.unfinished + 1)
    return list(cells.values())


def best(cells: Sequence[Cell], method: str) -> Cell | None:
    """The cell of a method with the highest mean accuracy; None without a finished run."""
    own = [cell for cell in cells if cell.method == method and cell.finals]
    return max(own, key=lambda cell: cell.mean("test_accuracy"), default=None)


def difference(
    cell: Cell | None, other: Cell | None, figure: str = "test_accuracy"
) -> tuple[float, float] | None:
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


def _all_rows(cells: Sequence[Cell]) -> list[str]:
    header = (
        "method",
        "rho",
        "seeds",
        "test acc. %",
        "clean loss",
        "sharp loss",
        "test loss",
        "‖ε‖",
    )
    best_of = {cell.method: best(cells, cell.method) for cell in cells}
    rows = []
    for cell in cells:
        seeds = str(len(cell.finals))
        if cell.unfinished:
            seeds += f"/{len(cell.finals) + cell.unfinished}"
        row = [cell.method, "" if cell.rho is None else f"{cell.rho:g}", seeds]
        if cell.finals:
            mark = " *" if cell is best_of[cell.method] and cell.rho is not None else ""
            accuracy = 100 * cell.mean("test_accuracy")
            spread = f" ± {100 * cell.std('test_accuracy'):.2f}" if len(cell.finals) > 1 else ""
            row.append(f"{accuracy:.2f}{spread}{mark}")
            figures = ("train_loss", "sharp_loss", "test_loss", "perturbation_norm")
            row += [short(cell.mean(figure)) for figure in figures]
        rows.append(row + [""] * (len(header) - len(row)))
    return markdown_lines(header, rows)


def _part_rows(
    cells: Sequence[Cell], figure: str, told: Callable[[tuple[float, float] | None], str]
) -> list[str]:
    compared = {method for part in PARTS for method in part[:2]}
    rhos = sorted({c.rho for c in cells if c.rho is not None and c.method in compared})
    header = (
        "what is changed",
        "from",
        "to",
        "‖ε‖ ratio",
        *(f"rho {rho:g}" for rho in rhos),
        "each at its best",
    )
    found = {(cell.method, cell.rho): cell for cell in cells}

    def at(method: str, rho: float) -> Cell | None:
        return found.get((method, None if method == "adamw" else rho))

    rows = []
    for method, other, what in PARTS:
        pairs = [(at(method, rho), at(other, rho)) for rho in rhos]
        differences = [difference(*pair, figure) for pair in pairs]
        differences.append(difference(best(cells, method), best(cells, other), figure))
        rows.append([what, other, method, _times_as_long(pairs), *map(told, differences)])
    return markdown_lines(header, rows)


def _times_as_long(pairs: Sequence[tuple[Cell | None, Cell | None]]) -> str:
    """The ratio of both lengths, mean over rhos; empty where one has none."""
    lengths = [
        (cell.mean("perturbation_norm"), other.mean("perturbation_norm"))
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
