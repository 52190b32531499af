"""Whether a tree is like another one, and where it first is not."""

from typing import Any

import jax
import numpy as np


def first_difference(found: Any, wanted: Any) -> str | None:
    """Says where `found` first differs from `wanted` in structure or shape, None where nowhere.

    It is written to follow "..., but": "at ['head']['bias'] it has shape (1, 3), not (3,)".
    """
    return _difference((), found, wanted)


def _difference(path: jax.tree_util.KeyPath, found: Any, wanted: Any) -> str | None:
    where = f"at {jax.tree_util.keystr(path)} it" if path else "it"
    if _is_leaf(found) and _is_leaf(wanted):
        same = np.shape(found) == np.shape(wanted)
        return None if same else f"{where} has shape {np.shape(found)}, not {np.shape(wanted)}"
    if _is_leaf(found) or type(found) is not type(wanted):
        return f"{where} is {_kind(found)}, not {_kind(wanted)}"

    found_children, wanted_children = _children(found), _children(wanted)
    missing = [key for key in wanted_children if key not in found_children]
    if missing:
        return f"it lacks {jax.tree_util.keystr((*path, missing[0]))}"
    unknown = [key for key in found_children if key not in wanted_children]
    if unknown:
        return f"it has {jax.tree_util.keystr((*path, unknown[0]))}, which is not there"

    each = (
        _difference((*path, key), found_children[key], child)
        for key, child in wanted_children.items()
    )
    return next(filter(None, each), None)


def _children(node: Any) -> dict[Any, Any]:
    one_level, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return {key: child for (key,), child in one_level}


def _is_leaf(node: Any) -> bool:
    return jax.tree_util.all_leaves([node])


def _kind(node: Any) -> str:
    if node is None:
        return "None"
    name = type(node).__name__
    return f"an array of shape {np.shape(node)}" if _is_leaf(node) else f"a `{name}`"
