"""Several runs in a row as a user sees them: a progress bar, run files, a table and a picture."""

import contextlib
import dataclasses
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence

import jax
import rich.box
import rich.console
import rich.table

from zsharp_jax.benchmark import data, figures, interrupts, results
from zsharp_jax.benchmark.checkpoints import Checkpoints
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.events import EventFile
from zsharp_jax.benchmark.fields import DamagedError
from zsharp_jax.benchmark.finished import finished_record
from zsharp_jax.benchmark.outcome import Outcome
from zsharp_jax.benchmark.program import Program, compile_program
from zsharp_jax.benchmark.results import Record
from zsharp_jax.benchmark.resumable import CHECKPOINTS, refuse_other_settings
from zsharp_jax.benchmark.run_progress import RunProgress
from zsharp_jax.benchmark.settings import Settings
from zsharp_jax.benchmark.train import planned_steps, train


@dataclasses.dataclass(frozen=True)
class Request:
    """How runs are carried out, which does not change their numbers.

    Attributes:
        command: The command that asked for them.
        origin: Where the dataset may come from.
        folder: Where to write.
        checkpoint_every: After how many epochs a checkpoint is kept; None for never.
        resume: Whether runs that have finished are taken from their files, and one that was broken
            off goes on from its newest checkpoint.
        tensorboard: Where the curves are written for TensorBoard; None for nowhere.
    """

    command: Sequence[str]
    origin: data.Origin
    folder: pathlib.Path
    checkpoint_every: int | None = None
    resume: bool = False
    tensorboard: pathlib.Path | None = None


def run(runs: Sequence[Settings], request: Request) -> list[Record]:
    """Trains all runs, and writes the file of each as soon as it is over.

    Args:
        runs: Of one dataset, as many of its images, and one batch size. Those that differ in seed
            and rho alone are best next to each other: they are compiled once.
        request: How.

    Returns:
        What the files hold, in the order of the runs.

    Raises:
        RequestError: If the request cannot be met.
        OutputError: If a checkpoint cannot be written.
        Terminated: After a SIGTERM, with what there is and how to go on; runs that had finished
            are kept, and so is where the present one stands, whose file says that it is
            interrupted.
    """
    results.prepare_folder(request.folder)
    if request.tensorboard is not None:
        results.prepare_folder(request.tensorboard, "--tensorboard")
    _check_device()
    dataset = data.load(runs[0].dataset, request.origin).first(runs[0].train_images)
    steps_per_epoch = _checked_steps_per_epoch(runs[0], len(dataset.train_images))
    total = sum(planned_steps(settings, steps_per_epoch) for settings in runs)
    data_sha256 = dataset.sha256()
    if request.resume:
        refuse_other_settings(request.folder, runs, data_sha256)

    with interrupts.termination_noted(), RunProgress(total, runs[0].batch_size) as progress:

        @functools.lru_cache(maxsize=1)
        def compiled(settings: Settings) -> Program:
            progress.tell(f"{settings.method}: compiling")
            return compile_program(settings, dataset)

        trainer = _Trainer(request, data_sha256, compiled, progress)
        records = []
        try:
            for settings in runs:
                records.append(trainer.record_of(settings))
                progress.finish_run(planned_steps(settings, steps_per_epoch), records[-1]["error"])
        except interrupts.Terminated as stop:
            again = [word for word in request.command if word != "--resume"]
            raise interrupts.Terminated(
                f"stopped at {stop}; {len(records)} of {len(runs)} runs had ended; "
                f"to go on: {shlex.join([*again, '--resume'])}"
            ) from None
    return records


@dataclasses.dataclass(frozen=True)
class _Trainer:
    """Makes the record of one run after the other."""

    request: Request
    data_sha256: str
    compiled: Callable[[Settings], Program]
    progress: RunProgress

    def record_of(self, settings: Settings) -> Record:
        """The record of a run, trained unless it is there already and that is enough."""
        request = self.request
        if request.resume and (record := self._finished(settings)):
            with self._events(settings, record["steps_per_epoch"]) as events:
                events.write(Outcome(steps=record["steps"], curves=record["curves"]))
            return record
        if interrupts.is_terminated():
            raise interrupts.Terminated(f"{settings.method}, seed {settings.seed}: not begun")
        program = self.compiled(dataclasses.replace(settings, seed=0, rho=0.0))
        self.progress.tell(f"{settings.method}, rho {settings.rho:g}, seed {settings.seed}")
        with (
            self._events(settings, program.steps_per_epoch) as events,
            _checkpoints(settings, request, self.data_sha256) as checkpoints,
        ):
            try:
                outcome = train(
                    program,
                    settings,
                    self.progress.report,
                    checkpoints,
                    resume=request.resume,
                    tell_epoch=events.write,
                )
            except interrupts.Terminated as stop:
                if stop.outcome is not None:
                    self._write(settings, program, stop.outcome)
                raise
        return self._write(settings, program, outcome)

    def _write(self, settings: Settings, program: Program, outcome: Outcome) -> Record:
        command = self.request.command
        record = results.make_record(settings, program, outcome, command, self.data_sha256)
        results.write_record(self.request.folder, record)
        return record

    def _events(self, settings: Settings, steps_per_epoch: int) -> contextlib.closing[EventFile]:
        folder = self.request.tensorboard
        if folder is not None:
            folder /= settings.run_name(self.data_sha256)
        return contextlib.closing(EventFile(folder, steps_per_epoch, settings.batch_size))

    def _finished(self, settings: Settings) -> Record | None:
        try:
            return finished_record(self.request.folder, settings, self.data_sha256)
        except DamagedError as error:
            name = settings.run_name(self.data_sha256)
            print(f"zsharp-bench: skipped {name}.json: {error}", file=sys.stderr)
            return None


def _checkpoints(settings: Settings, request: Request, data_sha256: str) -> Checkpoints:
    name = settings.run_name(data_sha256)
    return Checkpoints(request.folder / CHECKPOINTS, name, settings, request.checkpoint_every)


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
