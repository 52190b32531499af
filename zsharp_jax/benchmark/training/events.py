"""The curves of a run for TensorBoard, which shows them while it trains: a scalar per epoch."""

import importlib.util
import pathlib
import time
from typing import Any

from zsharp_jax.benchmark.errors import RequestError, to_install
from zsharp_jax.benchmark.runs.outcome import Outcome


def check_installed() -> None:
    """Refuses to go on without TensorBoard.

    Raises:
        RequestError: If it is missing.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise RequestError(f"--tensorboard needs TensorBoard: {to_install('tensorboard')}")


class EventFile:
    """The event file of one run: the values of each of `CURVES`, and `images_per_second`, at the
    number of the epoch, from 1 up.

    It holds a run from its first epoch on, so a run that is trained anew or goes on after it was
    broken off writes a new file, and what it had written before is removed.

    Args:
        folder: Of this run alone; None to write nothing.
        steps_per_epoch: How many steps a whole epoch has.
        batch_size: How many images a step takes.
    """

    def __init__(self, folder: pathlib.Path | None, steps_per_epoch: int, batch_size: int) -> None:
        self._folder = folder
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._writer: Any = None
        self._epochs = 0  # written

    def write(self, outcome: Outcome) -> None:
        """Writes the epochs that are new; they are in the file when it returns."""
        if self._folder is None:
            return
        if self._writer is None:
            self._writer = _begin(self._folder)
        images = self._steps_per_epoch * self._batch_size
        whole_seconds = outcome.whole_seconds(self._steps_per_epoch)
        curves = outcome.curves | {"images_per_second": [images / s for s in whole_seconds]}
        for epoch in range(self._epochs, len(whole_seconds)):
            values = {name: curve[epoch] for name, curve in curves.items()}
            self._writer.add_event(_event(epoch + 1, values))
        self._epochs = len(whole_seconds)
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()


def _begin(folder: pathlib.Path) -> Any:
    """A writer of a new file in `folder`, from which the files of earlier ones are removed."""
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    earlier = list(folder.glob("events.out.tfevents.*"))
    writer = EventFileWriter(str(folder))
    for path in earlier:
        path.unlink()
    return writer


def _event(epoch: int, values: dict[str, float]) -> Any:
    # Protobuf makes the classes when they are imported, where pyright cannot see them.
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return Event(wall_time=time.time(), step=epoch, summary=Summary(value=scalars))
