"""The inputs that hold a batch, taken apart: into groups side by side, or micro-batches in turn."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any  # of arrays

# The inputs that hold the batch, each leaf of shape (parts, examples in a part, ...), and what
# makes all inputs of the loss function of those of one part.
Parts = tuple[list[PyTree], Callable[[Sequence[PyTree]], list[PyTree]]]


def in_groups(inputs: Sequence[PyTree], argnums: Collection[int] | None, groups: int) -> Parts:
    """Neighbours together, so that of a batch spread over as many devices each holds a group."""

    def blocks(leaf):
        return leaf.reshape(groups, -1, *leaf.shape[1:])

    return _taken_apart("groups", inputs, argnums, groups, blocks)


def in_microbatches(
    inputs: Sequence[PyTree], argnums: Collection[int] | None, microbatches: int
) -> Parts:
    """Every so many-th example together, so that all devices that a batch is spread over have some
    of each part."""

    def strides(leaf):
        return optax.microbatching.reshape_batch_axis(leaf, len(leaf) // microbatches)

    return _taken_apart("microbatches", inputs, argnums, microbatches, strides)


def _taken_apart(
    name: str,
    inputs: Sequence[PyTree],
    argnums: Collection[int] | None,
    parts: int,
    split: Callable[[jax.Array], jax.Array],
) -> Parts:
    positions = range(1, len(inputs) + 1)  # the parameters are argument 0 of the loss function
    chosen = set(positions if argnums is None else argnums)
    if not chosen <= set(positions):
        raise ValueError(
            f"`batch_argnums` must name arguments of the loss function from 1 to {len(inputs)} "
            f"(0 are the parameters), got {sorted(chosen)}."
        )
    batch = [each for i, each in zip(positions, inputs, strict=True) if i in chosen]
    _check_batch(name, batch, parts)

    def joined(part):
        own = iter(part)
        return [next(own) if i in chosen else inputs[i - 1] for i in positions]

    return jax.tree.map(lambda leaf: split(jnp.asarray(leaf)), batch), joined


def _check_batch(name: str, batch: PyTree, parts: int) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if () in shapes or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"with `{name}` all inputs must hold the batch along their first axis, got shapes "
            f"{shapes}: name those that do in `batch_argnums`."
        )
    if shapes[0][0] % parts:
        raise ValueError(
            f"`{name}` must divide the batch, got {shapes[0][0]} examples (of a device and group, "
            f"where there are several) for {parts} equal parts."
        )
