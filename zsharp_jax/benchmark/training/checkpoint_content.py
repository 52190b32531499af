"""What is in a checkpoint: arrays, what JSON tells beside them, and a digest of both."""

import hashlib
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Checkpoint(NamedTuple):
    """Where a run stands after a step.

    Attributes:
        carry: What the next step takes.
        progress: What has been found so far, as JSON can hold it.
        accuracy: On the images that the run is judged on after every epoch; None where they have
            not been evaluated after this step.
    """

    carry: Any
    progress: dict[str, Any]
    accuracy: float | None


class RefusedError(Exception):
    """What is wrong with a checkpoint: `is damaged`, or `is of another run`."""


def to_write(carry: Any, about: dict[str, Any]) -> Any:
    """What Orbax is to write; nothing of it changes when the run goes on.

    Args:
        carry: What the next step takes.
        about: All else, as JSON can hold it.
    """
    import orbax.checkpoint as ocp

    # Copies: the next step takes over the memory of the device's arrays, on a CPU the very memory
    # that NumPy sees.
    arrays = jax.tree.map(np.array, _without_keys(carry))
    return ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        about=ocp.args.JsonSave(about | {"digest": _digest(arrays, about)}),
    )


def read(manager: Any, step: int, name: str, like: Any) -> tuple[Any, dict[str, Any]]:
    """What `to_write` was given.

    Args:
        manager: Orbax's.
        step: Which checkpoint.
        name: Of the run.
        like: A carry of the run, for its structure.

    Raises:
        RefusedError: If it is damaged, or that of another run or step.
    """
    import orbax.checkpoint as ocp

    try:
        only_about = ocp.args.Composite(about=ocp.args.JsonRestore())
        about = dict(manager.restore(step, args=only_about).about)
        digest = about.pop("digest")
        is_ours = (about["name"], about["step"]) == (name, step)
        if is_ours:
            shapes = jax.tree.map(_shape_of, _without_keys(like))
            only_arrays = ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes))
            arrays = manager.restore(step, args=only_arrays).arrays
            if digest == _digest(arrays, about):
                return _with_keys(arrays, like), about
    except Exception:  # what Orbax raises differs with what is damaged
        is_ours = True
    raise RefusedError("is damaged" if is_ours else "is of another run")


def _digest(arrays: Any, about: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
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
