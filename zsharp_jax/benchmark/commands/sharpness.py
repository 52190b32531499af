"""The command `zsharp-bench sharpness`: how sharp the solutions of finished runs are."""

import argparse
import pathlib

from zsharp_jax.benchmark.commands.options import add_origin_options, origin, tell_skipped


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "sharpness",
        help="measure how sharp the solutions of finished runs are",
        description="Measures every finished run that kept its weights (--keep-weights): extreme "
        "eigenvalues and trace of the Hessian, the worst and the average loss at the radii of SAM "
        "and of the authors' code, on training images (with the labels that the run trained with) "
        "and on test images, without augmentation and with BatchNorm in evaluation mode. Writes "
        "sharpness.jsonl beside the run files, a line per run. It goes on where it had stopped. "
        "Sharpness is not generalisation.",
    )
    parser.add_argument(
        "folder",
        type=pathlib.Path,
        metavar="RUNS",
        help="where run files lie (*.json, runs.jsonl), and weights/ beside them",
    )
    parser.add_argument(
        "--images", type=int, metavar="N",
        help="measure on the first N training images and the first N test images (default: 1024 "
        "of each, or all where there are fewer)",
    )  # fmt: skip
    add_origin_options(parser)
    parser.set_defaults(run=_sharpness)


def _sharpness(options: argparse.Namespace, command: list[str]) -> int:
    from zsharp_jax.benchmark.measuring import session
    from zsharp_jax.benchmark.reporting.markdown import counted
    from zsharp_jax.benchmark.runs.files import prepare_folder
    from zsharp_jax.benchmark.runs.reading import read_folder
    from zsharp_jax.benchmark.runs.sharpness import SHARPNESS

    del command
    runs, problems = read_folder(options.folder)
    found = session.with_weights(runs, options.folder)
    for folder in {run.path.parent for run in found}:
        prepare_folder(folder, "RUNS")
    count, more = session.measure(found, origin(options), options.images)
    tell_skipped([*problems, *more])
    before = len(found) - count - len(more)
    print(
        f"Written to {options.folder / SHARPNESS}: {counted(count, 'run')} measured, {before} had "
        "been before"
    )
    return 1 if problems or more else 0
