"""Pictures of sharpness: the loss around solutions, spectra, and accuracy against sharpness."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colors, ticker
from matplotlib.figure import Figure

from zsharp_jax.benchmark.reporting.figures import (
    draw_band,
    legend_beside,
    plain_numbers,
    tidy,
    title_above,
)
from zsharp_jax.benchmark.reporting.looks import Look

_BROAD = 0.01  # how broad an eigenvalue is drawn, as a part of the range of all of them
_LEAST = 1e-7  # of the highest density, that is drawn
_STEP = "along a random direction (1: as long as the weights of each filter)"
_TICKS = (-1, -0.5, 0, 0.5, 1)

Spectrum = tuple[np.ndarray, np.ndarray]


def draw_lines(losses: Mapping[str, np.ndarray], looks: Mapping[str, Look], title: str) -> Figure:
    """The loss on a line through each method's solution: the mean over seeds in a band of ± std.

    Args:
        losses: For each label the losses from -1 to 1, of shape (seeds, points).
        looks: For each label how it is drawn.
        title: What the runs have in common.
    """
    figure, axes = _one_panel()
    for label, of_seeds in losses.items():
        visible = np.maximum(np.where(np.isfinite(of_seeds), of_seeds, np.nan), 1e-8)
        coefficients = np.linspace(-1, 1, visible.shape[1])
        draw_band(axes, visible, label=label, look=looks[label], places=coefficients)
    axes.set(yscale="log", xlabel=f"c {_STEP}", ylabel="loss on training images, at w + c d")
    plain_numbers(axes.yaxis)
    return _finished(figure, title)


def draw_contours(
    losses: Mapping[str, np.ndarray], looks: Mapping[str, Look], title: str
) -> Figure:
    """The loss on a plane through each method's solution, a panel each with the same colours.

    Args:
        losses: For each label the losses of a grid, of shape (points, points), from -1 to 1.
        looks: For each label how it is drawn.
        title: What the runs have in common.
    """
    columns = min(4, len(losses))
    rows = math.ceil(len(losses) / columns)
    figure = Figure(figsize=(1.6 + 3 * columns, 1.1 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    finite = np.concatenate([grid[np.isfinite(grid)] for grid in losses.values()])
    low, high = max(finite.min(), 1e-8), max(finite.max(), 2e-8)
    levels = np.geomspace(low, max(high, 1.01 * low), 21)
    norm = colors.LogNorm(levels[0], levels[-1])
    for axes, (label, grid) in zip(panels.flat, losses.items(), strict=False):
        axis = np.linspace(-1, 1, len(grid))
        visible = np.ma.masked_invalid(np.clip(grid, levels[0], levels[-1]))
        axes.contourf(axis, axis, visible, levels=levels, norm=norm, cmap="viridis")
        axes.contour(axis, axis, visible, levels=levels[::2], colors="white", linewidths=0.4)
        point = looks[label].of_line | {"markersize": 8, "markeredgecolor": "white"}
        axes.plot(0, 0, **point)
        axes.set(title=label, aspect="equal", xticks=_TICKS, yticks=_TICKS)
        axes.xaxis.set_major_formatter("{x:g}")
    for axes in panels.flat[len(losses) :]:
        axes.set_visible(False)
    bar = figure.colorbar(
        panels.flat[0].collections[0], ax=panels, label="loss on training images", shrink=0.9
    )
    bar.ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_locator(ticker.NullLocator())
    figure.supxlabel(f"c {_STEP}", fontsize="medium")
    figure.supylabel("e along a second one", fontsize="medium")
    title_above(figure, title)
    return figure


def draw_spectra(
    spectra: Mapping[str, Sequence[Spectrum]], looks: Mapping[str, Look], title: str
) -> Figure:
    """The density of the eigenvalues of each method, the mean over seeds.

    Each eigenvalue is drawn as a Gaussian with its weight.

    Args:
        spectra: For each label eigenvalues and weights of each seed.
        looks: For each label how it is drawn.
        title: What the runs have in common.
    """
    figure, axes = _one_panel()
    nodes = np.concatenate([nodes for runs in spectra.values() for nodes, _ in runs])
    span = max(float(np.ptp(nodes)), 1e-6)
    values = np.linspace(nodes.min() - 0.05 * span, nodes.max() + 0.05 * span, 1000)
    highest = 0.0
    for place, (label, runs) in enumerate(spectra.items()):
        mean = np.mean([_density(values, *run, _BROAD * span) for run in runs], axis=0)
        highest = max(highest, mean.max())
        style = looks[label].of_line | {"label": label, "markevery": (7 * place, 60)}
        axes.plot(values, mean, **style)
    axes.set(
        yscale="log", ylim=(_LEAST * highest, 3 * highest), xlabel="eigenvalue λ of the Hessian",
        ylabel="density of eigenvalues (1/λ)",
    )  # fmt: skip
    return _finished(figure, title)


def draw_against_sharpness(
    points: Mapping[str, np.ndarray], looks: Mapping[str, Look], title: str
) -> Figure:
    """Test accuracy against λ_max, a point for each run.

    Args:
        points: For each label λ_max and test accuracy of its runs, of shape (runs, 2).
        looks: For each label how it is drawn.
        title: What the runs have in common.
    """
    figure, axes = _one_panel()
    for label, of_runs in points.items():
        sharpness, accuracies = of_runs.T
        style = looks[label].of_line | {"label": label, "linestyle": "", "alpha": 0.8}
        axes.plot(sharpness, 100 * accuracies, **style)
    if all((of_method[:, 0] > 0).all() for of_method in points.values()):
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    axes.set(xlabel="λ_max of the Hessian on training images", ylabel="test accuracy (%)")
    return _finished(figure, title)


def _density(values: np.ndarray, nodes: np.ndarray, weights: np.ndarray, std: float) -> np.ndarray:
    bells = np.exp(-(((values[:, None] - nodes) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    return bells @ weights


def _one_panel():
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    return figure, figure.subplots()


def _finished(figure: Figure, title: str) -> Figure:
    tidy(figure.axes[0])
    legend_beside(figure, figure.axes[0])
    title_above(figure, title)
    return figure
