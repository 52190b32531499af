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
from typing import Any

from zsharp_jax.benchmark import checkpoint_content
from zsharp_jax.benchmark.checkpoint_content import Checkpoint, RefusedError
from zsharp_jax.benchmark.checkpoint_errors import hush_echoes, told_in_a_line
from zsharp_jax.benchmark.settings import Settings

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
    """

    folder: pathlib.Path
    name: str
    settings: Settings
    every: int | None
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

    def newest(self, like: Any) -> Checkpoint | None:
        """The newest checkpoint that is whole, without its accuracy; None where there is none.

        Those that are newer and not whole are named.

        Args:
            like: A carry of the run, for its structure.
        """
        if not (self.folder / self.name).is_dir():
            return None
        manager, found, passed_over = self._opened(), None, False
        manager.wait_until_finished()
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                carry, about = checkpoint_content.read(manager, step, self.name, like)
            except RefusedError as error:
                _say(f"checkpoint {step} of {self.name} {error} and passed over")
                passed_over = True
            else:
                found = Checkpoint(carry, about["progress"], accuracy=None)
                self._stands_at, self._kept.best = step, about["best"]
                break
        if passed_over:
            _say(f"going on from checkpoint {self._stands_at}" if found else "beginning anew")
        return found

    def _opened(self) -> Any:
        import orbax.checkpoint as ocp

        if self._manager is None:
            hush_echoes()
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                cleanup_tmp_directories=True,
                lightweight_initialize=True,  # reads no file that may be damaged
            )
            folder = (self.folder / self.name).absolute()
            self._manager = self._open.enter_context(ocp.CheckpointManager(folder, options=options))
        return self._manager


def _say(message: str) -> None:
    print(f"zsharp-bench: {message}", file=sys.stderr, flush=True)
