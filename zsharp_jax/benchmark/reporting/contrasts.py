"""Paired differences, their intervals, and p-values corrected for how many were looked at."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROUNDING = 1e-5  # of a difference of accuracies, which files tell in six digits


class Contrast(NamedTuple):
    """Two figures of the same seeds.

    Attributes:
        what: What is asked.
        first: What is compared.
        second: What it is compared with, whose figures are taken off.
        at: At which lengths of ε.
        figures: Of each seed that both have, that of the first and that of the second.
    """

    what: str
    first: str
    second: str
    at: str
    figures: Sequence[tuple[float, float]]


class Difference(NamedTuple):
    """What a contrast comes to.

    Attributes:
        n: How many seeds.
        mean: Over seeds, the first less the second.
        low: Where the 95 % t-interval of the mean begins; NaN where it cannot be said.
        high: Where it ends.
        p: Of the paired t-test; 1 where it cannot be said.

    Nothing can be said of one seed, nor where the difference is the same at all seeds.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float


def difference(contrast: Contrast) -> Difference:
    """The paired difference of a contrast, and how sure it is.

    Example:
        >>> figures = [(0.5, 0.25), (0.75, 0.25), (1.0, 0.25)]
        >>> found = difference(Contrast("", "zsharp", "sam", "", figures))
        >>> print(found.n, found.mean, round(found.low, 3), round(found.high, 3), round(found.p, 3))
        3 0.5 -0.121 1.121 0.074
    """
    from scipy import stats

    first, second = np.array(contrast.figures, float).reshape(-1, 2).T
    gains = first - second
    mean = float(gains.mean()) if len(gains) else math.nan
    if len(gains) < 2 or np.ptp(gains) < _ROUNDING:
        return Difference(len(gains), mean, math.nan, math.nan, 1.0)
    test = stats.ttest_rel(first, second)
    low, high = test.confidence_interval(0.95)
    return Difference(len(gains), mean, float(low), float(high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, by the step-down procedure of Holm (1979).

    Example:
        >>> holm([0.01, 0.04, 0.02])
        [0.03, 0.04, 0.04]
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected
