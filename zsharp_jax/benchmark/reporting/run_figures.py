"""Pictures of run files: train loss over epochs (figure 2) and accuracy against ‖ε‖."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import ScaledTranslation

from zsharp_jax.benchmark.reporting.broken_axis import panels_for
from zsharp_jax.benchmark.reporting.figures import (
    draw_band,
    legend_beside,
    plain_numbers,
    tidy,
    title_above,
    whole_numbers,
)
from zsharp_jax.benchmark.reporting.looks import Look, look_of
from zsharp_jax.benchmark.reporting.paper import Measure

LOSSES = {"train_loss": "clean train loss, at w", "sharp_loss": "sharp train loss, at w + ε"}
_MOST_NAMED = 16
_APART, _WIDTH = 5, 24  # typographic points: between neighbours of one length, and in all
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


def draw_train_loss(
    curves: Mapping[str, Mapping[str, np.ndarray]], looks: Mapping[str, Look], title: str
) -> Figure:
    """Both train losses per method over epochs: the mean over seeds in a band of ± std.

    Args:
        curves: For each label the curves of `LOSSES`, each of shape (seeds, epochs).
        looks: For each label how it is drawn.
        title: What the runs have in common.
    """
    figure = Figure(figsize=(12, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.1))
    for axes, (loss, name) in zip(figure.subplots(1, 2), LOSSES.items(), strict=True):
        for label, losses in curves.items():
            draw_band(axes, np.maximum(losses[loss], _LEAST), label=label, look=looks[label])
        axes.set(yscale="log", xlabel="epoch", ylabel=name)
        whole_numbers(axes.xaxis)
        tidy(axes)
        plain_numbers(axes.yaxis)
    legend_beside(figure, figure.axes[0])
    title_above(figure, title)
    return figure


def draw_accuracy(points: Mapping[str, Sequence[Point]], title: str) -> Figure:
    """Test accuracy against ‖ε‖, a point for each radius of a method, bars of ± std over seeds.

    A method without a perturbation is a level line. Points of one length stand side by side, so
    that their bars do not cover each other. They have their names beside them while there is room,
    and in the title if it is one name for all.

    Args:
        points: The points of each method.
        title: What the runs have in common.
    """
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    every = [point for its_points in points.values() for point in its_points]
    ends = [_interval(point) for point in every]
    panels = panels_for(figure, [low for low, _ in ends], [high for _, high in ends])
    names = {point.name for point in every if point.norm.mean}
    for axes in panels:
        _draw_level_lines(axes, points)
        _draw_points(axes, points, are_named=len(names) > 1 and len(every) <= _MOST_NAMED)
        if any(point.norm.mean for point in every):
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
        tidy(axes)
    panels[-1].set_xlabel(
        "‖ε‖ in the last epoch, at the steps that have one (points of one length: side by side)"
    )
    figure.supylabel("test accuracy (%)", fontsize="medium")
    legend_beside(figure, panels[0])
    title_above(figure, f"{title}, {names.pop()}" if len(names) == 1 else title)
    return figure


def _interval(point: Point) -> tuple[float, float]:
    mean, std = 100 * point.accuracy.mean, 100 * (point.accuracy.std or 0)
    return mean - std, mean + std


def _draw_level_lines(axes: Axes, points: Mapping[str, Sequence[Point]]) -> None:
    for method, its_points in points.items():
        look = look_of(method)
        for point in [point for point in its_points if not point.norm.mean][:1]:
            mean, has_others = 100 * point.accuracy.mean, any(p.norm.mean for p in its_points)
            axes.axhline(
                mean, color=look.colour, linestyle=look.line, linewidth=1,
                label=None if has_others else method,
            )  # fmt: skip
            axes.axhspan(*_interval(point), color=look.colour, alpha=0.08, linewidth=0)


def _draw_points(axes: Axes, points: Mapping[str, Sequence[Point]], *, are_named: bool) -> None:
    perturbed = {
        method: sorted((p for p in its_points if p.norm.mean), key=lambda p: p.norm.mean)
        for method, its_points in points.items()
    }
    drawn = {method: its_points for method, its_points in perturbed.items() if its_points}
    apart = min(_APART, _WIDTH / max(1, len(drawn)))
    for place, (method, its_points) in enumerate(drawn.items()):
        right = apart * (place - (len(drawn) - 1) / 2)
        _draw_bars(axes, method, its_points, right)
        for point in its_points if are_named else ():
            axes.annotate(
                point.name, (point.norm.mean, 100 * point.accuracy.mean), xytext=(right + 4, 4),
                textcoords="offset points", fontsize=7, color=look_of(method).colour,
            )  # fmt: skip
    axes.autoscale_view()


def _draw_bars(axes: Axes, method: str, points: Sequence[Point], right: float) -> None:
    """The points of a method with their bars, moved to the right by so many typographic points."""
    beside = ScaledTranslation(right / 72, 0, axes.figure.dpi_scale_trans)
    axes.errorbar(
        [point.norm.mean for point in points],
        [100 * point.accuracy.mean for point in points],
        [100 * (point.accuracy.std or 0) for point in points],
        capsize=1.5, elinewidth=0.8, label=method, transform=axes.transData + beside,
        **look_of(method).of_line,
    )  # fmt: skip
    for point in points:  # what is moved does not count for the limits by itself
        axes.update_datalim([(point.norm.mean, end) for end in _interval(point)])
