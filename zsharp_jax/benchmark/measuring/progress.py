"""What is shown while runs are measured: the bar of training; where nobody watches a terminal, a
line for each run."""

import time

import rich.console

from zsharp_jax.benchmark.training import interrupts
from zsharp_jax.benchmark.training.progress import bar_above_figures, prints_lines


class MeasuringProgress:
    """A bar over all parts of all runs; below it the part that is under way.

    Args:
        runs: How many runs there are.
        parts: How many parts each has.
    """

    def __init__(self, runs: int, parts: int) -> None:
        console = rich.console.Console(stderr=True)
        self._lines = prints_lines(console)
        self._bar = bar_above_figures(console)
        self._task = self._bar.add_task("", total=runs * parts, figures="")
        self._runs, self._parts = runs, parts
        self._over, self._begun = 0, 0
        self._seconds: list[float] = []  # of each run

    def __enter__(self) -> "MeasuringProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, run: str) -> None:
        """Says which run is measured; the place where a lost Ctrl-C takes effect."""
        interrupts.check()
        self._begun = 0
        self._started = time.perf_counter()
        self._bar.update(self._task, description=run, figures="", refresh=True)

    def tell(self, part: str) -> None:
        """Says which part of a run begins."""
        interrupts.check()
        done = self._parts * self._over + self._begun
        self._bar.update(self._task, completed=done, figures=part, refresh=True)
        self._begun += 1

    def finish(self, line: str) -> None:
        """Counts a run as done; `line` is printed where lines are.

        After the first one it says how long the others will take.
        """
        self._over += 1
        self._seconds.append(time.perf_counter() - self._started)
        self._bar.update(self._task, completed=self._parts * self._over, figures="", refresh=True)
        if self._lines:
            print(f"{line}; {self._seconds[-1]:.1f} s", flush=True)
        left = self._runs - self._over
        if left and self._over <= 2:  # the first one compiles, the second is what the others take
            self._bar.console.print(
                f"{left} more: about {duration(left * self._seconds[-1])}"
                + (", less what was compiled" if self._over == 1 else ""),
                markup=False,
                highlight=False,
            )


def duration(seconds: float) -> str:
    """A time as one says it.

    Example:
        >>> [duration(seconds) for seconds in (7.2, 100, 4000)]
        ['7 s', '1 min 40 s', '1 h 6 min']
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
