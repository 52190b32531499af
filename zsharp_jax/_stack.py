"""Layers of one shape as one array, so that work grows with the shapes of a network rather than
with its number of layers."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any  # of arrays

STACKED_ENTRIES = 2**16  # a larger layer is worth passes of its own, and a copy of it is not free


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stacks:
    """Layers in stacks of one shape and dtype.

    What belongs to a layer is kept in arrays of shape (layers, ...), in the order of the stacks.

    Attributes:
        arrays: The stacks, each of shape (layers in it, *shape).
        members: For each stack, where its layers were in the list of all.
    """

    arrays: tuple[jax.Array, ...]
    members: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each layer."""
        return [array.size // len(array) for array in self.arrays for _ in range(len(array))]

    def reduce(self, function: Callable[..., jax.Array], *of_layers: PyTree) -> jax.Array:
        """`function(stack, *own)` of each stack, `own` being its part of what belongs to layers.

        It returns something of shape (layers in the stack, ...); all of it is put together, in the
        widest dtype.
        """
        results, start = [], 0
        for array in self.arrays:
            layers = slice(start, start + len(array))
            own = jax.tree.map(lambda each, layers=layers: each[layers], of_layers)
            results.append(function(array, *own))
            start += len(array)
        dtype = jnp.result_type(*results)
        return jnp.concatenate([result.astype(dtype) for result in results])

    def unstacked(self, of_layers: PyTree) -> list[PyTree]:
        """What belongs to each layer by itself, in the order in which the layers came."""
        place = {i: at for at, i in enumerate(itertools.chain.from_iterable(self.members))}
        return [
            jax.tree.map(lambda each, i=i: each[place[i]], of_layers) for i in range(len(place))
        ]


def stacked(layers: Sequence[jax.Array]) -> Stacks:
    """All `layers`, those of one shape and dtype together unless they are large.

    Small layers that are sharded differently although they are of one shape are moved to become one
    array; a large one always stays where it is.
    """
    alike = {}
    for i, layer in enumerate(layers):
        own = i if layer.size > STACKED_ENTRIES else None
        alike.setdefault((layer.shape, layer.dtype, own), []).append(i)
    members = tuple(tuple(each) for each in alike.values())
    return Stacks(tuple(_stack([layers[i] for i in each]) for each in members), members)


def of_entries(of_layers: jax.Array, stack: jax.Array) -> jax.Array:
    """What belongs to the layers of a stack, of shape (layers,), to be broadcast over entries."""
    return of_layers.reshape(-1, *[1] * (stack.ndim - 1))


def _stack(layers: list[jax.Array]) -> jax.Array:
    if len(layers) == 1:
        return layers[0][None]
    # Written once: without the barrier every pass over it would look its entries up anew.
    return jax.lax.optimization_barrier(jnp.stack(layers))
