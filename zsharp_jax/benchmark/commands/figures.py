"""The command `zsharp-bench figures`: the paper's figures, from run files."""

import argparse
import pathlib

from zsharp_jax.benchmark.commands.options import (
    add_origin_options,
    add_overwrite,
    origin,
    tell_skipped,
)
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.reporting.kinds import picture_files

MOST_PICTURES = 200
LEAST_POINTS, MOST_POINTS = 2, 51  # of a contour, along each axis


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "figures",
        help="draw the paper's figures from run files",
        description="Draws, as PNG, SVG and PDF, from all run files in a folder: train loss over "
        "epochs and accuracy against the length of the perturbation, for each dataset and network; "
        "and, from a small network of its own, what the filter keeps of a gradient. Where weights "
        "were kept (--keep-weights), also the loss around the solutions, each method at its best "
        "radius; where `sharpness` measured them, also spectra, and accuracy against the largest "
        "eigenvalue. A damaged file is named and skipped, and the command then exits with 1.",
    )
    parser.add_argument(
        "folder",
        type=pathlib.Path,
        metavar="FOLDER",
        help="where run files lie (*.json, runs.jsonl)",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FOLDER",
        help="where pictures are written (default: where the run files lie)",
    )  # fmt: skip
    parser.add_argument(
        "--points", type=int, default=MOST_POINTS, metavar="N",
        help=f"draw contours from N x N points, {LEAST_POINTS} to {MOST_POINTS} "
        "(default: %(default)s)",
    )  # fmt: skip
    add_origin_options(parser)
    add_overwrite(parser)
    parser.set_defaults(run=_figures)


def _figures(options: argparse.Namespace, command: list[str]) -> int:
    from zsharp_jax.benchmark.commands.sharp_figures import SharpFigures
    from zsharp_jax.benchmark.reporting import filter_figure, pictures, run_figures
    from zsharp_jax.benchmark.reporting.figures import write_picture
    from zsharp_jax.benchmark.reporting.markdown import counted
    from zsharp_jax.benchmark.reporting.rows import rows_of
    from zsharp_jax.benchmark.runs.files import prepare_folder, refuse_existing
    from zsharp_jax.benchmark.runs.reading import read_folder

    del command
    if not LEAST_POINTS <= options.points <= MOST_POINTS:
        raise RequestError(
            f"`points` must be from {LEAST_POINTS} to {MOST_POINTS}, got {options.points}"
        )
    runs, problems = read_folder(options.folder)
    out = options.folder if options.out is None else options.out
    prepare_folder(out)
    tell_skipped(problems)
    rows = [row for row in rows_of(runs)[0] if row.whole]
    losses = list(pictures.loss_pictures(rows))
    accuracies = list(pictures.accuracy_pictures(rows))
    if len(losses) > MOST_PICTURES:
        raise RequestError(
            f"`FOLDER` must call for at most {MOST_PICTURES} pictures of a train loss, got "
            f"{len(losses)}: so many settings differ in {options.folder}"
        )
    sharp = SharpFigures(rows, origin(options), options.points)
    names = ["filter", *(picture.name for picture in (*losses, *accuracies)), *sharp.names]
    if not options.overwrite:
        files = [out / file for name in names for file in picture_files(name)]
        refuse_existing(files, "--overwrite writes over them, --out FOLDER elsewhere")

    write_picture(filter_figure.draw_example(), out, "filter")
    for picture in losses:
        curves, looks = pictures.curves_of(picture), pictures.looks_in(picture)
        figure = run_figures.draw_train_loss(curves, looks, picture.title)
        write_picture(figure, out, picture.name)
    for picture in accuracies:
        figure = run_figures.draw_accuracy(pictures.points_of(picture), picture.title)
        write_picture(figure, out, picture.name)
    count = 1 + len(losses) + len(accuracies)
    for name, figure in sharp.drawn():
        write_picture(figure, out, name)
        count += 1
    tell_skipped(sharp.problems)
    print(f"Written to {out}: {counted(count, 'picture')}, PNG, SVG and PDF")
    return 1 if problems or sharp.problems else 0
