"""Run files: one small JSON per run, from which every table and figure is made."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.outcome import Outcome
from zsharp_jax.benchmark.program import Program
from zsharp_jax.benchmark.settings import Settings

FORMAT = 1
_PACKAGES = ("zsharp-jax", "jax", "jaxlib", "optax", "flax", "numpy")

Record = dict[str, Any]


def make_record(
    settings: Settings,
    program: Program,
    outcome: Outcome,
    command: Sequence[str],
    data_sha256: str,
) -> Record:
    """All that is needed to read a result and to doubt it."""
    device = jax.devices()[0]
    return {
        "format": FORMAT,
        "name": settings.run_name(data_sha256),
        "status": outcome.status,
        "error": outcome.error,
        "command": list(command),
        "settings": settings.as_dict(),
        "data_sha256": data_sha256,
        "commit": _commit(),
        "steps": outcome.steps,
        "steps_per_epoch": program.steps_per_epoch,
        "final": outcome.final(program.steps_per_epoch),
        "curves": outcome.curves,
        "step_losses": outcome.step_losses,
        "compile_seconds": program.compile_seconds,
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "machine": platform.machine(),
            "cpu_cores": os.cpu_count(),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
    }


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that the package lies in; None where it lies in none."""

    def git(*arguments: str) -> str:
        command, folder = ["git", *arguments], pathlib.Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # or the checkout may be somebody else's
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def prepare_folder(folder: pathlib.Path, option: str = "--out") -> None:
    """Makes the folder of an option where it is missing, and makes sure that it can be written to.

    Raises:
        RequestError: If they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(f"cannot write to {option} {folder}: {error.strerror}") from None


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(content)
            file.close()
            # A temporary file is readable by its owner alone; a result is like any other file.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # an interrupt right behind the replacing
                os.unlink(file.name)
            raise


def write_record(folder: pathlib.Path, record: Record) -> None:
    """Writes a run file."""
    text = json.dumps(record, indent=1, allow_nan=False)
    write_whole(folder / f"{record['name']}.json", f"{text}\n".encode())


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


def short(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}" if value else "0"


TABLE_NOTE = (
    "Accuracy on all test images after the last epoch: mean ± sample std over seeds. "
    "Clean loss at w and sharp loss at w + ε: means over the steps of the last epoch, on augmented "
    "training images; for adamw both are the clean loss. ‖ε‖: mean L2 norm of the perturbation. "
    "s/epoch: median, without compilation and evaluation."
)


def markdown_table(records: Sequence[Record]) -> str:
    """The table of `zsharp-bench compare`, with what made it."""
    settings, device = records[0]["settings"], records[0]["device"]
    versions = records[0]["versions"]
    told = {
        name: value
        for name, value in settings.items()
        if name not in ("dataset", "model", "method", "seed") and value is not None
    }
    lines = [
        f"# {settings['dataset']}, {settings['model']}",
        "",
        f"`{shlex.join(records[0]['command'])}`",
        "",
        *markdown_lines(TABLE_HEADER, table_rows(records)),
        "",
        TABLE_NOTE,
        "",
        "Settings: " + ", ".join(f"{name} {value}" for name, value in told.items()) + ".",
        "",
        f"Device: {device['kind']} ({device['platform']}, {device['cpu_cores']} CPU cores); "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def markdown_lines(
    header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> list[str]:
    """The lines of a Markdown table whose first columns hold words, and the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
