"""Which runs may be averaged: those that differ in nothing but their seed."""

import dataclasses
import functools
import statistics
from collections.abc import Iterable, Mapping

from zsharp_jax.benchmark.reporting import paper
from zsharp_jax.benchmark.reporting.paper import Measure
from zsharp_jax.benchmark.runs.fields import Value
from zsharp_jax.benchmark.runs.methods import has_plain_steps
from zsharp_jax.benchmark.runs.reading import Run

_LIKE_NO_TEXT = ("True", "False", "None")
_METHODS = (*paper.METHODS, "zsharp_reference")  # the rest follows by name


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """Runs of one method that differ in nothing but their seed.

    Attributes:
        dataset: What was trained on.
        model: The network.
        method: What was trained.
        settings: All that they have in common.
        whole: The runs that went to their end, one of each seed.
        others: Those that failed or were cut short.
    """

    dataset: str
    model: str
    method: str
    settings: Mapping[str, Value]
    whole: tuple[Run, ...]
    others: tuple[Run, ...]

    def measure(self, curve: str) -> Measure | None:
        """Mean and sample std over seeds of what a curve ends with; None without a whole run.

        The test accuracy is that of the end, whether there is a curve of it or not.
        """
        if curve == "test_accuracy":
            return _measure([run.test_accuracy for run in self.whole])
        return _measure([float(run.curves[curve][-1]) for run in self.whole])

    def length(self) -> Measure | None:
        """The same of ‖ε‖ at the steps that have one.

        Where some steps of an epoch have none it is rho, which the others are brought to.
        """
        rho = self.settings.get("rho")
        if self.whole and has_plain_steps(self.method) and isinstance(rho, int | float):
            return _measure([rho] * len(self.whole))
        return self.measure("perturbation_norm")

    def sharpness(self, measure: str) -> Measure | None:
        """The same of one of `MEASURES`, on training images; None unless all runs have it, measured
        in the same way."""
        found = [run.sharpness for run in self.whole if run.sharpness]
        if len(found) < len(self.whole) or any(each.how != found[0].how for each in found):
            return None
        return _measure([sharpness.measures["train"][measure] for sharpness in found])

    @functools.cached_property
    def departures(self) -> list[str]:
        """The settings in which it departs from the paper's."""
        return paper.departures(self.dataset, self.method, self.settings)


def _measure(values: list[float]) -> Measure | None:
    if not values:
        return None
    return Measure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def rows_of(runs: Iterable[Run]) -> tuple[list[Row], list[Run]]:
    """Sorts runs into rows.

    Args:
        runs: Any runs.

    Returns:
        The rows, in the order of a table, and the runs that repeat the seed of another one in the
        same row, which are left out: they are no second sample.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        key = (run.dataset, run.model, run.method, _key(run.settings))
        groups.setdefault(key, []).append(run)
    rows, repeated = [], []
    for members in groups.values():
        by_seed: dict[int, Run] = {}
        for run in sorted(members, key=lambda run: not run.is_whole):  # stable: whole ones first
            if run.seed in by_seed:
                repeated.append(run)
            by_seed.setdefault(run.seed, run)
        rows.append(_row(sorted(by_seed.values(), key=lambda run: run.seed)))
    return sorted(rows, key=_place), repeated


def _row(runs: list[Run]) -> Row:
    whole = tuple(run for run in runs if run.is_whole)
    others = tuple(run for run in runs if not run.is_whole)
    first = runs[0]
    return Row(first.dataset, first.model, first.method, first.settings, whole, others)


def shared_settings(rows: Iterable[Row]) -> dict[str, Value]:
    """The settings that are the same in all of the rows."""
    first, *rest = [row.settings for row in rows]
    return {
        name: value
        for name, value in first.items()
        if all(name in other and _order(other[name]) == _order(value) for other in rest)
    }


def own_settings(row: Row, shared: Mapping[str, Value]) -> dict[str, Value]:
    """The settings of a row that are not shared."""
    return {name: value for name, value in row.settings.items() if name not in shared}


def told(settings: Mapping[str, Value]) -> str:
    """Settings in words: `epochs 12, rho 0.05`."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in settings.items())


def _shown(value: Value) -> str:
    """A text that could be taken for something else is in quotes."""
    is_plain = not isinstance(value, str) or (value[:1].isalpha() and value not in _LIKE_NO_TEXT)
    return f"{value}" if is_plain else f'"{value}"'


def _key(settings: Mapping[str, Value]) -> tuple:
    return tuple(sorted((name, _order(value)) for name, value in settings.items()))


def _order(value: Value) -> tuple[str, float, str]:
    """Compares any two values: 1 equals 1.0, but neither "1" nor True."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ("number", value, "")
    return (type(value).__name__, 0, str(value))


def _place(row: Row) -> tuple:
    return (
        _rank(row.dataset, tuple(paper.IMAGES)),
        _rank(row.model, paper.NETWORKS),
        _rank(row.method, _METHODS),
        _key(row.settings),
    )


def _rank(name: str, known: tuple[str, ...]) -> tuple[int, str]:
    return (known.index(name) if name in known else len(known), name)
