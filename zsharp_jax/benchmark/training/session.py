"""Several runs in a row as a user sees them: a progress bar, and a run file each."""

import itertools
import math
import shlex
from collections.abc import Callable, Iterator, Sequence

import jax

from zsharp_jax.benchmark.datasets.images import load
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.fields import Record
from zsharp_jax.benchmark.runs.files import prepare_folder, refuse_existing
from zsharp_jax.benchmark.runs.packed import PACKED, pack, packed_records
from zsharp_jax.benchmark.runs.removal import remove_runs
from zsharp_jax.benchmark.runs.resumable import (
    CHECKPOINTS,
    refuse_other_plans,
    refuse_other_settings,
)
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.runs.weights import weights_path
from zsharp_jax.benchmark.training import interrupts
from zsharp_jax.benchmark.training.budget import Budget
from zsharp_jax.benchmark.training.images import RunImages
from zsharp_jax.benchmark.training.program import compile_program
from zsharp_jax.benchmark.training.programs import Programs, program_key
from zsharp_jax.benchmark.training.progress import RunProgress
from zsharp_jax.benchmark.training.trainer import Request, Trainer


def run(runs: Sequence[Settings], request: Request) -> list[Record]:
    """Trains all runs, and writes the file of each as soon as it is over.

    Args:
        runs: Of one dataset, as many of its images, and one batch size. Those that differ in seed
            and rho alone are compiled once, and trained at once only where they are next to each
            other. Those of a seed are best next to each other where their images are drawn.
        request: How.

    Returns:
        What the files hold, in the order of the runs.

    Raises:
        RequestError: If the request cannot be met.
        OutputError: If a checkpoint cannot be written.
        Terminated: After a SIGTERM or Ctrl-C, and when the budget is over, with how to go on and
            the records of the runs that had ended; these are kept, and so is where the present one
            stands, whose file says that it is interrupted. Of runs that were trained at once
            nothing is kept.
    """
    budget = Budget(request.budget)
    prepare_folder(request.folder)
    if request.tensorboard is not None:
        prepare_folder(request.tensorboard, "--tensorboard")
    _check_device()
    images = RunImages(load(runs[0].dataset, request.origin), request.at_once)
    steps_per_epoch = _checked_steps_per_epoch(runs[0], len(images.of(runs[0]).train_images))
    data_sha256 = images.sha256(runs[0])
    if request.one_plan:
        refuse_other_plans(request.folder, runs[0])
    if request.resume:
        refuse_other_settings(request.folder, runs, data_sha256)
    elif not request.overwrite:
        _refuse_existing(runs, request, data_sha256)
    else:  # all at once: a command that is cut off goes on with `--resume`
        remove_runs(request.folder, [settings.run_name(data_sha256) for settings in runs])

    with (
        interrupts.termination_noted(),
        RunProgress(runs[0].batch_size) as progress,
        Programs(compile_program, images, progress.tell) as programs,
    ):
        trainer = Trainer(request, data_sha256, programs, progress, budget)
        found = trainer.finished(runs)
        if found:
            budget.hold()
        left = [settings for settings in runs if settings not in found]
        groups = list(_groups(left, request.at_once, trainer.goes_on))
        programs.begin(groups)
        progress.expect(sum(group[0].planned_steps(steps_per_epoch) for group in groups))
        try:
            for group in groups:
                found |= trainer.finished(group)  # another process may have trained some
                if left := [settings for settings in group if settings not in found]:
                    found |= trainer.trained(left)
                    budget.hold()
                errors = [error for settings in group if (error := found[settings]["error"])]
                progress.finish_run(group[0].planned_steps(steps_per_epoch), errors)
        except interrupts.Terminated as stop:
            records = [found[settings] for settings in runs if settings in found]
            again = [w for w in request.command if w not in ("--resume", "--overwrite")]
            raise interrupts.Terminated(
                f"stopped at {stop}; {len(records)} of {len(runs)} runs had ended; "
                f"to go on: {shlex.join([*again, '--resume'])}",
                records=records,
            ) from None
    records = [found[settings] for settings in runs]
    if request.tables:
        pack(request.folder, [record["name"] for record in records])
    return records


def _groups(
    runs: Sequence[Settings], at_once: int, goes_on: Callable[[Settings], bool]
) -> Iterator[list[Settings]]:
    """The runs that are trained at once: of one program, and of nearly one number, so that there
    are few programs. A run that goes on from a checkpoint is alone."""
    for _, of_one_program in itertools.groupby(runs, program_key):
        alike = []
        for settings in of_one_program:
            if at_once > 1 and not goes_on(settings):
                alike.append(settings)
            else:
                yield [settings]
        if alike:
            size = math.ceil(len(alike) / math.ceil(len(alike) / at_once))
            for first in range(0, len(alike), size):
                yield alike[first : first + size]


def _refuse_existing(runs: Sequence[Settings], request: Request, data_sha256: str) -> None:
    paths = [request.folder / name for name in request.tables]
    packed = {name for name, _ in packed_records(request.folder)}
    for settings in runs:
        name = settings.run_name(data_sha256)
        paths += [request.folder / PACKED] if name in packed else []
        paths += [request.folder / f"{name}.json", request.folder / CHECKPOINTS / name]
        paths.append(weights_path(request.folder, name))
        if request.tensorboard is not None:
            paths.append(request.tensorboard / name)
    refuse_existing(
        paths,
        "--resume goes on from it, --overwrite trains anew, --out FOLDER writes elsewhere",
    )


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
