"""How long the runs of a command may take in all."""

import math
import time

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.training import interrupts


class Budget:
    """Time that begins to run when it is made; when it is over, runs end as after a SIGTERM.

    The first run is let through its first epoch, after which it is known how long a run takes.

    Args:
        seconds: How long; None for as long as it takes.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._ends_at = time.monotonic() + self._seconds
        self._holds = False

    def hold(self) -> None:
        """From now on it is kept to: a run has ended, or one fits."""
        self._holds = True
        interrupts.end_at(self._ends_at)

    def check(self, run: str, seconds: float, compile_seconds: float) -> None:
        """Refuses a budget that does not fit the first run.

        Args:
            run: What is trained.
            seconds: How long it takes, with the time to compile its program.
            compile_seconds: How much of that it takes to compile.

        Raises:
            RequestError: If it takes longer than the budget, with how long.
        """
        if not self._holds and seconds > self._seconds:
            raise RequestError(
                f"`budget` must fit a run at least, got {self._seconds:g} s: {run} takes about "
                f"{seconds:.1f} s, {compile_seconds:.1f} s of them to compile"
            )
        self.hold()

    def check_group(self, runs: str, seconds: float) -> None:
        """Refuses a budget that never fits these runs, which keep no checkpoints.

        Args:
            runs: What is trained at once.
            seconds: How long they take, with the time to compile their program.

        Raises:
            RequestError: If they take longer than the whole budget.
        """
        if seconds > self._seconds:
            raise RequestError(
                f"`budget` must fit all runs that are trained at once, got {self._seconds:g} s: "
                f"{runs}: about {seconds:.1f} s; give it more, or a smaller --at-once"
            )
        self.hold()
