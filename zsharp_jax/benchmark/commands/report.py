"""The command `zsharp-bench report`: the paper's tables and one of the speed, from run files."""

import argparse
import pathlib

from zsharp_jax.benchmark.commands.options import add_overwrite, tell_skipped
from zsharp_jax.benchmark.errors import RequestError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "report",
        help="make the paper's tables from run files",
        description="Makes the paper's tables 1 and 2, and one of the speed, as Markdown, from all "
        "run files in a folder. A damaged file is named and skipped, and the command then exits "
        "with 1.",
    )
    parser.add_argument(
        "folder",
        type=pathlib.Path,
        metavar="FOLDER",
        help="where run files lie (*.json, runs.jsonl)",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FILE",
        help="the Markdown file to write (default: print it)",
    )  # fmt: skip
    parser.add_argument(
        "--whole-tables", action="store_true",
        help="print all rows of the paper's tables, also those that no run belongs to (default: "
        "rows of networks, methods and quantiles that have runs)",
    )  # fmt: skip
    add_overwrite(parser)
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace, command: list[str]) -> int:
    from zsharp_jax.benchmark.reporting.markdown import counted
    from zsharp_jax.benchmark.reporting.report import markdown
    from zsharp_jax.benchmark.runs.files import prepare_folder, refuse_existing, write_whole
    from zsharp_jax.benchmark.runs.reading import read_folder

    del command
    if options.out is not None:
        if options.out.is_dir():
            raise RequestError(f"`out` must be a file, got the folder {options.out}")
        prepare_folder(options.out.parent)
        if not options.overwrite:
            refuse_existing([options.out], "--overwrite writes over it, --out FILE elsewhere")
    runs, problems = read_folder(options.folder)
    tell_skipped(problems)
    text = markdown(runs, len(problems), whole_tables=options.whole_tables)
    if options.out is None:
        print(text, end="")
    else:
        write_whole(options.out, text.encode())
        print(f"Written to {options.out}: a report on {counted(len(runs), 'run')}")
    return 1 if problems else 0
