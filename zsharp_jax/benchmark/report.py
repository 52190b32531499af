"""The command `zsharp-bench report`: the paper's tables and one of the speed, from run files."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from zsharp_jax.benchmark import results, tables
from zsharp_jax.benchmark.cells import escaped
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.rows import rows_of
from zsharp_jax.benchmark.runs import Run, read_folder
from zsharp_jax.benchmark.speed import speed


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
        "folder", type=pathlib.Path, metavar="FOLDER", help="where run files (*.json) lie"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FILE",
        help="the Markdown file to write (default: print it)",
    )  # fmt: skip
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace, command: list[str]) -> int:
    del command
    if options.out is not None:
        if options.out.is_dir():
            raise RequestError(f"`out` must be a file, got the folder {options.out}")
        results.prepare_folder(options.out.parent)
    runs, problems = read_folder(options.folder)
    tell_skipped(problems)
    text = markdown(runs, len(problems))
    if options.out is None:
        print(text, end="")
    else:
        results.write_whole(options.out, text.encode())
        print(f"Written to {options.out}: a report on {counted(len(runs), 'run')}")
    return 1 if problems else 0


def tell_skipped(problems: Sequence[str]) -> None:
    """Says in a line each which files were skipped, and why."""
    for problem in problems:
        visible = "".join(c if c.isprintable() else "?" for c in problem)
        print(f"zsharp-bench: skipped {visible}", file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" + "s" * (number != 1)


def markdown(runs: Sequence[Run], skipped: int) -> str:
    """The report.

    Args:
        runs: What was read.
        skipped: How many files were not.
    """
    rows, repeated = rows_of(runs)
    lines = ["# Results", "", _summary(runs, skipped), ""]
    if rows:
        lines += [*tables.table_1(rows), *tables.table_2(rows)]
        lines += _listed("How to read the tables", tables.NOTES)
        lines += speed(rows)
    lines += _listed("Runs that failed or were cut short, in no average", [
        f"{_name(run)}: {_end(run)}" for row in rows for run in row.others
    ])  # fmt: skip
    lines += _listed("Files left out, as they repeat a seed of the same row", map(_name, repeated))
    return "\n".join(lines)


def _summary(runs: Sequence[Run], skipped: int) -> str:
    parts = [f"Made from {counted(len(runs), 'run file')}"]
    if skipped:
        parts.append(f"{counted(skipped, 'damaged file')} skipped")
    for name in ("device", "JAX", "commit"):
        values = sorted({run.origin[name] for run in runs if name in run.origin})
        if values:
            parts.append(f"{name} {escaped(', '.join(values[:10]))}")
    return "; ".join(parts) + "."


def _listed(title: str, items) -> list[str]:
    items = [f"- {item}" for item in items]
    return [f"## {title}", "", *items, ""] if items else []


def _name(run: Run) -> str:
    return escaped(f"{run.path.name} ({run.method}, seed {run.seed})")


def _end(run: Run) -> str:
    status = "cut short" if run.status == "finished" else run.status
    error = f": {run.error}" if run.error else ""
    return escaped(f"{status} after {run.steps} of {run.planned_steps} steps{error}")
