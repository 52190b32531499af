"""Which pictures a folder of runs calls for, and what each of them shows."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zsharp_jax.benchmark.reporting import run_figures
from zsharp_jax.benchmark.reporting.figures import subject_of
from zsharp_jax.benchmark.reporting.looks import Look, looks_of
from zsharp_jax.benchmark.reporting.rows import Row, own_settings, shared_settings, told
from zsharp_jax.benchmark.runs.fields import Value
from zsharp_jax.benchmark.runs.methods import perturbs


class Picture(NamedTuple):
    """What one picture is made of.

    Attributes:
        name: Of its files, without their kind.
        title: What its rows have in common.
        rows: What it shows.
    """

    name: str
    title: str
    rows: Sequence[Row]


def accuracy_pictures(rows: Sequence[Row]) -> Iterator[Picture]:
    """One for all rows of a network and dataset that differ in nothing but method and radius."""
    names = set()
    for (dataset, model), group in itertools.groupby(rows, lambda r: (r.dataset, r.model)):
        of_pair = list(group)
        shared = shared_settings(of_pair)
        alike: dict[str, list[Row]] = {}
        for row in of_pair:
            alike.setdefault(told(_without_rho(own_settings(row, shared))), []).append(row)
        for differing, members in alike.items():
            name = _file_name(f"accuracy-{dataset}-{model}", differing, names)
            yield Picture(name, _title(members, differing), members)


def loss_pictures(rows: Sequence[Row]) -> Iterator[Picture]:
    """As many as there are radii, so that a picture has one line per method.

    A method that was trained at one radius alone is in the pictures of all of them.
    """
    names = set()
    for picture in accuracy_pictures(rows):
        count: dict[str, int] = {}
        for row in picture.rows:
            count[row.method] = count.get(row.method, 0) + 1
        radii = dict.fromkeys(r.settings.get("rho") for r in picture.rows if count[r.method] > 1)
        prefix = picture.name.replace("accuracy", "train_loss", 1)
        if not radii:
            yield Picture(_file_name(prefix, "", names), picture.title, picture.rows)
        for rho in radii:
            members = [
                row
                for row in picture.rows
                if count[row.method] == 1 or row.settings.get("rho") == rho
            ]
            radius = f"rho {_radii_told(picture.rows)[rho]}"
            yield Picture(_file_name(prefix, radius, names), f"{picture.title}, {radius}", members)


def _radii_told(rows: Iterable[Row]) -> dict[Value, str]:
    """Each radius in four digits, or in all of them where two would be the same."""
    radii = {row.settings.get("rho") for row in rows}
    short = {rho: f"{rho:.4g}" if isinstance(rho, float) else str(rho) for rho in radii}
    return short if len(set(short.values())) == len(radii) else {rho: str(rho) for rho in radii}


def _without_rho(settings: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in settings.items() if name != "rho"}


def _file_name(prefix: str, differing: str, names: set[str]) -> str:
    """A name that no other picture has, of letters that any file system takes."""
    words = re.sub(r"[^\w.+-]+", "_", differing, flags=re.ASCII)
    stem = f"{prefix}-{words}" if words else prefix
    stem = name = stem[:160]
    for number in itertools.count(2):
        if name not in names:
            break
        name = f"{stem}-{number}"
    names.add(name)
    return name


def _title(rows: Sequence[Row], differing: str) -> str:
    seeds = sorted({len(row.whole) for row in rows})
    counts = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = "one seed" if seeds == [1] else f"mean ± std over {counts} seeds"
    title = f"{subject_of(rows[0].model, rows[0].dataset, rows[0].settings)}: {spread}"
    return f"{title}\n{differing[:120]}" if differing else title


def curves_of(picture: Picture) -> dict[str, dict[str, np.ndarray]]:
    """By label the losses of each row, of shape (seeds, epochs)."""
    return {
        label: {
            loss: np.array([run.curves[loss] for run in row.whole]) for loss in run_figures.LOSSES
        }
        for label, row in labelled(picture).items()
    }


def looks_in(picture: Picture) -> dict[str, Look]:
    """By the labels of `curves_of` how each row is drawn."""
    return looks_of({label: row.method for label, row in labelled(picture).items()})


def labelled(picture: Picture) -> dict[str, Row]:
    """The rows of a picture by method, one each, and by rho where they differ in it."""
    radii = _radii_told(row for row in picture.rows if perturbs(row.method))

    def label(row: Row) -> str:
        tells_radius = perturbs(row.method) and len(radii) > 1
        return (
            f"{row.method} (rho {radii[row.settings.get('rho')]})" if tells_radius else row.method
        )

    return {label(row): row for row in picture.rows}


def points_of(picture: Picture) -> dict[str, list[run_figures.Point]]:
    points, radii = {}, _radii_told(picture.rows)
    for row in picture.rows:
        norm, accuracy = row.length(), row.measure("test_accuracy")
        if norm and accuracy:
            told_rho = f"rho {radii[row.settings.get('rho')]}"
            point = run_figures.Point(told_rho, norm, accuracy)
            points.setdefault(row.method, []).append(point)
    return points
