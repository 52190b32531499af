"""A vertical axis that leaves out an empty stretch, so that small differences stay visible."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

_EMPTY = 0.2  # of the whole range: an emptier stretch is left out
_MARK = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 8, "color": "black", "clip_on": False}


def panels_for(figure: FigureBase, lows: Sequence[float], highs: Sequence[float]) -> list[Axes]:
    """Axes to draw all of it on: one, or an upper and a lower one with a break between them.

    What is drawn must be drawn on each of them: their limits show the part that belongs there.

    Args:
        figure: Where they are made.
        lows: The lower end of each thing that must be visible.
        highs: The upper ends.
    """
    stretch = _emptiest(lows, highs)
    if stretch is None:
        return [figure.subplots()]
    bottom, top = stretch
    is_above = np.asarray(lows) >= top
    share = float(np.clip(is_above.mean(), 0.3, 0.75))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(share, 1 - share))
    upper.set_ylim(_with_margin(top, max(highs)))
    lower.set_ylim(_with_margin(min(lows), bottom))
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", which="both", bottom=False)
    upper.plot(0, 0, transform=upper.transAxes, **_MARK)
    lower.plot(0, 1, transform=lower.transAxes, **_MARK)
    return [upper, lower]


def _emptiest(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float] | None:
    """The longest stretch that nothing reaches into; None if it is too short to be left out."""
    if not len(lows):
        return None
    order = np.argsort(lows)
    starts = np.asarray(lows)[order][1:]
    reached = np.maximum.accumulate(np.asarray(highs)[order])
    gaps = starts - reached[:-1]
    if not len(gaps) or gaps.max() <= _EMPTY * (reached[-1] - min(lows)):
        return None
    widest = int(gaps.argmax())
    return float(reached[widest]), float(starts[widest])


def _with_margin(low: float, high: float) -> tuple[float, float]:
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin
