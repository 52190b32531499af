"""The last weights of a run, in a file beside its run file: `weights/NAME.npz`.

NumPy alone can read it. It has an array for each tensor, named by its path, as
`params/Conv_0/kernel` or `batch_stats/BatchNorm_0/mean`. The run file has the sha256 of it, so that
weights of another training are not taken for those of the run.
"""

import hashlib
import io
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from zsharp_jax.benchmark.runs.fields import DamagedError
from zsharp_jax.benchmark.runs.files import write_whole

WEIGHTS = "weights"  # in the folder of the run files
SHA256 = "weights_sha256"  # in the run file


def weights_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the weights of a run lie.

    Args:
        folder: Where its run file lies, or the line of it in `runs.jsonl`.
        name: Of the run.
    """
    return folder / WEIGHTS / f"{name}.npz"


def write_weights(path: pathlib.Path, variables: Mapping[str, Any]) -> str:
    """Writes the weights of a run.

    Args:
        path: See `weights_path`.
        variables: `params`, and `batch_stats` of a network that has any: trees of NumPy arrays.

    Returns:
        The sha256 of the file, the same for the same weights.
    """
    content = io.BytesIO()
    np.savez(content, **dict(_tensors(variables)))
    path.parent.mkdir(exist_ok=True)
    write_whole(path, content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_weights(path: pathlib.Path, sha256: str) -> dict[str, Any]:
    """What `write_weights` was given.

    Raises:
        DamagedError: If the file is missing, damaged, or not the one with this sha256.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"its weights cannot be read: {error.strerror}: {path}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"its weights are damaged or those of another training: {path}")
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return _nested(dict(arrays))
    except (ValueError, zipfile.BadZipFile) as error:
        raise DamagedError(f"its weights cannot be read: {error}: {path}") from None


def _tensors(variables: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in variables.items():
        if isinstance(part, Mapping):
            yield from _tensors(part, f"{within}{name}/")
        else:
            yield f"{within}{name}", part


def _nested(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for path, tensor in tensors.items():
        *parents, name = path.split("/")
        place = variables
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = tensor
    return variables
