"""Arguments that say something of every leaf: one value, a tree of values, or a function to one."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import KeyPath, keystr

from zsharp_jax._checks import is_integer


def counts_of_leaves(name: str, said: Any, tree: Any) -> Any:
    """For each leaf of `tree` an integer of at least 0, in a tree like it."""
    return jax.tree.map(int, _of_leaves(name, said, tree, "integers of at least 0", _is_count))


def bools_of_leaves(name: str, said: Any, tree: Any) -> Any:
    """For each leaf of `tree` True or False, in a tree like it."""
    return jax.tree.map(bool, _of_leaves(name, said, tree, "bools", _is_bool))


def check_bools(name: str, said: Any) -> None:
    """Refuses what can be wrong before the parameters are known, for a function nothing."""
    if not _is_function(said):
        _values_by_path(name, said, "bools", _is_bool)


def stacked_of_leaves(stacked: Any, tree: Any) -> Any:
    """For each leaf how many of its axes stack layers, in a tree like it."""
    # None is 0. (`optax.inject_hyperparams` makes arrays of numbers, defaults too.)
    counts = counts_of_leaves("stacked", 0 if stacked is None else stacked, tree)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), count in zip(leaves, jax.tree.leaves(counts), strict=True):
        if count > leaf.ndim:
            raise ValueError(
                f"`stacked` must be at most the number of axes of a leaf, got {count} for the leaf"
                f"{_at(path)} of shape {leaf.shape}. Say 0 for what is not stacked: give a tree, "
                "or a function from the parameters to one."
            )
    return counts


def chosen_leaves(filtered: Any, tree: Any, stacked: Any, min_ndim: int) -> Any:
    """Which leaves are filtered: those named, or those with `min_ndim` axes that stack nothing."""
    if filtered is not None:
        return bools_of_leaves("filtered", filtered, tree)
    return jax.tree.map(lambda leaf, count: leaf.ndim - count >= min_ndim, tree, stacked)


def _of_leaves(name: str, said: Any, tree: Any, kind: str, is_right: Callable[[Any], bool]) -> Any:
    """What is said of each leaf: by its own path, or by the path of a node that it is in."""
    if _is_function(said):
        said = said(tree)
    rule = _rule(name, kind)
    values = _values_by_path(name, said, kind, is_right)

    # A masked node has no leaves, whatever is said of it and of what was in it.
    is_empty = lambda node: not jax.tree.leaves(node)  # noqa: E731
    nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_empty)
    found, used = [], set()
    for path, node in nodes:
        named = [path[:end] for end in range(len(path) + 1) if path[:end] in values]
        used.update(named)
        if is_empty(node):
            used.update(known for known in values if known[: len(path)] == path)
        elif named:
            found.append(values[named[-1]])
        else:
            raise ValueError(
                f"{rule}. It says nothing of the leaf{_at(path)}: name every leaf, or a node that "
                "it is in."
            )
    if unknown := [path for path in values if path not in used]:
        raise ValueError(
            f"{rule}. It names {keystr(unknown[0])}, which the parameters do not have: take the "
            "names of `jax.tree_util.tree_leaves_with_path(params)`."
        )
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _is_function(said: Any) -> bool:
    return callable(said) and jax.tree_util.all_leaves([said])  # and no module, which is a tree


def _values_by_path(
    name: str, said: Any, kind: str, is_right: Callable[[Any], bool]
) -> dict[KeyPath, Any]:
    values = dict(jax.tree_util.tree_leaves_with_path(said))
    for path, value in values.items():
        if isinstance(value, jax.Array):
            raise ValueError(
                f"{_rule(name, kind)}, got an array{_at(path)}; `optax.inject_hyperparams` makes "
                f'arrays of numbers: name "{name}" in its `static_args`.'
            )
        if not is_right(value):
            raise ValueError(f"{_rule(name, kind)}, got {value!r}{_at(path)}.")
    return values


def _rule(name: str, kind: str) -> str:
    return (
        f"`{name}` must be one value, a tree of {kind} like the parameters or the top of one, or "
        "a function from the parameters to such a tree"
    )


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_count(value: Any) -> bool:
    return is_integer(value) and value >= 0


def _at(path: KeyPath) -> str:
    return f" at {keystr(path)}" if path else ""
