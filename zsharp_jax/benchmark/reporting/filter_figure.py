"""Figure 1: the ascent gradient of a layer before and after the filter."""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from zsharp_jax import zscore_filter
from zsharp_jax.benchmark.reporting import small_network
from zsharp_jax.benchmark.reporting.figures import tidy, title_above
from zsharp_jax.benchmark.reporting.looks import look_of

LAYER, QUANTILE = "layer_2", 0.95
_EPOCHS = 5
_GREY = "#7f7f7f"
_MAP = "PuOr"  # 0 is white, and its ends differ for all readers


def draw_example() -> Figure:
    """A layer of a small network after a short training on the digits: seconds on a CPU."""
    gradient = small_network.gradients_at(small_network.train(_EPOCHS))[LAYER]["kernel"]
    title = f"gradient of {LAYER}, {' x '.join(map(str, gradient.shape))} weights, of one batch: "
    title += f"network of {len(small_network.WIDTHS) - 1} layers on digits, after {_EPOCHS} epochs"
    return draw_filter(np.asarray(gradient), QUANTILE, title)


def draw_filter(gradient: np.ndarray, quantile: float, title: str = "") -> Figure:
    """Draws the gradient of one layer, what `zscore_filter` leaves of it, and how it chose.

    Args:
        gradient: A matrix.
        quantile: Q_p.
        title: Which layer of which network it is.
    """
    outstanding = zscore_filter(quantile)
    kept, _ = outstanding.update(jnp.asarray(gradient), outstanding.init(gradient))
    kept, zscores = np.asarray(kept), np.abs(zscores_of(gradient))
    figure = Figure(figsize=(12, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.12))
    before, after, choice = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    largest = float(np.quantile(np.abs(gradient), 0.99))
    for axes, values, name in (
        (before, gradient, "before the filter"),
        (after, kept, f"kept at $Q_p$ = {quantile}: {100 * np.mean(kept != 0):.1f} %"),
    ):
        image = axes.imshow(values, _MAP, vmin=-largest, vmax=largest, interpolation="nearest")
        axes.set(title=name, xlabel="output", ylabel="input" if axes is before else "")
    figure.colorbar(
        image, ax=[before, after], shrink=0.8, extend="both", label="entry of the gradient"
    )
    _draw_choice(choice, zscores, float(np.quantile(zscores, quantile)))
    title_above(figure, title)
    return figure


def zscores_of(gradient: np.ndarray) -> np.ndarray:
    """z of each entry: how many standard deviations it lies from the mean of its layer."""
    return (gradient - gradient.mean()) / gradient.std()


def _draw_choice(axes, zscores: np.ndarray, threshold: float) -> None:
    bins = np.linspace(0, threshold, 25)  # with an edge where the colour changes
    for values, edges, colour, label in (
        (zscores[zscores <= threshold], bins, _GREY, "left out"),
        (
            zscores[zscores > threshold],
            np.arange(threshold, zscores.max() + bins[1], bins[1]),
            look_of("zsharp").colour,
            "kept",
        ),
    ):
        axes.hist(values, edges, color=colour, label=label)
    axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
    axes.set(yscale="log", xlabel="|z|", ylabel="entries", title="which entries stand out")
    tidy(axes)
    axes.legend(frameon=False)
