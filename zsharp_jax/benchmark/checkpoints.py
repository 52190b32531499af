"""Checkpoints of a run, from which it goes on to the same numbers as a run never broken off.

Orbax writes them, each whole or not at all. It does not notice a flipped bit, so a digest of all
that is in them is kept too, and what does not match is passed over for the checkpoint before it.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.settings import Settings

KEPT = 2


class Checkpoint(NamedTuple):
    """Where a run stands after an epoch.

    Attributes:
        carry: What the next step takes.
        progress: What has been found so far, as JSON can hold it.
    """

    carry: Any
    progress: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Those of one run, the newest two of which are kept.

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

    def is_due(self, epoch: int, is_last: bool) -> bool:
        """Whether one is written after `epoch` epochs."""
        return self.every is not None and (epoch % self.every == 0 or is_last)

    def save(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Writes the checkpoint after `epoch` epochs."""
        import orbax.checkpoint as ocp

        arrays = jax.tree.map(np.asarray, _without_keys(checkpoint.carry))
        about = {
            "settings": dataclasses.asdict(self.settings),
            "progress": checkpoint.progress,
            "digest": _digest(arrays, checkpoint.progress),
        }
        content = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)
        )
        with self._manager() as manager:
            manager.save(epoch, args=content)
            manager.wait_until_finished()

    def newest(self, like: Any) -> Checkpoint | None:
        """The newest checkpoint that is whole; None without any.

        Args:
            like: A carry of the run, for its structure.
        """
        if not (self.folder / self.name).is_dir():
            return None
        with self._manager() as manager:
            for epoch in sorted(manager.all_steps(), reverse=True):
                checkpoint = _read(manager, epoch, like)
                if checkpoint is not None:
                    return checkpoint
                message = f"checkpoint {epoch} of {self.name} is damaged and passed over"
                print(f"zsharp-bench: {message}", file=sys.stderr)
        return None

    @contextlib.contextmanager
    def _manager(self) -> Iterator[Any]:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        folder = (self.folder / self.name).absolute()
        with ocp.CheckpointManager(folder, options=options) as manager:
            yield manager

    def refuse_others(self) -> None:
        """Refuses to resume what is not there where there is a run of this method and seed with
        other settings, and tells the difference.

        Raises:
            RequestError: If there is.
        """
        if (self.folder / self.name).is_dir():
            return
        prefix, _, _ = self.name.rpartition("-")
        for other in sorted(self.folder.glob(f"{prefix}-*")):
            asked = dataclasses.asdict(self.settings)
            found = _settings_in(other)
            differences = [
                f"{name} was {found.get(name)!r} there and is {value!r} here"
                for name, value in asked.items()
                if found.get(name) != value
            ]
            raise RequestError(
                f"cannot resume {other.name}: {'; '.join(differences) or 'its data were others'}"
            )


def _read(manager: Any, epoch: int, like: Any) -> Checkpoint | None:
    import orbax.checkpoint as ocp

    shapes = jax.tree.map(_shape_of, _without_keys(like))
    content = ocp.args.Composite(
        arrays=ocp.args.StandardRestore(shapes), about=ocp.args.JsonRestore()
    )
    try:
        read = manager.restore(epoch, args=content)
    except Exception:  # what Orbax raises differs with what is damaged
        return None
    progress = read.about.get("progress")
    if read.about.get("digest") != _digest(read.arrays, progress):
        return None
    return Checkpoint(_with_keys(read.arrays, like), progress)


def _settings_in(run: pathlib.Path) -> dict[str, Any]:
    """The settings of a run that has checkpoints; empty where they cannot be read."""
    for path in sorted(run.glob("*/about/metadata")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return json.loads(path.read_text())["settings"]
    return {}


def _digest(arrays: Any, progress: Any) -> str:
    digest = hashlib.sha256(json.dumps(progress, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> Any:
    """The same tree with PRNG keys as plain integers."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _with_keys(tree: Any, like: Any) -> Any:
    def wrap(leaf: Any, like: Any) -> Any:
        return jax.random.wrap_key_data(leaf) if _is_key(like) else leaf

    return jax.tree.map(wrap, tree, like)


def _shape_of(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
