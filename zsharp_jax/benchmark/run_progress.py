"""What is shown while runs are trained: a bar over all, and the figures of the present one."""

import math
from collections.abc import Iterator

import rich.console
import rich.progress
import rich.text

from zsharp_jax.benchmark import interrupts
from zsharp_jax.benchmark.train import Standing


class RunProgress:
    """A bar with what is trained and the time left; below it epoch, losses, accuracy and speed.

    Args:
        total: How many steps all runs take.
        batch_size: How many images a step takes.
        console: Where it is shown; standard error by default.
    """

    def __init__(
        self, total: int, batch_size: int, console: rich.console.Console | None = None
    ) -> None:
        self._batch_size = batch_size
        self._bar = _BarAboveFigures(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeRemainingColumn(compact=True),
            console=console or rich.console.Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, figures="")
        self._before = 0  # steps of the runs that are over

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def tell(self, description: str) -> None:
        """Says what is being done."""
        self._bar.update(self._task, description=description, figures="", refresh=True)

    def report(self, standing: Standing) -> None:
        """Shows how far the present run is; the place where a Ctrl-C takes effect at the latest."""
        interrupts.check()
        speed = self._bar.tasks[self._task].speed  # steps per second
        figures = figures_of(standing, speed and speed * self._batch_size)
        self._bar.update(self._task, completed=self._before + standing.steps, figures=figures)

    def finish_run(self, steps: int, error: str | None) -> None:
        """Counts a run as done, although it may have stopped early, and says why it did."""
        if error:
            self._bar.console.print(f"failed: {error}", markup=False, highlight=False)
        self._before += steps
        self._bar.update(self._task, completed=self._before)


def figures_of(standing: Standing, images_per_second: float | None) -> str:
    """The line below the bar, of fewer than 80 columns; what is not known yet is left out."""
    figures = [
        f"epoch {standing.epoch} of {standing.epochs}",
        f"loss {standing.loss:.3f}",
        f"sharp loss {standing.sharp_loss:.3f}",
    ]
    if not math.isnan(standing.test_accuracy):
        figures.append(f"test acc. {standing.test_accuracy:.1%}")
    if images_per_second:
        figures.append(f"{images_per_second:,.0f} images/s")
    return ", ".join(figures)


class _BarAboveFigures(rich.progress.Progress):
    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        yield from super().get_renderables()
        yield from (rich.text.Text(task.fields["figures"]) for task in self.tasks)
