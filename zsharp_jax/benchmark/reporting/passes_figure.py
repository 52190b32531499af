"""The picture of what methods gain over AdamW, and of how many passes a step they take for it."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from zsharp_jax.benchmark.reporting.contrasts import difference
from zsharp_jax.benchmark.reporting.figures import legend_beside, tidy, title_above
from zsharp_jax.benchmark.reporting.looks import looks_of
from zsharp_jax.benchmark.reporting.questions import each_at_its_best
from zsharp_jax.benchmark.reporting.study_cells import Cell
from zsharp_jax.benchmark.runs.methods import METHODS

_ROW, _AROUND = 0.28, 1.4  # inches: the height of a row, and of all that is above and below
_FEWEST = 6  # rows for which there is room, so that the axis's name fits beside them


def draw_gains(cells: Sequence[Cell], title: str) -> Figure | None:
    """The gain of each method over adamw, each at its best radius, with its 95 % t-interval.

    Methods of fewer passes a step stand lower, and of those with as many the one that gains least.
    A line marks the gain of SAM, and another one a half of it if a method has fewer passes.

    Args:
        cells: Of a study.
        title: What its runs have in common.

    Returns:
        The picture; None without a method to compare with adamw.
    """
    method_of = {cell.name: cell.method for cell in cells}
    found = {
        contrast.first: difference(contrast)
        for contrast in each_at_its_best(cells)
        if contrast.second == "adamw" and contrast.figures
    }
    if not found:
        return None
    passes = {name: METHODS[method_of[name]].passes for name in found}
    order = sorted(found, key=lambda name: (passes[name], found[name].mean))
    figure = Figure(figsize=(8.5, _AROUND + _ROW * max(_FEWEST, len(order))), layout="constrained")
    axes = figure.subplots()
    looks = looks_of({name: method_of[name] for name in order})
    for row, name in enumerate(order):
        gain, look = found[name], looks[name]
        ends = [[100 * (gain.mean - gain.low)], [100 * (gain.high - gain.mean)]]
        drawn = axes.errorbar(
            100 * gain.mean, row, xerr=ends, fmt=look.marker, color=look.colour, capsize=3
        )
        drawn.lines[0].set(fillstyle=look.fill)
    if "sam" in found:
        lines = [(1, "--", "SAM's gain"), (0.5, ":", "half of it")]
        # A half is for methods of fewer passes.
        for share, line, label in lines if min(passes.values()) < passes["sam"] else lines[:1]:
            gain = 100 * share * found["sam"].mean
            axes.axvline(gain, color="0.4", linestyle=line, linewidth=1, label=label, zorder=0)
        legend_beside(figure, axes)
    axes.set_yticks(range(len(order)), [f"{name}, {passes[name]:g}" for name in order])
    axes.set(xlabel="points of test accuracy above adamw", ylabel="method, passes a step")
    tidy(axes)
    title_above(figure, title)
    return figure
