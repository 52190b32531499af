"""Several runs in a row as a user sees them: a progress bar, run files, a table and a picture."""

import itertools
import math
import pathlib
from collections.abc import Sequence

import jax
import rich.box
import rich.console
import rich.progress
import rich.table

from zsharp_jax.benchmark import data, figures, interrupts, results
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.program import compile_program
from zsharp_jax.benchmark.results import Record
from zsharp_jax.benchmark.settings import Settings
from zsharp_jax.benchmark.train import planned_steps, train


def run(
    runs: Sequence[Sequence[Settings]],
    command: Sequence[str],
    origin: data.Origin,
    folder: pathlib.Path,
) -> list[Record]:
    """Trains all runs, and writes the file of each as soon as it is over.

    Args:
        runs: For each method its settings, which differ in their seed alone.
        command: The command that asked for it.
        origin: Where the dataset may come from.
        folder: Where to write.

    Returns:
        What the files hold, in the order of the runs.

    Raises:
        RequestError: If the request cannot be met.
    """
    results.prepare_folder(folder)
    _check_device()
    first = runs[0][0]
    dataset = data.load(first.dataset, origin)
    data_sha256 = dataset.sha256()
    steps_per_epoch = _checked_steps_per_epoch(first, len(dataset.train_images))
    total = sum(planned_steps(s, steps_per_epoch) for s in itertools.chain(*runs))

    records = []
    with _Progress(total) as progress:
        for seeds in runs:
            progress.tell(f"{seeds[0].method}: compiling")
            program = compile_program(seeds[0], dataset)
            for settings in seeds:
                progress.tell(f"{settings.method}, seed {settings.seed}")
                outcome = train(program, settings, progress.report)
                progress.finish_run(planned_steps(settings, steps_per_epoch), outcome.error)
                record = results.make_record(settings, program, outcome, command, data_sha256)
                results.write_record(folder, record)
                records.append(record)
    return records


def show_table(records: Sequence[Record]) -> None:
    """Prints a row per method, within 80 columns."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in results.TABLE_HEADER:
        heading = name.replace(" loss", "\nloss")
        table.add_column(heading, justify="left" if name == "method" else "right", no_wrap=True)
    for row in results.table_rows(records):
        table.add_row(*row)
    rich.console.Console().print(table)


def write_comparison(records: Sequence[Record], folder: pathlib.Path) -> None:
    """Writes `table.md` and `curves.png`."""
    results.write_whole(folder / "table.md", results.markdown_table(records).encode())
    results.write_whole(folder / "curves.png", figures.draw_curves(records))


def _checked_steps_per_epoch(settings: Settings, size: int) -> int:
    if settings.batch_size > size:
        raise RequestError(
            f"`batch_size` must be at most the {size} training images, got {settings.batch_size}"
        )
    return size // settings.batch_size


def _check_device() -> None:
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error) or "no device of the platform asked for"
        raise RequestError(f"JAX has no device to train on: {reason}") from None


class _Progress:
    """One bar over all runs: steps done, time left, what is trained, its loss and accuracy."""

    def __init__(self, total: int) -> None:
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeRemainingColumn(compact=True),
            rich.progress.TextColumn("{task.fields[figures]}"),
            console=rich.console.Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, figures="")
        self._before = 0  # steps of the runs that are over

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def tell(self, description: str) -> None:
        """Says what is being done."""
        self._bar.update(self._task, description=description, figures="", refresh=True)

    def report(self, steps: int, loss: float, accuracy: float) -> None:
        """Shows how far the present run is; the place where a Ctrl-C takes effect at the latest."""
        interrupts.check()
        figures = f"loss {loss:.3f}" + ("" if math.isnan(accuracy) else f" acc {accuracy:.1%}")
        self._bar.update(self._task, completed=self._before + steps, figures=figures)

    def finish_run(self, steps: int, error: str | None) -> None:
        """Counts a run as done, although it may have stopped early, and says why it did."""
        if error:
            self._bar.console.print(f"failed: {error}", markup=False, highlight=False)
        self._before += steps
        self._bar.update(self._task, completed=self._before)
