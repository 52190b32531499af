"""How long training takes, as Markdown, from the run files of any devices."""

import statistics
from collections.abc import Iterable, Sequence

from zsharp_jax.benchmark.reporting.markdown import escaped, markdown_lines
from zsharp_jax.benchmark.reporting.rows import Row, told
from zsharp_jax.benchmark.runs.methods import METHODS
from zsharp_jax.benchmark.runs.reading import Run

_HEADER = (
    "dataset", "network", "method", "settings", "device", "JAX",
    "runs", "s/epoch", "images/s", "compile s",
)  # fmt: skip
_WORDS = 6  # columns to the left

# Whatever else runs are set to may change how long a step takes, and parts them.
_TAKE_NO_TIME = {
    "recipe", "optimizer", "learning_rate", "weight_decay", "decay_rate", "decay_epochs",
    "warmup_epochs", "rho", "quantile", "epochs", "steps", "data_sha256",
}  # fmt: skip

_NOTE = (
    "Mean ± sample std over runs. s/epoch: the median of a run's epochs, without compilation and "
    "evaluation (of sam_late and zsharp_late that is an epoch without a perturbation); images/s: "
    "training images in that time; compile s: what compiling took before the first step, once for "
    "all runs of a method. "
    "Runs that were trained at once (at_once) share the time that all of them took. Off a CPU, "
    "programs are compiled side by side, and while the first runs train."
)


def speed(rows: Iterable[Row]) -> list[str]:
    """The lines of a table of all runs that went to their end and tell their time."""
    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in (run for row in rows for run in row.whole if run.seconds_per_epoch > 0):
        alike.setdefault(_words(run), []).append(run)
    if not alike:
        return []
    fewer = {
        name: method.passes
        for name, method in METHODS.items()
        if method.perturbs and method.passes != 2 and any(words[2] == name for words in alike)
    }
    told_passes = ", ".join(f"{name} {passes}" for name, passes in fewer.items())
    passes = f" Passes a step of those with fewer: {told_passes}." if fewer else ""
    table = [(*words, *_figures(runs)) for words, runs in alike.items()]
    return ["## Speed", "", *markdown_lines(_HEADER, table, _WORDS), "", _NOTE + passes, ""]


def _words(run: Run) -> tuple[str, ...]:
    """What runs must have in common to share a row."""
    settings = {
        name: value for name, value in sorted(run.settings.items()) if name not in _TAKE_NO_TIME
    }
    if at_once := run.origin.get("at once"):
        settings["at_once"] = at_once
    if (precision := run.origin.get("precision", "default")) != "default":
        settings["matmul_precision"] = precision
    origin = (escaped(run.origin.get(name, "")) for name in ("device", "JAX"))
    return (run.dataset, run.model, run.method, told(settings), *origin)


def _figures(runs: Sequence[Run]) -> tuple[str, ...]:
    compiling = [run.compile_seconds for run in runs if run.compile_seconds > 0]
    return (
        str(len(runs)),
        _spread([run.seconds_per_epoch for run in runs], ".3f"),
        _spread([run.images_per_epoch / run.seconds_per_epoch for run in runs], ",.0f"),
        f"{statistics.fmean(compiling):.1f}" if compiling else "",
    )


def _spread(values: Sequence[float], digits: str) -> str:
    mean = f"{statistics.fmean(values):{digits}}"
    return f"{mean} ± {statistics.stdev(values):{digits}}" if len(values) > 1 else mean
