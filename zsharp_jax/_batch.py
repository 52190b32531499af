"""The inputs that hold a batch, taken apart: into groups side by side, or micro-batches in turn."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any  # of arrays

# The inputs that hold the batch, each leaf of shape (parts, examples in a part, ...), and what puts
# the share of one part back among all inputs of the loss function.
Parts = tuple[list[PyTree], Callable[[Sequence[PyTree]], list[PyTree]]]


def in_groups(
    inputs: Sequence[PyTree],
    argnums: Collection[int] | None,
    groups: int,
    params: PyTree,
    in_turn: bool = False,
) -> Parts:
    """Neighbours together, so that of a batch spread over as many devices each holds a group.

    Two exceptions: groups that are taken one after the other, and explicit axes that split both the
    batch and the parameters. There each device holds some examples of every group, because each
    group has perturbed parameters of its own.
    """
    taken = set().union(*map(_explicit_axes, jax.tree.leaves(params)))

    def blocks(leaf):
        onto = (1,) if in_turn or taken & _explicit_axes(leaf, 0) else (0, 1)
        return _split_first_axis(leaf, (groups, len(leaf) // groups), onto)

    return _taken_apart("groups", inputs, argnums, groups, blocks)


def in_microbatches(
    inputs: Sequence[PyTree],
    argnums: Collection[int] | None,
    microbatches: int,
    name: str = "microbatches",
) -> Parts:
    """Every so many-th example together, so that all devices that a batch is spread over have some
    of each part."""

    def strides(leaf):
        sizes = (len(leaf) // microbatches, microbatches)
        return jnp.swapaxes(_split_first_axis(leaf, sizes, onto=(0,)), 0, 1)

    return _taken_apart(name, inputs, argnums, microbatches, strides)


def every_kth(inputs: Sequence[PyTree], argnums: Collection[int] | None, k: int) -> list[PyTree]:
    """Every k-th example, which is the first of k micro-batches, and what holds no batch whole."""
    if k == 1:
        return list(inputs)
    stacks, joined = in_microbatches(inputs, argnums, k, "ascent_share")
    return joined(jax.tree.map(lambda stack: stack[0], stacks))


def positions_of_batch(inputs: Sequence[PyTree], argnums: Collection[int] | None) -> set[int]:
    """Which arguments of the loss function hold the batch; the parameters are argument 0."""
    positions = set(range(1, len(inputs) + 1))
    chosen = positions if argnums is None else set(argnums)
    if not chosen <= positions:
        raise ValueError(
            f"`batch_argnums` must name arguments of the loss function from 1 to {len(inputs)} "
            f"(0 are the parameters), got {sorted(chosen)}."
        )
    return chosen


def _taken_apart(
    name: str,
    inputs: Sequence[PyTree],
    argnums: Collection[int] | None,
    parts: int,
    split: Callable[[jax.Array], jax.Array],
) -> Parts:
    chosen = positions_of_batch(inputs, argnums)
    batch = [each for i, each in enumerate(inputs, 1) if i in chosen]
    _check_batch(name, batch, parts)

    def joined(part):
        own = iter(part)
        return [next(own) if i in chosen else each for i, each in enumerate(inputs, 1)]

    return jax.tree.map(lambda leaf: split(jnp.asarray(leaf)), batch), joined


def _split_first_axis(leaf: jax.Array, sizes: tuple[int, int], onto: Sequence[int]) -> jax.Array:
    """Splits the first axis into two of these sizes.

    What it was spread over goes to the first axis in `onto` whose size the number of devices
    divides. If there is none, each device gets the whole. Automatic axes go by themselves; explicit
    ones (JAX's default) have to be told.
    """
    shape = (*sizes, *leaf.shape[1:])
    if not _explicit_axes(leaf, 0):
        return leaf.reshape(shape)
    sharding = jax.typeof(leaf).sharding
    spread, *rest = sharding.spec
    shards = len(leaf) // sharding.shard_shape(leaf.shape)[0]
    fitting = [axis for axis in onto if sizes[axis] % shards == 0]
    over = [spread if axis in fitting[:1] else None for axis in (0, 1)]
    spec = jax.P(*over, *rest)
    return jnp.reshape(leaf, shape, out_sharding=jax.NamedSharding(sharding.mesh, spec))


def _explicit_axes(leaf: jax.Array, *axes: int) -> set[str]:
    """The explicit axes of a mesh that a leaf is spread over, along all of its axes or some."""
    spec = jax.typeof(leaf).sharding.spec
    names = [spec[axis] for axis in axes or range(len(spec))]
    each = [name if isinstance(name, tuple) else (name,) for name in names if name is not None]
    return set().union(*each)


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
