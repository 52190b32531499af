"""Pictures of run files: train loss over epochs (figure 2) and accuracy against ‖ε‖."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from zsharp_jax.benchmark.figures import COLOURS, draw_band
from zsharp_jax.benchmark.paper import Measure

LOSSES = {"train_loss": "clean train loss, at w", "sharp_loss": "sharp train loss, at w + ε"}
_MOST_NAMED = 16
_LEAST = 1e-8  # a loss of 0 has no place on a logarithmic axis


class Point(NamedTuple):
    """What a method reaches at one radius.

    Attributes:
        name: What stands beside it.
        norm: The length of the perturbation, over seeds.
        accuracy: The test accuracy, over seeds.
    """

    name: str
    norm: Measure
    accuracy: Measure


def draw_train_loss(curves: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Figure:
    """Both train losses per method over epochs: the mean over seeds in a band of ± std.

    Args:
        curves: For each label the curves of `LOSSES`, each of shape (seeds, epochs).
        title: What the runs have in common.
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, (loss, label) in zip(figure.subplots(1, 2), LOSSES.items(), strict=True):
        for (method, losses), (colour, line, _) in zip(curves.items(), _styles(), strict=False):
            visible = np.maximum(losses[loss], _LEAST)
            draw_band(axes, visible, method=method, colour=colour, line=line)
        axes.set(yscale="log", xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        _tidy(axes)
        _plain_numbers(axes.yaxis)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside right center")
    figure.suptitle(title)
    return figure


def draw_accuracy(points: Mapping[str, Sequence[Point]], title: str) -> Figure:
    """Test accuracy against ‖ε‖, a point for each radius of a method, bars of ± std over seeds.

    A method without a perturbation is a level line. Points have their names beside them while there
    is room.

    Args:
        points: The points of each method.
        title: What the runs have in common.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    is_named = sum(map(len, points.values())) <= _MOST_NAMED
    for (method, its_points), (colour, line, marker) in zip(
        points.items(), _styles(), strict=False
    ):
        for point in [point for point in its_points if not point.norm.mean][:1]:
            mean, std = 100 * point.accuracy.mean, 100 * (point.accuracy.std or 0)
            axes.axhline(mean, color=colour, linestyle=line, linewidth=0.8, label=method)
            axes.axhspan(mean - std, mean + std, color=colour, alpha=0.1, linewidth=0)
        perturbed = sorted((p for p in its_points if p.norm.mean), key=lambda p: p.norm.mean)
        if perturbed:
            style = {"color": colour, "linestyle": line, "marker": marker}
            _draw_points(axes, perturbed, is_named, label=method, **style)
    if any(point.norm.mean for its_points in points.values() for point in its_points):
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    axes.set(xlabel="‖ε‖, mean over the last epoch", ylabel="test accuracy (%)")
    _tidy(axes)
    figure.legend(frameon=False, loc="outside right center")
    figure.suptitle(title)
    return figure


def _draw_points(
    axes, points: Sequence[Point], is_named: bool, *, color: str, **style: str
) -> None:
    norms = np.array([point.norm.mean for point in points])
    means = 100 * np.array([point.accuracy.mean for point in points])
    stds = 100 * np.array([point.accuracy.std or 0 for point in points])
    axes.errorbar(
        norms, means, stds, color=color, markersize=5, linewidth=0.8, capsize=2, **style
    )  # fmt: skip
    for point, norm, mean in zip(points, norms, means, strict=True) if is_named else ():
        axes.annotate(
            point.name, (norm, mean), xytext=(4, 4), textcoords="offset points", fontsize=7,
            color=color,
        )  # fmt: skip


def _styles() -> Iterator[tuple[str, str, str]]:
    """Colour, line and marker: all colours once, then all again with another line and marker."""
    kinds = itertools.cycle((("-", "o"), ("--", "s"), (":", "^")))
    return ((colour, line, marker) for line, marker in kinds for colour in COLOURS)


def _tidy(axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_numbers(axis) -> None:
    """0.05 where matplotlib would write a power of ten."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(ticker.NullFormatter())
