"""Figure 1: the ascent gradient of a layer before and after the filter."""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from zsharp_jax import sam, zscore_filter
from zsharp_jax.benchmark import small_network
from zsharp_jax.benchmark.figures import COLOURS

LAYER, QUANTILE = "layer_2", 0.95
_MAP = "PuOr"  # 0 is white, and its ends differ for all readers


def draw_example() -> Figure:
    """A layer of a small network after a short training on the digits: seconds on a CPU."""
    (params,) = small_network.train(sam(0), seeds=[0], epochs=5).params
    gradient = small_network.gradients_at(params)[LAYER]["kernel"]
    return draw_filter(np.asarray(gradient), QUANTILE)


def draw_filter(gradient: np.ndarray, quantile: float) -> Figure:
    """Draws the gradient of one layer, what `zscore_filter` leaves of it, and how it chose.

    Args:
        gradient: A matrix.
        quantile: Q_p.
    """
    outstanding = zscore_filter(quantile)
    kept, _ = outstanding.update(jnp.asarray(gradient), outstanding.init(gradient))
    kept, zscores = np.asarray(kept), np.abs(zscores_of(gradient))
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    before, after, choice = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    largest = float(np.quantile(np.abs(gradient), 0.99))
    for axes, values, title in (
        (before, gradient, "gradient g"),
        (after, kept, f"kept at $Q_p$ = {quantile}: {np.mean(kept != 0):.1%} of the entries"),
    ):
        image = axes.imshow(values, _MAP, vmin=-largest, vmax=largest, interpolation="nearest")
        axes.set(title=title, xlabel="output", ylabel="input" if axes is before else "")
    figure.colorbar(image, ax=[before, after], shrink=0.8, extend="both")
    _draw_choice(choice, zscores, float(np.quantile(zscores, quantile)))
    return figure


def zscores_of(gradient: np.ndarray) -> np.ndarray:
    """z of each entry: how many standard deviations it lies from the mean of its layer."""
    return (gradient - gradient.mean()) / gradient.std()


def _draw_choice(axes, zscores: np.ndarray, threshold: float) -> None:
    bins = np.linspace(0, threshold, 25)  # with an edge where the colour changes
    for values, edges, colour, label in (
        (zscores[zscores <= threshold], bins, COLOURS[6], "left out"),
        (
            zscores[zscores > threshold],
            np.arange(threshold, zscores.max() + bins[1], bins[1]),
            COLOURS[0],
            "kept",
        ),
    ):
        axes.hist(values, edges, color=colour, label=label)
    axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
    axes.set(yscale="log", xlabel="|z|", ylabel="entries", title="which entries stand out")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
