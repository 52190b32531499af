"""The picture of a comparison, and what all pictures have in common."""

import io
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib import rc_context, ticker
from matplotlib.figure import Figure

from zsharp_jax.benchmark.results import Record

# Okabe and Ito's colours, which colour-blind readers tell apart; black is left for text.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7F7F7F", "#B8A800")
PANELS = {"train_loss": "clean train loss", "test_accuracy": "test accuracy (%)"}


def draw_curves(records: Sequence[Record]) -> bytes:
    """Train loss and test accuracy per method as a PNG: the mean over seeds in a band of ± std.

    Args:
        records: Run files of one dataset and model; those that are not finished are left out.

    Returns:
        The content of a PNG file.
    """
    finished = [record for record in records if record["status"] == "finished"]
    methods = list(dict.fromkeys(record["settings"]["method"] for record in finished))
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, (curve, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for method, colour in zip(methods, itertools.cycle(COLOURS)):
            runs = [r["curves"][curve] for r in finished if r["settings"]["method"] == method]
            scale = 100 if "%" in label else 1
            draw_band(axes, np.array(runs), method=method, colour=colour, scale=scale)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    left, right = figure.axes
    left.set_yscale("log")
    left.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(ticker.NullFormatter())
    _leave_out_the_rise(right)
    if finished:
        figure.legend(*right.get_legend_handles_labels(), frameon=False, loc="outside right center")
        settings = finished[0]["settings"]
        seeds = len({record["settings"]["seed"] for record in finished})
        figure.suptitle(
            f"{settings['model']} on {settings['dataset']}: "
            + (f"mean ± std over {seeds} seeds" if seeds > 1 else "one seed")
        )
    return rendered(figure, "png")


def rendered(figure: Figure, kind: Literal["png", "svg"], dpi: int = 150) -> bytes:
    """The content of a file, the same for the same picture: it tells neither date nor version."""
    image = io.BytesIO()
    nameless = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "zsharp"}):
        figure.savefig(image, format=kind, dpi=dpi, metadata=nameless)
    return image.getvalue()


def draw_band(
    axes, runs: np.ndarray, *, method: str, colour: str, scale: float = 1, line: str = "-"
) -> None:
    """Draws a mean over seeds, and ± their sample std as a band.

    Args:
        axes: Where to draw.
        runs: What to draw, of shape (seeds, epochs).
        method: What the legend calls it.
        colour: Of line and band.
        scale: What to multiply with.
        line: The style of the line.
    """
    epochs, runs = np.arange(1, runs.shape[1] + 1), scale * runs
    mean = runs.mean(axis=0)
    marker = "o" if len(epochs) == 1 else None
    axes.plot(epochs, mean, color=colour, linestyle=line, label=method, marker=marker)
    if len(runs) > 1:
        std = runs.std(axis=0, ddof=1)
        low = np.maximum(mean - std, runs.min(axis=0) / 2)  # above 0, for a logarithmic axis
        axes.fill_between(epochs, low, mean + std, color=colour, alpha=0.15, linewidth=0)


def _leave_out_the_rise(axes) -> None:
    """Cuts off the first epochs, beside whose jump the methods would look all the same.

    Whatever a method falls to later stays in the picture.
    """
    curves = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    if not curves or len(curves[0]) <= 3:
        return
    later = np.concatenate([curve[len(curve) // 3 :] for curve in curves])
    bottom, top = later.min() - 1, min(100.5, max(map(np.max, curves)) + 1)
    axes.set_ylim(bottom, top)
