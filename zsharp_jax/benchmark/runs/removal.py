"""Removes what is to be trained anew, so that nothing old is taken for it."""

import pathlib
import shutil
from collections.abc import Sequence

from zsharp_jax.benchmark.runs.lines import alone_in, drop_records
from zsharp_jax.benchmark.runs.packed import PACKED
from zsharp_jax.benchmark.runs.resumable import CHECKPOINTS
from zsharp_jax.benchmark.runs.weights import weights_path


def remove_runs(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Removes the files, lines, checkpoints and weights of runs, as far as there are any.

    Args:
        folder: Where they lie.
        names: Of the runs.
    """
    with alone_in(folder):
        drop_records(folder / PACKED, names)
    for name in names:
        (folder / f"{name}.json").unlink(missing_ok=True)
        weights_path(folder, name).unlink(missing_ok=True)
        if (checkpoints := folder / CHECKPOINTS / name).is_dir():
            shutil.rmtree(checkpoints)
