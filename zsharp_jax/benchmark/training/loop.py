"""The loop of a training run, or of several that are trained at once.

It calls the compiled step, which may take many at once, and stays two calls ahead of the device, so
that neither waits for the other while every loss is still looked at.
"""

import collections
import math
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from zsharp_jax import SamInfo
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.outcome import Outcome
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training import interrupts
from zsharp_jax.benchmark.training.checkpoints import Checkpoint, Checkpoints
from zsharp_jax.benchmark.training.one_run import Carry
from zsharp_jax.benchmark.training.program import Program
from zsharp_jax.benchmark.training.standing import TOLD, Finding, Report

_CALLS_AHEAD = 2


class _NoneLeftError(Exception):
    """Every run has failed."""


def train(
    program: Program,
    settings: Settings,
    report: Report,
    checkpoints: Checkpoints | None = None,
    *,
    resume: bool = False,
    tell_epoch: Callable[[Outcome], None] | None = None,
    keep: Callable[[Carry], None] | None = None,
) -> Outcome:
    """Trains one seed.

    Args:
        program: What `compile_program` made of these settings, whatever their seed and rho.
        settings: What to train.
        report: Called after every step and every evaluation.
        checkpoints: Where to keep checkpoints; None for nowhere.
        resume: Whether to go on from the newest of them, if there is one.
        tell_epoch: Called after every epoch with what has been found so far.
        keep: Called at the end of a run that finishes, with where it stands.

    Returns:
        What was found. A run that tells of a loss or a norm that is not finite stops there and
        keeps what it had.

    Raises:
        Terminated: After a SIGTERM or Ctrl-C, with what was found; a checkpoint, due or not, then
            has where the run stands.
        OutputError: If a checkpoint cannot be written.
    """
    training = _Training(program, [settings], report)
    if checkpoints and resume and (kept := checkpoints.newest(training.carry, training.total)):
        training.go_on_from(kept)
    (finding,) = training.findings
    outcome = finding.outcome

    def after_epoch():
        if tell_epoch:
            tell_epoch(outcome)
        is_last = outcome.steps == training.total
        if checkpoints and checkpoints.is_due(outcome.epochs, is_last):
            checkpoints.save(outcome.steps, training.checkpoint())

    try:
        training.finish(after_epoch)
    except interrupts.Terminated:
        if checkpoints and training.has_moved:
            checkpoints.save(outcome.steps, training.checkpoint())
        where = f"{_name(settings, has_rho=False)}: "
        where += f"after {outcome.steps} of {training.total} steps"
        raise interrupts.Terminated(where, finding.ended("interrupted")) from None
    if keep and not finding.error:
        keep(training.carry)
    return finding.ended("finished")


def train_at_once(
    program: Program,
    runs: Sequence[Settings],
    report: Report,
    *,
    tell_epoch: Callable[[Sequence[Outcome]], None] | None = None,
    keep: Callable[[int, Carry], None] | None = None,
) -> list[Outcome]:
    """Trains several runs that differ in seed and rho alone; one that fails stops none of the rest.

    Args:
        program: What `compile_program` made of their settings for as many runs at once.
        runs: What to train.
        report: Called after every step and every evaluation with where the first run stands that
            has not failed.
        tell_epoch: Called after every epoch with what has been found so far.
        keep: Called at the end for each run that finishes, with its place in `runs` and its carry.

    Returns:
        What was found, in the order of the runs. The seconds of an epoch are each run's share: the
        time of all divided by how many there are.

    Raises:
        Terminated: After a SIGTERM or Ctrl-C. Nothing is kept of the runs then.
    """
    training = _Training(program, runs, report)

    def after_epoch():
        if tell_epoch:
            tell_epoch([finding.outcome for finding in training.findings])

    try:
        training.finish(after_epoch)
    except interrupts.Terminated:
        where = f"{runs[0].method}, {len(runs)} runs at once: after {training.steps} of "
        where += f"{training.total} steps, which are lost"
        raise interrupts.Terminated(where) from None
    for number, finding in enumerate(training.findings):
        if keep and not finding.error:
            keep(number, _one_of(training.carry, jax.device_put(np.int32(number))))
    return [finding.ended("finished") for finding in training.findings]


@jax.jit
def _one_of(carry: Carry, number: jax.Array) -> Carry:
    return jax.tree.map(lambda leaf: leaf[number], carry)


class _Training:
    """Runs under way.

    Attributes:
        total: How many steps each takes in all.
        epochs: How many epochs these are, the last of which may be cut short.
        carry: What the next step takes.
        findings: What each has found.
        has_moved: Whether they stand elsewhere than at their newest checkpoint.
    """

    def __init__(self, program: Program, runs: Sequence[Settings], report: Report) -> None:
        self._program, self._tell = program, report
        self._key, self._rho = _keys_and_rhos(runs, program.at_once)
        self._seconds = 0.0  # that the steps of this epoch took
        self.total = runs[0].planned_steps(program.steps_per_epoch)
        self.epochs = math.ceil(self.total / program.steps_per_epoch)
        self.carry = program.start(self._key)
        self.findings = [
            Finding(_name(settings, len(runs) > 1), program.data.judged) for settings in runs
        ]
        self.has_moved = False

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return max(finding.outcome.steps for finding in self.findings)

    def finish(self, after_epoch: Callable[[], None]) -> None:
        """Takes the epochs that are left, and looks at the test images; or ends before, when every
        run has failed."""
        try:
            for epoch in range(self.findings[0].outcome.epochs, self.epochs):
                self._finish_epoch(epoch)
                after_epoch()
            self._test_once()
        except _NoneLeftError:
            pass

    def checkpoint(self) -> Checkpoint:
        """Where the one run stands, be it within an epoch."""
        self.has_moved = False
        (finding,) = self.findings
        outcome = finding.outcome
        is_evaluated = outcome.steps <= self._program.steps_per_epoch * outcome.epochs
        curves = {name: list(curve) for name, curve in outcome.curves.items()}
        progress = {"told": list(finding.told), "curves": curves, "seconds": self._seconds}
        return Checkpoint(self.carry, progress, finding.accuracy if is_evaluated else None)

    def go_on_from(self, kept: Checkpoint) -> None:
        """Takes over where the one run stood.

        Raises:
            RequestError: If that is within what is one call here.
        """
        at_once, taken = self._program.steps_at_once, len(kept.progress["told"])
        if taken % self._program.steps_per_epoch % at_once:
            raise RequestError(
                f"cannot resume after {taken} steps, within an epoch, where a call takes "
                f"{at_once}: it took another number there, as on a CPU or with other --steps; "
                "--overwrite trains anew, and another --out keeps what there is"
            )
        (finding,) = self.findings
        outcome = finding.outcome
        self.carry = kept.carry
        finding.told, self._seconds = kept.progress["told"], kept.progress["seconds"]
        outcome.steps, outcome.curves = taken, kept.progress["curves"]
        if taken < min(self.total, self._program.steps_per_epoch * outcome.epochs):
            # A run that was to end within this epoch closed it; here it has more steps to take.
            last = {name: curve.pop() for name, curve in outcome.curves.items()}
            self._seconds = last["seconds"]
        finding.accuracy = (outcome.curves[f"{outcome.judged}_accuracy"] or [math.nan])[-1]

    def _finish_epoch(self, epoch: int) -> None:
        """Takes the steps that the epoch lacks, and evaluates."""
        size = self._program.steps_per_epoch
        first, end = size * epoch, min(size * (epoch + 1), self.total)
        self._take_steps(epoch, end)
        share = self._seconds / len(self.findings)
        evaluated = self._evaluated(self._program.evaluate, self._program.data.judged)
        for finding, (loss, accuracy, _) in zip(self.findings, evaluated, strict=True):
            if not finding.error:
                finding.end_epoch(first, loss, accuracy, share)
        self._seconds, self.has_moved = 0.0, True
        self._report()

    def _test_once(self) -> None:
        """Looks at the test images, where they are not what runs are judged on."""
        if self._program.test is not None:
            images = self._program.data.size("test")
            evaluated = self._evaluated(self._program.test, "test")
            for finding, (loss, accuracy, gaps) in zip(self.findings, evaluated, strict=True):
                if not finding.error:
                    finding.end_run(loss, accuracy, gaps, images)

    def _take_steps(self, epoch: int, end: int) -> None:
        program = self._program
        order = program.draw_order(self._key, jax.device_put(np.int32(epoch)))
        under_way = collections.deque()
        started = time.perf_counter()
        for _ in range(self.steps, end, program.steps_at_once):
            if interrupts.is_terminated():
                break
            self.carry, info = program.step(self.carry, program.data, self._key, order, self._rho)
            self.has_moved = True
            under_way.append(info)
            if len(under_way) > _CALLS_AHEAD:
                self._settle(under_way.popleft())
        while under_way:
            self._settle(under_way.popleft())
        self._seconds += time.perf_counter() - started
        interrupts.check_termination()

    def _settle(self, info: SamInfo) -> None:
        """Waits for a call, and takes in what each of its steps tells of each run."""
        told = np.array(jax.device_get(info[: len(TOLD)]), float)
        for of_step in told.reshape(len(TOLD), len(self.findings), -1).transpose(2, 1, 0).tolist():
            for finding, values in zip(self.findings, of_step, strict=True):
                if not finding.error:
                    finding.take_step(tuple(values))
            self._report()

    def _report(self) -> None:
        """Tells where the first run stands that has not failed."""
        left = next((finding for finding in self.findings if not finding.error), None)
        if left is None:
            raise _NoneLeftError
        self._tell(left.standing(self._program.steps_per_epoch, self.epochs))

    def _evaluated(
        self, evaluate: Callable[..., tuple], split: str
    ) -> list[tuple[float, float, list[float]]]:
        """Of each run mean loss and accuracy over all images of a split, and what else `evaluate`
        sums up."""
        data, sums = self._program.data, []
        size = data.size(split)
        for first_row in range(0, size, self._program.images_at_once):
            interrupts.check_termination()
            row = jax.device_put(np.int32(first_row))
            sums.append(evaluate(self.carry, data, row))
        totals = (sum(parts) for parts in zip(*jax.device_get(sums), strict=True))
        right, loss, *gaps = (np.reshape(each, (len(self.findings), -1)) for each in totals)
        others = gaps[0] if gaps else np.empty((len(self.findings), 0))
        return [
            (float(loss[run, 0]) / size, float(right[run, 0]) / size, others[run].tolist())
            for run in range(len(self.findings))
        ]


def _name(settings: Settings, has_rho: bool) -> str:
    rho = f", rho {settings.rho:g}" if has_rho else ""
    return f"{settings.method}{rho}, seed {settings.seed}"


_key_of = jax.jit(jax.random.key, static_argnums=0)
_keys_of = jax.jit(jax.vmap(jax.random.key))


def _keys_and_rhos(runs: Sequence[Settings], at_once: int | None) -> tuple[jax.Array, jax.Array]:
    if at_once is None:
        return _key_of(runs[0].seed), jax.device_put(np.float32(runs[0].rho))
    seeds = jax.device_put(np.array([settings.seed for settings in runs], np.uint32))
    rhos = jax.device_put(np.array([settings.rho for settings in runs], np.float32))
    return _keys_of(seeds), rhos
