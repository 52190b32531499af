"""Which pictures of sharpness a folder of runs calls for, and what each of them shows."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from zsharp_jax.benchmark.reporting.figures import subject_of
from zsharp_jax.benchmark.reporting.pictures import Picture, accuracy_pictures
from zsharp_jax.benchmark.reporting.rows import Row
from zsharp_jax.benchmark.runs.reading import Run
from zsharp_jax.benchmark.runs.weights import weights_path


def weight_pictures(rows: Sequence[Row], name: str) -> Iterator[Picture]:
    """Of the runs whose weights are there, each method at its best radius.

    Args:
        rows: All rows.
        name: What the names of the pictures begin with.
    """

    def is_there(run: Run) -> bool:
        path = weights_path(run.path.parent, run.path.stem)
        return run.weights_sha256 is not None and path.exists()

    for picture in accuracy_pictures(_of_runs(rows, is_there)):
        yield _named(picture, name)._replace(rows=best_of_each(picture.rows))


def sharpness_pictures(rows: Sequence[Row], name: str) -> Iterator[Picture]:
    """Of the runs whose sharpness was measured, all radii.

    A picture shows those that were measured in one way, that of its first run.
    """
    for picture in accuracy_pictures(_of_runs(rows, lambda run: run.sharpness is not None)):
        how = _how(picture.rows[0].whole[0])
        alike = _of_runs(picture.rows, lambda run, how=how: _how(run) == how)
        yield _named(picture, name)._replace(rows=alike)


def spectrum_pictures(rows: Sequence[Row], name: str) -> Iterator[Picture]:
    """The same, each method at its best radius."""
    for picture in sharpness_pictures(rows, name):
        yield picture._replace(rows=best_of_each(picture.rows))


def titled(picture: Picture, what: str) -> str:
    """Network, dataset, what is shown, and in a second line which settings differ from others."""
    _, line_end, differing = picture.title.partition("\n")
    first = picture.rows[0]
    return f"{subject_of(first.model, first.dataset, first.settings)}: {what}{line_end}{differing}"


def seeds_of(picture: Picture) -> str:
    """`one seed`, `3 seeds`, `2 to 3 seeds`."""
    counts = sorted({len(row.whole) for row in picture.rows})
    if counts == [1]:
        return "one seed"
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seeds"


def _how(run: Run) -> object:
    return run.sharpness.how if run.sharpness else None


def _of_runs(rows: Sequence[Row], is_wanted: Callable[[Run], bool]) -> list[Row]:
    found = [dataclasses.replace(row, whole=tuple(filter(is_wanted, row.whole))) for row in rows]
    return [row for row in found if row.whole]


def _named(picture: Picture, name: str) -> Picture:
    return picture._replace(name=picture.name.replace("accuracy", name, 1))


def best_of_each(rows: Sequence[Row]) -> list[Row]:
    """The row of each method with the best accuracy, on validation images where all have any.

    A radius of which a run did not finish is not chosen, unless there is no other.
    """
    judged = {run.judged for row in rows for run in row.whole}
    figure = "validation_accuracy" if judged == {"validation"} else "test_accuracy"

    def accuracy(row: Row) -> float:
        measure = row.measure(figure)
        return measure.mean if measure else 0.0

    of_method: dict[str, list[Row]] = {}
    for row in rows:
        of_method.setdefault(row.method, []).append(row)
    return [
        max([row for row in own if not row.others] or own, key=accuracy)
        for own in of_method.values()
    ]


def images_of(picture: Picture) -> int:
    """On how many training images the runs of a picture were measured, all on as many."""
    runs = (run for row in picture.rows for run in row.whole)
    return next(run.sharpness.how["images"]["train"] for run in runs if run.sharpness)
