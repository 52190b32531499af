"""Checkpoints of a run, from which it goes on to the same numbers as a run never broken off.

Orbax writes them in the background, each whole or not at all. It does not notice a flipped bit, so
a digest of all that is in them is kept too, and what does not match is passed over for the
checkpoint before it.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training import checkpoint_content
from zsharp_jax.benchmark.training.checkpoint_content import Checkpoint, RefusedError
from zsharp_jax.benchmark.training.checkpoint_errors import hush_echoes, told_in_a_line

KEPT = 2  # besides the best


class _NewestAndBest:
    """Tells Orbax which checkpoints to keep."""

    def __init__(self) -> None:
        self.best: dict[str, Any] | None = None  # its step and its accuracy

    def note(self, step: int, accuracy: float | None) -> None:
        if accuracy is not None and (self.best is None or accuracy >= self.best["accuracy"]):
            self.best = {"step": step, "accuracy": accuracy}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]  # rising
        best = self.best["step"] if self.best else None
        return [step in steps[-KEPT:] or step == best for step in steps]


@dataclasses.dataclass
class Checkpoints:
    """Those of one run, the newest two of which are kept, and the one with the highest accuracy.

    Whoever saves one does so in a `with` block, which ends when it is written.

    Attributes:
        folder: Where those of all runs lie.
        name: The name of the run, which no run with other settings or data has.
        settings: Of the run.
        every: After how many epochs one is written; None for never.
        shorter: The names of runs that are the beginning of this one, in the order in which they
            are tried where it has no checkpoint of its own.
    """

    folder: pathlib.Path
    name: str
    settings: Settings
    every: int | None
    shorter: Sequence[str] = ()
    _manager: Any = dataclasses.field(default=None, init=False, repr=False)
    _open: contextlib.ExitStack = dataclasses.field(
        default_factory=contextlib.ExitStack, init=False, repr=False
    )
    _kept: _NewestAndBest = dataclasses.field(
        default_factory=_NewestAndBest, init=False, repr=False
    )
    _stands_at: int = dataclasses.field(default=0, init=False, repr=False)  # steps

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until all is written.

        Raises:
            OutputError: If it cannot be.
        """
        self._manager = None
        with told_in_a_line(self.folder / self.name):
            self._open.close()

    def is_due(self, epoch: int, is_last: bool) -> bool:
        """Whether one is written after `epoch` epochs."""
        return self.every is not None and (epoch % self.every == 0 or is_last)

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Begins to write the checkpoint after `step` steps; the one before it is then whole.

        Where the run has gone on from this very step nothing is written.

        Args:
            step: How many steps it has taken.
            checkpoint: Where it stands, with a progress that nobody changes any more.

        Raises:
            OutputError: If this one or the one before it cannot be written.
        """
        self._kept.note(step, checkpoint.accuracy)
        if step == self._stands_at:
            return
        about = {
            "name": self.name,
            "step": step,
            "settings": self.settings.as_dict(),
            "best": self._kept.best,
            "progress": checkpoint.progress,
        }
        content = checkpoint_content.to_write(checkpoint.carry, about)
        with told_in_a_line(self.folder / self.name):
            manager = self._opened()
            manager.wait_until_finished()
            # Those of a run that is now trained anew, or damaged and passed over: Orbax would
            # write nothing in their place.
            for other in manager.all_steps():
                if other > self._stands_at:
                    manager.delete(other)
            manager.save(step, args=content, force=True)
        self._stands_at = step

    def newest(self, like: Any, most_steps: int) -> Checkpoint | None:
        """The newest checkpoint that is whole, without its accuracy; None where there is none.

        Those that are newer and not whole are named.

        Args:
            like: A carry of the run, for its structure.
            most_steps: How many steps it may have taken.
        """
        for name in (self.name, *self.shorter):
            if not (self.folder / name).is_dir():
                continue
            if name == self.name:
                found = _newest_in(self._opened(), name, like, most_steps)
                if found:
                    self._stands_at, self._kept.best = found.step, found.best
            else:
                with _manager_of(self.folder / name, _AllKept()) as manager:
                    found = _newest_in(manager, name, like, most_steps)
                if found:
                    _say(f"going on from {name} after {found.step} steps")
            if found:
                return found.checkpoint
        return None

    def _opened(self) -> Any:
        if self._manager is None:
            manager = _manager_of(self.folder / self.name, self._kept)
            self._manager = self._open.enter_context(manager)
        return self._manager


class _Found(NamedTuple):
    """A checkpoint, the step it was kept after, and which one was the best until then."""

    checkpoint: Checkpoint
    step: int
    best: dict[str, Any] | None


class _AllKept:
    """Tells Orbax to delete nothing: the checkpoints are another run's."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        return [True] * len(checkpoints)


def _manager_of(folder: pathlib.Path, policy: Any) -> Any:
    import orbax.checkpoint as ocp

    hush_echoes()
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        cleanup_tmp_directories=True,
        lightweight_initialize=True,  # reads no file that may be damaged
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def _newest_in(manager: Any, name: str, like: Any, most_steps: int) -> _Found | None:
    found, passed_over = None, False
    manager.wait_until_finished()
    for step in sorted((s for s in manager.all_steps() if s <= most_steps), reverse=True):
        try:
            carry, about = checkpoint_content.read(manager, step, name, like)
        except RefusedError as error:
            _say(f"checkpoint {step} of {name} {error} and passed over")
            passed_over = True
        else:
            checkpoint = Checkpoint(carry, about["progress"], accuracy=None)
            found = _Found(checkpoint, step, about["best"])
            break
    if passed_over:
        _say(f"going on from checkpoint {found.step}" if found else "beginning anew")
    return found


def _say(message: str) -> None:
    print(f"zsharp-bench: {message}", file=sys.stderr, flush=True)
