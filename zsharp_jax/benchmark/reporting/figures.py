"""The picture of a comparison, and what all pictures have in common."""

import io
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsharp_jax.benchmark.reporting.broken_axis import panels_for
from zsharp_jax.benchmark.reporting.kinds import KINDS, Kind
from zsharp_jax.benchmark.reporting.looks import Look, look_of
from zsharp_jax.benchmark.runs.fields import Record, Value
from zsharp_jax.benchmark.runs.files import write_whole
from zsharp_jax.benchmark.runs.outcome import judged_in

_NAMELESS = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_LONG = 14  # from there on a legend would be as high as the figure
_LETTERS_AN_INCH = 11  # of a title
_MARKED = 6  # about so many points of a curve have a marker


def draw_curves(records: Sequence[Record]) -> Figure:
    """Train loss and accuracy per method: the mean over seeds in a band of ± std.

    The accuracy is what the runs were judged on after every epoch: that of the test images, or of
    the validation images where they have any.

    Args:
        records: Run files of one dataset and model; those that are not finished are left out.
    """
    finished = [record for record in records if record["status"] == "finished"]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    if finished:
        left, right = figure.subfigures(1, 2, squeeze=False)[0]
        judged = judged_in(finished[0]["curves"])
        losses = _by_method(finished, "train_loss")
        accuracies = _by_method(finished, f"{judged}_accuracy", scale=100)
        _draw_losses(left.subplots(), losses)
        panels = _draw_accuracies(right, accuracies, f"{judged} accuracy (%)")
        legend_beside(figure, panels[0])
        settings = finished[0]["settings"]
        seeds = len({record["settings"]["seed"] for record in finished})
        spread = f"mean ± std over {seeds} seeds" if seeds > 1 else "one seed"
        subject = subject_of(settings["model"], settings["dataset"], settings)
        title_above(figure, f"{subject}: {spread}")
    return figure


def _by_method(records: Sequence[Record], curve: str, scale: float = 1) -> dict[str, np.ndarray]:
    """A curve of all runs of each method, of shape (seeds, epochs)."""
    runs: dict[str, list] = {}
    for record in records:
        runs.setdefault(record["settings"]["method"], []).append(record["curves"][curve])
    return {method: scale * np.array(curves) for method, curves in runs.items()}


def _draw_losses(axes: Axes, losses: dict[str, np.ndarray]) -> None:
    for method, runs in losses.items():
        draw_band(axes, runs, label=method, look=look_of(method))
    axes.set(yscale="log", xlabel="epoch", ylabel="clean train loss")
    tidy(axes)
    whole_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)


def _draw_accuracies(figure, accuracies: dict[str, np.ndarray], label: str) -> list[Axes]:
    """Without the first epochs, beside whose jump the methods would look all the same.

    Whatever a method falls to later stays in the picture.
    """
    epochs = len(next(iter(accuracies.values()))[0])
    later = [runs.mean(axis=0)[epochs // 3 if epochs > 3 else 0 :] for runs in accuracies.values()]
    highest = [runs.mean(axis=0).max() for runs in accuracies.values()]
    panels = panels_for(figure, [curve.min() - 1 for curve in later], [h + 1 for h in highest])
    for axes in panels:
        for method, runs in accuracies.items():
            draw_band(axes, runs, label=method, look=look_of(method))
        tidy(axes)
        whole_numbers(axes.xaxis)
    if len(panels) == 1:
        panels[0].set_ylim(min(map(np.min, later)) - 1, min(100.5, max(highest) + 1))
    panels[-1].set_xlabel("epoch")
    figure.supylabel(label, fontsize="medium")
    return panels


def subject_of(model: str, dataset: str, settings: Mapping[str, Value]) -> str:
    """Network and dataset for a title, and what is unusual about its training images.

    Args:
        model: The network.
        dataset: The dataset.
        settings: Those of a run.
    """
    of_images = ""
    if images := settings.get("train_images"):
        of_images += f", {images:,} training images"
    if noise := settings.get("label_noise"):
        of_images += f", {100 * noise:g} % of the training labels wrong"
    return f"{model} on {dataset}{of_images}"


def rendered(figure: Figure, kind: Kind, dpi: int = 150) -> bytes:
    """The content of a file, the same for the same picture: it tells neither date nor version."""
    image = io.BytesIO()
    with rc_context({"svg.hashsalt": "zsharp"}):
        figure.savefig(image, format=kind, dpi=dpi, metadata=_NAMELESS[kind])
    return image.getvalue()


def write_picture(figure: Figure, folder: pathlib.Path, name: str) -> None:
    """Writes a picture in all kinds."""
    for kind in KINDS:
        write_whole(folder / f"{name}.{kind}", rendered(figure, kind))


def draw_band(
    axes: Axes, runs: np.ndarray, *, label: str, look: Look, places: np.ndarray | None = None
) -> None:
    """Draws a mean over seeds, and ± their sample std as a band.

    Args:
        axes: Where to draw.
        runs: What to draw, of shape (seeds, points).
        label: What the legend calls it.
        look: That of the method.
        places: Where the points lie; None for epochs, from 1.
    """
    places = np.arange(1, runs.shape[1] + 1) if places is None else places
    mean = runs.mean(axis=0)
    between = max(1, len(places) // _MARKED)
    axes.plot(places, mean, label=label, markevery=between, **look.of_line)
    if len(runs) > 1:
        std = runs.std(axis=0, ddof=1)
        low = np.maximum(mean - std, runs.min(axis=0) / 2)  # above 0, for a logarithmic axis
        axes.fill_between(places, low, mean + std, color=look.colour, alpha=0.15, linewidth=0)


def title_above(figure: Figure, title: str) -> None:
    """The title of a figure; a long one goes on in a second line after its colon."""
    width = round(_LETTERS_AN_INCH * figure.get_figwidth())
    lines = []
    for line in title.splitlines():
        parts = line.replace(": ", ":\n", 1) if len(line) > width else line
        lines += [short for part in parts.splitlines() for short in textwrap.wrap(part, width)]
    figure.suptitle("\n".join(lines))


def legend_beside(figure: Figure, axes: Axes) -> None:
    """A legend to the right of a figure, of what is on its axes; a long one is in small print."""
    handles, labels = axes.get_legend_handles_labels()
    size = {"fontsize": "small", "labelspacing": 0.2} if len(labels) > _LONG else {}
    # Long enough to tell a dashed line from a dotted one.
    look = {"frameon": False, "handlelength": 3.0}
    figure.legend(handles, labels, loc="outside right center", **look, **size)


def tidy(axes: Axes) -> None:
    """A pale grid, and no frame above and to the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def whole_numbers(axis) -> None:
    """1, 2, 3 and not 1.5, as epochs are counted."""
    axis.set_major_locator(ticker.MaxNLocator(integer=True))


def plain_numbers(axis) -> None:
    """0.05 where matplotlib would write a power of ten; call it when all is drawn."""
    low, high = axis.get_view_interval()
    is_short = 0 < high < 5 * low  # 1, 2 and 5 would be two ticks or fewer
    axis.set_major_locator(ticker.MaxNLocator(6) if is_short else ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(ticker.NullFormatter())
