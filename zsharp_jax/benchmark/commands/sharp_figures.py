"""The pictures of sharpness that `zsharp-bench figures` draws, from runs and their weights."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.reporting import sharp_figures
from zsharp_jax.benchmark.reporting.looks import look_of
from zsharp_jax.benchmark.reporting.pictures import Picture, labelled, looks_in
from zsharp_jax.benchmark.reporting.rows import Row
from zsharp_jax.benchmark.reporting.sharp_pictures import (
    images_of,
    seeds_of,
    sharpness_pictures,
    spectrum_pictures,
    titled,
    weight_pictures,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SharpFigures:
    """What there is to draw.

    Args:
        rows: All rows with whole runs.
        origin: Where datasets may come from.
        points: How many points a contour has along each axis.

    Attributes:
        problems: A sentence for each run whose weights cannot be used; known once all is drawn.
    """

    def __init__(self, rows: Sequence[Row], origin: Origin, points: int) -> None:
        self._origin, self._points = origin, points
        self._lines = list(weight_pictures(rows, "loss_line"))
        self._contours = list(weight_pictures(rows, "loss_contour"))
        self._spectra = list(spectrum_pictures(rows, "spectrum"))
        self._against = list(sharpness_pictures(rows, "accuracy_against_sharpness"))
        self.problems: list[str] = []

    @property
    def names(self) -> list[str]:
        """The names of the pictures, without their kind."""
        pictures = (*self._lines, *self._contours, *self._spectra, *self._against)
        return [picture.name for picture in pictures]

    def drawn(self) -> Iterator[tuple[str, "Figure"]]:
        """Names and pictures; those of the loss around solutions are computed here."""
        for picture in self._spectra:
            yield picture.name, _spectra(picture)
        for picture in self._against:
            yield picture.name, _against(picture)
        if self._lines:
            yield from self._landscapes()

    def _landscapes(self) -> Iterator[tuple[str, "Figure"]]:
        from zsharp_jax.benchmark.measuring.around import losses_around

        rows = [row for picture in self._lines for row in picture.rows]
        runs = [(run, run is row.whole[0]) for row in rows for run in row.whole]
        found, self.problems = losses_around(runs, self._origin, self._points)
        for line, contour in zip(self._lines, self._contours, strict=True):
            there = [run for row in line.rows for run in row.whole if run in found]
            if not there:
                continue
            images = f"loss on {found[there[0]].images:,} training images"
            of_rows = {
                label: [found[run] for run in row.whole if run in found]
                for label, row in labelled(line).items()
            }
            lines = {
                label: np.array([around.line for around in of_row])
                for label, of_row in of_rows.items()
                if of_row
            }
            title = titled(line, f"{images}, {_spread(seeds_of(line))}")
            yield line.name, sharp_figures.draw_lines(lines, looks_in(line), title)
            planes = {
                label: around.plane
                for label, of_row in of_rows.items()
                for around in of_row
                if around.plane is not None
            }
            if planes:
                title = titled(contour, f"{images}, one seed each")
                yield contour.name, sharp_figures.draw_contours(planes, looks_in(line), title)


def _spectra(picture: Picture) -> "Figure":
    spectra = {
        label: [run.sharpness.spectrum["train"] for run in row.whole if run.sharpness]
        for label, row in labelled(picture).items()
    }
    seeds = seeds_of(picture)
    what = f"spectrum of the Hessian on {images_of(picture):,} training images, "
    what += seeds if seeds == "one seed" else f"mean over {seeds}"
    return sharp_figures.draw_spectra(spectra, looks_in(picture), titled(picture, what))


def _against(picture: Picture) -> "Figure":
    points: dict[str, list[tuple[float, float]]] = {}
    for row in picture.rows:
        points.setdefault(row.method, []).extend(
            (run.sharpness.measures["train"]["lambda_max"], run.test_accuracy)
            for run in row.whole
            if run.sharpness
        )
    count = sum(map(len, points.values()))
    what = f"{count} runs, λ_max on {images_of(picture):,} training images"
    looks = {method: look_of(method) for method in points}
    found = {method: np.array(of_method) for method, of_method in points.items()}
    return sharp_figures.draw_against_sharpness(found, looks, titled(picture, what))


def _spread(seeds: str) -> str:
    return seeds if seeds == "one seed" else f"mean ± std over {seeds}"
