"""The bar that is shown while images are fetched and prepared."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


@contextlib.contextmanager
def bar(description: str, total: int, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Shows a bar on stderr within the block.

    Args:
        description: What is being done.
        total: Of how many.
        in_bytes: Whether they are bytes and not images.

    Yields:
        What to call with the number of those that are newly done.
    """
    columns = [rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn()]
    if in_bytes:
        columns += [rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn()]
    else:
        columns += [rich.progress.MofNCompleteColumn()]
    columns += [rich.progress.TimeRemainingColumn(compact=True)]
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console) as shown:
        task = shown.add_task(description, total=total)
        yield lambda count: shown.advance(task, count)
