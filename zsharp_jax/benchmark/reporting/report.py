"""The report on a folder of runs: the paper's tables and one of the speed, as Markdown."""

from collections.abc import Sequence

from zsharp_jax.benchmark.reporting import tables
from zsharp_jax.benchmark.reporting.markdown import counted, escaped
from zsharp_jax.benchmark.reporting.rows import rows_of
from zsharp_jax.benchmark.reporting.speed import speed
from zsharp_jax.benchmark.runs.reading import Run


def markdown(runs: Sequence[Run], skipped: int, *, whole_tables: bool = False) -> str:
    """The report.

    Args:
        runs: What was read.
        skipped: How many files were not.
        whole_tables: Whether what the paper trained, and we did not, has rows too.
    """
    rows, repeated = rows_of(runs)
    lines = [f"# {_title(runs)}", "", _summary(runs, skipped), ""]
    if rows:
        lines += [*tables.table_1(rows, whole_tables), *tables.table_2(rows, whole_tables)]
        lines += _listed("How to read the tables", tables.notes(rows))
        lines += speed(rows)
    lines += _listed("Runs that failed or were cut short, in no average", [
        f"{_name(run)}: {_end(run)}" for row in rows for run in row.others
    ])  # fmt: skip
    lines += _listed("Files left out, as they repeat a seed of the same row", map(_name, repeated))
    return "\n".join(lines)


def _title(runs: Sequence[Run]) -> str:
    names = [*sorted({run.dataset for run in runs}), *sorted({run.model for run in runs})]
    return f"Results: {escaped(', '.join(names))}" if names else "Results"


def _summary(runs: Sequence[Run], skipped: int) -> str:
    parts = [f"Made from {counted(len(runs), 'run file')}"]
    if skipped:
        parts.append(f"{counted(skipped, 'damaged or repeated record')} skipped")
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
