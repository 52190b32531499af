"""The command `zsharp-bench figures`: the paper's figures, made from any folder of run files."""

import argparse
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from zsharp_jax.benchmark import filter_figure, results, run_figures
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.figures import rendered
from zsharp_jax.benchmark.paper import Value
from zsharp_jax.benchmark.report import counted, tell_skipped
from zsharp_jax.benchmark.rows import Row, own_settings, rows_of, shared_settings, told
from zsharp_jax.benchmark.runs import read_folder

MOST_PICTURES = 200


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


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "figures",
        help="draw the paper's figures from run files",
        description="Draws, as PNG and SVG, from all run files in a folder: train loss over epochs "
        "and accuracy against the length of the perturbation, for each dataset and network; and, "
        "from a small network of its own, what the filter keeps of a gradient. A damaged file is "
        "named and skipped, and the command then exits with 1.",
    )
    parser.add_argument(
        "folder", type=pathlib.Path, metavar="FOLDER", help="where run files (*.json) lie"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FOLDER",
        help="where pictures are written (default: where the run files lie)",
    )  # fmt: skip
    parser.set_defaults(run=_figures)


def _figures(options: argparse.Namespace, command: list[str]) -> int:
    del command
    runs, problems = read_folder(options.folder)
    out = options.folder if options.out is None else options.out
    results.prepare_folder(out)
    tell_skipped(problems)
    rows = [row for row in rows_of(runs)[0] if row.whole]
    losses, accuracies = list(_loss_pictures(rows)), list(_accuracy_pictures(rows))
    if len(losses) > MOST_PICTURES:
        raise RequestError(
            f"`FOLDER` must call for at most {MOST_PICTURES} pictures of a train loss, got "
            f"{len(losses)}: so many settings differ in {options.folder}"
        )
    _write(out, "filter", filter_figure.draw_example())
    for picture in losses:
        _write(out, picture.name, run_figures.draw_train_loss(_curves(picture), picture.title))
    for picture in accuracies:
        _write(out, picture.name, run_figures.draw_accuracy(_points(picture), picture.title))
    print(f"Written to {out}: {counted(1 + len(losses) + len(accuracies), 'picture')}, PNG and SVG")
    return 1 if problems else 0


def _write(folder: pathlib.Path, name: str, figure: Figure) -> None:
    results.write_whole(folder / f"{name}.png", rendered(figure, "png"))
    results.write_whole(folder / f"{name}.svg", rendered(figure, "svg"))


def _accuracy_pictures(rows: Sequence[Row]) -> Iterator[Picture]:
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


def _loss_pictures(rows: Sequence[Row]) -> Iterator[Picture]:
    """As many as there are radii, so that a picture has one line per method.

    A method that was trained at one radius alone is in the pictures of all of them.
    """
    names = set()
    for picture in _accuracy_pictures(rows):
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
            name = _file_name(prefix, f"rho {rho}", names)
            yield Picture(name, f"{picture.title}, rho {rho}", members)


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
    title = f"{rows[0].model} on {rows[0].dataset}: {spread}"
    return f"{title}\n{differing[:120]}" if differing else title


def _curves(picture: Picture) -> dict[str, dict[str, np.ndarray]]:
    """By label the losses of each row, of shape (seeds, epochs)."""
    radii = {row.settings.get("rho") for row in picture.rows if _has_radius(row)}

    def label(row: Row) -> str:
        tells_radius = _has_radius(row) and len(radii) > 1
        return f"{row.method} (rho {row.settings.get('rho')})" if tells_radius else row.method

    return {
        label(row): {
            loss: np.array([run.curves[loss] for run in row.whole]) for loss in run_figures.LOSSES
        }
        for row in picture.rows
    }


def _has_radius(row: Row) -> bool:
    return row.method != "adamw"


def _points(picture: Picture) -> dict[str, list[run_figures.Point]]:
    points = {}
    for row in picture.rows:
        norm, accuracy = row.measure("perturbation_norm"), row.measure("test_accuracy")
        if norm and accuracy:
            point = run_figures.Point(f"rho {row.settings.get('rho')}", norm, accuracy)
            points.setdefault(row.method, []).append(point)
    return points
