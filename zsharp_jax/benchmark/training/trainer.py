"""Makes the records of runs: trains them alone or at once, or takes them from their files."""

import contextlib
import dataclasses
import math
import pathlib
import statistics
import sys
from collections.abc import Sequence

import jax

from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.runs.fields import DamagedError, Record
from zsharp_jax.benchmark.runs.finished import finished_record
from zsharp_jax.benchmark.runs.outcome import Outcome
from zsharp_jax.benchmark.runs.records import make_record, write_record
from zsharp_jax.benchmark.runs.resumable import CHECKPOINTS, shorter_runs
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.runs.weights import SHA256, weights_path, write_weights
from zsharp_jax.benchmark.training import interrupts
from zsharp_jax.benchmark.training.budget import Budget
from zsharp_jax.benchmark.training.checkpoints import Checkpoints
from zsharp_jax.benchmark.training.events import EventFile
from zsharp_jax.benchmark.training.loop import train, train_at_once
from zsharp_jax.benchmark.training.one_run import Carry
from zsharp_jax.benchmark.training.program import Program
from zsharp_jax.benchmark.training.programs import Programs
from zsharp_jax.benchmark.training.progress import RunProgress


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
        overwrite: Whether runs that are there already are trained anew.
        keep_weights: Whether runs keep their last weights.
        tensorboard: Where the curves are written for TensorBoard; None for nowhere.
        tables: The names of the files that are made of all runs when they are over; where there
            are any, the files of finished runs are then packed into one.
        one_plan: Whether a folder that holds runs with other settings is refused.
        budget: For how many seconds runs are trained; None for as long as it takes.
        at_once: How many runs that differ in seed and rho alone are trained at once, at most.
    """

    command: Sequence[str]
    origin: Origin
    folder: pathlib.Path
    checkpoint_every: int | None = None
    resume: bool = False
    overwrite: bool = False
    keep_weights: bool = False
    tensorboard: pathlib.Path | None = None
    tables: Sequence[str] = ()
    one_plan: bool = False
    budget: float | None = None
    at_once: int = 1


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Makes the records of one group of runs after the other."""

    request: Request
    data_sha256: str
    programs: Programs
    progress: RunProgress
    budget: Budget

    def finished(self, runs: Sequence[Settings]) -> dict[Settings, Record]:
        """The records of those runs that are there already, where that is enough."""
        found = {}
        if self.request.resume:
            for settings in runs:
                if record := self._finished(settings):
                    with self._events(settings, record["steps_per_epoch"]) as events:
                        events.write(Outcome(steps=record["steps"], curves=record["curves"]))
                    found[settings] = record
        return found

    def goes_on(self, settings: Settings) -> bool:
        """Whether a run may go on from a checkpoint."""
        folder, name = self.request.folder, settings.run_name(self.data_sha256)
        kept = (folder / CHECKPOINTS / name).exists()
        return self.request.resume and (
            kept or bool(shorter_runs(folder, settings, self.data_sha256))
        )

    def trained(self, group: Sequence[Settings]) -> dict[Settings, Record]:
        """The records of runs that have one program, after they have been trained."""
        first = group[0]
        if interrupts.is_terminated():
            raise interrupts.Terminated(f"{first.method}, seed {first.seed}: not begun")
        program = self.programs.of(group)
        with interrupts.steps_under_way():
            if len(group) == 1:
                return {first: self._trained_alone(first, program)}
            return self._trained_at_once(group, program)

    def _trained_alone(self, settings: Settings, program: Program) -> Record:
        request = self.request
        name = f"{settings.method}, rho {settings.rho:g}, seed {settings.seed}"
        self.progress.begin_run(name)
        digests: list[str] = []  # of the weights
        with (
            self._events(settings, program.steps_per_epoch) as events,
            _checkpoints(settings, request, self.data_sha256) as checkpoints,
        ):

            def keep(carry: Carry) -> None:
                digests.append(self._keep(settings, carry))

            def tell_epoch(outcome: Outcome) -> None:
                events.write(outcome)
                self._tell_epoch(name, settings, program, [outcome])

            try:
                outcome = train(
                    program,
                    settings,
                    self.progress.report,
                    checkpoints,
                    resume=request.resume,
                    tell_epoch=tell_epoch,
                    keep=keep if request.keep_weights else None,
                )
            except interrupts.Terminated as stop:
                # A run that had finished is trained again for its weights, and stays finished.
                if stop.outcome is not None and not self._has_finished(settings):
                    self._write(settings, program, stop.outcome)
                raise
        return self._write(settings, program, outcome, *digests)

    def _trained_at_once(
        self, group: Sequence[Settings], program: Program
    ) -> dict[Settings, Record]:
        name = f"{group[0].method}, {len(group)} runs at once"
        self.progress.begin_run(name, len(group))
        digests = {}
        with contextlib.ExitStack() as opened:
            of_runs = [
                opened.enter_context(self._events(settings, program.steps_per_epoch))
                for settings in group
            ]

            def tell_epoch(outcomes: Sequence[Outcome]) -> None:
                for events, outcome in zip(of_runs, outcomes, strict=True):
                    events.write(outcome)
                self._tell_epoch(f"mean of {name}", group[0], program, outcomes)

            def keep(number: int, carry: Carry) -> None:
                digests[group[number]] = self._keep(group[number], carry)

            outcomes = train_at_once(
                program,
                group,
                self.progress.report,
                tell_epoch=tell_epoch,
                keep=keep if self.request.keep_weights else None,
            )
        return {
            settings: self._write(settings, program, outcome, digests.get(settings))
            for settings, outcome in zip(group, outcomes, strict=True)
        }

    def _tell_epoch(
        self, name: str, settings: Settings, program: Program, outcomes: Sequence[Outcome]
    ) -> None:
        """Tells means over the runs that have not failed, and the seconds of all runs."""
        steps = settings.planned_steps(program.steps_per_epoch)
        epochs = math.ceil(steps / program.steps_per_epoch)
        epoch = max(outcome.epochs for outcome in outcomes)
        last = [outcome.last() for outcome in outcomes if outcome.epochs == epoch]
        means = {curve: statistics.fmean(each[curve] for each in last) for curve in last[0]}
        means["seconds"] *= len(outcomes)
        self.progress.tell_epoch(f"{name}: epoch {epoch} of {epochs}", outcomes[0].judged, means)
        needed = epochs * means["seconds"] + program.compile_seconds
        if program.at_once is None:
            self.budget.check(name, needed, program.compile_seconds)
        elif epoch == min(2, epochs):  # the first epoch also has what is slow once
            self.budget.check_group(name, needed)

    def _keep(self, settings: Settings, carry: Carry) -> str:
        """Keeps the weights of a run; returns their digest."""
        variables = {"params": carry.state.params, "batch_stats": carry.batch_stats}
        return write_weights(self._weights(settings), jax.device_get(variables))

    def _write(
        self,
        settings: Settings,
        program: Program,
        outcome: Outcome,
        weights_sha256: str | None = None,
    ) -> Record:
        command = self.request.command
        record = make_record(
            settings,
            outcome,
            command,
            self.data_sha256,
            steps_per_epoch=program.steps_per_epoch,
            compile_seconds=program.compile_seconds,
        )
        if program.at_once:
            record["trained_at_once"] = program.at_once
        if weights_sha256:
            record[SHA256] = weights_sha256
        else:  # or those of an earlier training would lie beside it
            self._weights(settings).unlink(missing_ok=True)
        write_record(self.request.folder, record)
        return record

    def _weights(self, settings: Settings) -> pathlib.Path:
        return weights_path(self.request.folder, settings.run_name(self.data_sha256))

    def _events(self, settings: Settings, steps_per_epoch: int) -> contextlib.closing[EventFile]:
        folder = self.request.tensorboard
        if folder is not None:
            folder /= settings.run_name(self.data_sha256)
        return contextlib.closing(EventFile(folder, steps_per_epoch, settings.batch_size))

    def _has_finished(self, settings: Settings) -> bool:
        with contextlib.suppress(DamagedError):
            return finished_record(self.request.folder, settings, self.data_sha256) is not None
        return False

    def _finished(self, settings: Settings) -> Record | None:
        try:
            record = finished_record(self.request.folder, settings, self.data_sha256)
        except DamagedError as error:
            name = settings.run_name(self.data_sha256)
            print(f"zsharp-bench: skipped {name}.json: {error}", file=sys.stderr)
            return None
        lacks_weights = self.request.keep_weights and not (
            record and SHA256 in record and self._weights(settings).exists()
        )
        return None if lacks_weights else record


def _checkpoints(settings: Settings, request: Request, data_sha256: str) -> Checkpoints:
    name = settings.run_name(data_sha256)
    shorter = shorter_runs(request.folder, settings, data_sha256) if request.resume else ()
    folder = request.folder / CHECKPOINTS
    return Checkpoints(folder, name, settings, request.checkpoint_every, shorter)
