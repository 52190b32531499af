"""The table of `zsharp-bench compare`, on the terminal and in `table.md`, with a picture."""

import dataclasses
import pathlib
import shlex
import statistics
from collections.abc import Iterable, Sequence

import rich.box
import rich.console
import rich.table

from zsharp_jax.benchmark.reporting.figures import draw_curves, write_picture
from zsharp_jax.benchmark.reporting.markdown import markdown_lines, short
from zsharp_jax.benchmark.reporting.provenance import devices_told, settings_told, versions_told
from zsharp_jax.benchmark.runs.fields import Record
from zsharp_jax.benchmark.runs.files import write_whole


@dataclasses.dataclass(frozen=True)
class Summary:
    """The finished runs of one method, over its seeds.

    Attributes:
        method: Its name.
        seeds: How many runs have finished.
        failed: How many have not.
        means: The mean of each final figure; empty without a finished run.
        stds: Their sample standard deviations; empty with fewer than two.
    """

    method: str
    seeds: int
    failed: int
    means: dict[str, float]
    stds: dict[str, float]


def summaries(records: Iterable[Record]) -> list[Summary]:
    """One summary per method, in the order in which the methods first appear."""
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record["settings"]["method"], []).append(record)
    return [_summary(method, runs) for method, runs in by_method.items()]


def _summary(method: str, runs: list[Record]) -> Summary:
    finals = [run["final"] for run in runs if run["status"] == "finished"]
    columns = {name: [final[name] for final in finals] for name in (finals[0] if finals else ())}
    return Summary(
        method,
        seeds=len(finals),
        failed=len(runs) - len(finals),
        means={name: statistics.fmean(column) for name, column in columns.items()},
        stds={name: statistics.stdev(c) for name, c in columns.items() if len(c) > 1},
    )


TABLE_HEADER = ("method", "seeds", "test acc. %", "clean loss", "sharp loss", "‖ε‖", "s/epoch")


def table_rows(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """The cells under `TABLE_HEADER`; a method without a finished run has empty ones."""
    return [_table_row(summary) for summary in summaries(records)]


def _table_row(summary: Summary) -> tuple[str, ...]:
    seeds = str(summary.seeds)
    if summary.failed:
        seeds += f"/{summary.seeds + summary.failed}"  # 2/3: two of three have finished
    if not summary.seeds:
        return (summary.method, seeds, "", "", "", "", "")
    means, stds = summary.means, summary.stds
    accuracy = f"{100 * means['test_accuracy']:.2f}"
    if stds:
        accuracy += f" ± {100 * stds['test_accuracy']:.2f}"
    return (
        summary.method,
        seeds,
        accuracy,
        short(means["train_loss"]),
        short(means["sharp_loss"]),
        short(means["perturbation_norm"]),
        f"{means['seconds_per_epoch']:.2f}",
    )


TABLE_NOTE = (
    "Accuracy on all test images after the last epoch: mean ± sample std over seeds. "
    "Clean loss at w and sharp loss at w + ε: means over the steps of the last epoch, on augmented "
    "training images; for adamw both are the clean loss, "
    "for methods of one pass the sharp loss. ‖ε‖: mean L2 norm of the perturbation. "
    "s/epoch: median, without compilation and evaluation."
)


def markdown_table(records: Sequence[Record]) -> str:
    """The table of `zsharp-bench compare`, with what made it."""
    settings = records[0]["settings"]
    lines = [
        f"# {settings['dataset']}, {settings['model']}",
        "",
        f"`{shlex.join(records[0]['command'])}`",
        "",
        *markdown_lines(TABLE_HEADER, table_rows(records)),
        "",
        TABLE_NOTE,
        "",
        f"Settings: {settings_told(records)}.",
        "",
        f"Device: {devices_told(records)}; {versions_told(records)}.",
        "",
    ]
    return "\n".join(lines)


def show_table(records: Sequence[Record]) -> None:
    """Prints a row per method, within 80 columns."""
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="losses and ‖ε‖: mean over the last epoch",
        caption_justify="left",
    )
    for name in TABLE_HEADER:
        heading = name.replace(" loss", "\nloss")
        table.add_column(heading, justify="left" if name == "method" else "right", no_wrap=True)
    for row in table_rows(records):
        table.add_row(*row)
    rich.console.Console().print(table)


def write_comparison(records: Sequence[Record], folder: pathlib.Path) -> None:
    """Writes `table.md`, and `curves` in all kinds of pictures."""
    write_whole(folder / "table.md", markdown_table(records).encode(errors="backslashreplace"))
    write_picture(draw_curves(records), folder, "curves")
