"""What is shown while runs are trained: a bar over all and the figures of the present one; where
nobody watches a terminal, a line for each epoch."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.progress
import rich.text

from zsharp_jax.benchmark.training import interrupts
from zsharp_jax.benchmark.training.standing import Standing


class RunProgress:
    """A bar with what is trained and the time left; below it epoch, losses, accuracy and speed.

    Steps that need not be taken, since a checkpoint or a run file has them, are taken off the
    total: they would pass for speed.

    Args:
        batch_size: How many images a step takes.
        console: Where it is shown; standard error by default.
        lines: Whether a line for each epoch is printed; by default where standard output or
            `console` is no terminal, as with `> log`, in a batch system, and in CI.
    """

    def __init__(
        self,
        batch_size: int,
        console: rich.console.Console | None = None,
        lines: bool | None = None,
    ) -> None:
        self._batch_size = batch_size
        console = console or rich.console.Console(stderr=True)
        self._lines = prints_lines(console) if lines is None else lines
        self._bar = bar_above_figures(console)
        self._task = self._bar.add_task("", total=0, figures="")
        self._total = 0  # steps
        self._before = 0  # steps that were taken in the runs that are over
        self._skipped: int | None = None  # steps of the present run; None before its first report
        self._taken = 0  # of the present run
        self._at_once = 1  # runs

    def __enter__(self) -> "RunProgress":
        return self  # the bar starts with the first run that is not taken from its file

    def __exit__(self, *exception: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def expect(self, steps: int) -> None:
        """Says how many steps all runs take; those that are trained at once count as one."""
        self._total = steps
        self._update()

    def tell(self, description: str) -> None:
        """Says what is being done."""
        self._bar.start()
        self._bar.update(self._task, description=description, figures="", refresh=True)

    def begin_run(self, name: str, at_once: int = 1) -> None:
        """Says which run is trained, or how many at once."""
        self._at_once = at_once
        self.tell(name)

    def report(self, standing: Standing) -> None:
        """Shows how far the present run is; the place where a Ctrl-C takes effect at the latest."""
        interrupts.check()
        if self._skipped is None:
            self._skipped = standing.steps - 1
            self._total -= self._skipped
        self._taken = standing.steps - self._skipped
        speed = self._bar.tasks[self._task].speed  # steps per second
        images = self._batch_size * self._at_once
        self._update(figures=figures_of(standing, speed and speed * images))

    def tell_epoch(self, which: str, judged: str, last: Mapping[str, float]) -> None:
        """Prints what an epoch came to, where lines are printed.

        Args:
            which: The run and the epoch.
            judged: On which images the accuracy was found.
            last: What each curve came to.
        """
        if not self._lines:
            return
        line = (
            f"{which}: epoch mean of the clean loss {last['train_loss']:.4f}, sharp loss "
            f"{last['sharp_loss']:.4f}; {judged} acc. {last[f'{judged}_accuracy']:.2%}; "
            f"{last['seconds']:.1f} s"
        )
        try:
            print(line, flush=True)
        except BrokenPipeError:  # whoever read it has gone, as `head` does; the run goes on
            self._lines = False

    def finish_run(self, steps: int, errors: Sequence[str] = ()) -> None:
        """Counts a run of so many steps as done, or several that were trained at once, and says
        why those failed that did."""
        for error in errors:
            self._bar.console.print(f"failed: {error}", markup=False, highlight=False)
        self._total -= steps - (self._skipped or 0) - self._taken
        self._before += self._taken
        self._skipped, self._taken = None, 0
        self._update()

    def _update(self, **fields: Any) -> None:
        completed = self._before + self._taken
        self._bar.update(self._task, total=self._total, completed=completed, **fields)


def prints_lines(console: rich.console.Console) -> bool:
    """Whether nobody watches a bar, so that lines are printed."""
    return not (console.is_terminal and sys.stdout.isatty())


def bar_above_figures(console: rich.console.Console) -> rich.progress.Progress:
    """A bar with what is done and the time left, above the field `figures` of its task."""
    return _BarAboveFigures(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(compact=True),
        console=console,
    )


def figures_of(standing: Standing, images_per_second: float | None) -> str:
    """The line below the bar, of fewer than 80 columns; what is not known yet is left out."""
    figures = [
        f"epoch {standing.epoch}/{standing.epochs}",
        f"last batch: loss {standing.loss:.3f}",
        f"sharp {standing.sharp_loss:.3f}",
    ]
    if not math.isnan(standing.accuracy):
        figures.append(f"{standing.judged} {standing.accuracy:.1%}")
    if images_per_second:
        figures.append(f"{images_per_second:,.0f} images/s")
    return ", ".join(figures)


class _BarAboveFigures(rich.progress.Progress):
    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        yield from super().get_renderables()
        yield from (rich.text.Text(task.fields["figures"]) for task in self.tasks)
