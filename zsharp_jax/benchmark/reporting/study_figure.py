"""The picture of a study: test accuracy against the length of ε, a curve for each method."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsharp_jax.benchmark.reporting.broken_axis import panels_for
from zsharp_jax.benchmark.reporting.figures import legend_beside, plain_numbers, tidy, title_above
from zsharp_jax.benchmark.reporting.looks import Look, looks_of
from zsharp_jax.benchmark.reporting.study_cells import Cell


def draw_against_length(cells: Sequence[Cell], title: str) -> Figure:
    """Mean test accuracy at each measured length of ε, in a band: the 95 % t-interval of the mean.

    The axis of the length is logarithmic: a method that acts like another one with an ε k times as
    long has the curve of that one, moved by log k. A method without ε is a level line.

    Args:
        cells: Of a study.
        title: What its runs have in common.
    """
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    drawn = [cell for cell in cells if cell.finals]
    ends = [100 * np.array(_interval(cell)) for cell in drawn]
    panels = panels_for(figure, [low for low, _ in ends], [high for _, high in ends])
    looks = looks_of({cell.name: cell.method for cell in drawn})
    for axes in panels:
        for name, look in looks.items():
            _draw_method(axes, [cell for cell in drawn if cell.name == name], look)
        if any(cell.length for cell in drawn):
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
        tidy(axes)
    panels[-1].set_xlabel("‖ε‖ in the last epoch, at the steps that have one")
    figure.supylabel("test accuracy (%)", fontsize="medium")
    legend_beside(figure, panels[0])
    title_above(figure, title)
    return figure


def _draw_method(axes: Axes, cells: Sequence[Cell], look: Look) -> None:
    """A curve of the radii that perturb, and a level line of one that does not."""
    name, band = cells[0].name, {"color": look.colour, "alpha": 0.1, "linewidth": 0}
    curve = sorted((cell for cell in cells if cell.length), key=lambda cell: cell.length)
    for cell in cells:
        if not cell.length:
            line = {"color": look.colour, "linestyle": look.line, "linewidth": 1.2}
            label = None if curve else name
            axes.axhline(100 * cell.mean("test_accuracy"), label=label, **line)
            axes.axhspan(*(100 * end for end in _interval(cell)), **band)
    if not curve:
        return
    lengths, means = zip(*((c.length, 100 * c.mean("test_accuracy")) for c in curve), strict=True)
    # The two methods that this is about lie on top.
    height = 3 if name in ("sam", "zsharp") else 2
    axes.plot(lengths, means, label=name, zorder=height, **look.of_line)
    axes.fill_between(lengths, *(100 * np.transpose([_interval(c) for c in curve])), **band)


def _interval(cell: Cell) -> tuple[float, float]:
    """The 95 % t-interval of the mean test accuracy."""
    mean, margin = cell.mean("test_accuracy"), _margin(cell.values("test_accuracy"))
    return mean - margin, mean + margin


def _margin(values: Sequence[float]) -> float:
    """Half of the 95 % t-interval of a mean; 0 with one value."""
    from scipy import stats

    if len(values) < 2:
        return 0.0
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * error
