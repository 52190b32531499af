"""An empty stretch of the axis is left out, and nothing else."""

import pytest
from matplotlib.figure import Figure

from zsharp_jax.benchmark.reporting.broken_axis import panels_for


def limits(lows, highs):
    return [axes.get_ylim() for axes in panels_for(Figure(), lows, highs)]


@pytest.mark.parametrize("lows, highs", [
    ([], []),
    ([98.0], [99.0]),
    ([90.0, 92.0, 94.0, 96.0], [91.0, 93.0, 95.0, 97.0]),
    ([50.0, 90.0], [99.0, 99.0]),  # the wide bar of the first one reaches up to the second
])  # fmt: skip
def test_an_axis_without_an_empty_stretch_stays_whole(lows, highs):
    assert len(limits(lows, highs)) == 1


def test_a_method_that_collapses_leaves_the_others_their_room():
    (low, high), (bottom, top) = limits([97.0, 56.0, 98.0], [98.0, 70.0, 99.0])
    assert 96 < low < 97 and 99 < high < 100
    assert 54 < bottom < 56 and 70 < top < 72


def test_one_that_rises_above_all_others_too():
    (low, high), (bottom, top) = limits([10.0, 11.0, 90.0], [10.5, 11.5, 90.0])
    assert low < 90 < high and bottom < 10 and 11.5 < top < 12
