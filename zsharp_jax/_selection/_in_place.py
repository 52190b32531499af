"""Layers where they are, for CPUs: large ones are never copied.

XLA's CPU backend neither uses vector instructions nor more than one core for a sum over all of a
layer where something has to be computed for each entry first. That takes ten times as long as
reading. It does both if few entries are summed side by side, so groups of up to eight are summed
first. Groups do not always fit the shards of a tensor, which would then be gathered, so on a mesh
everything is summed at once.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsharp_jax._precision import widest
from zsharp_jax._selection._search import CountBelow, bits_of
from zsharp_jax._selection._threshold import Layout, Request, Threshold, threshold_of

FIELD = 10  # bits; three counts of up to 1,023 are added as one integer
STACKED_ENTRIES = 2**16  # a larger leaf is worth passes of its own, and a copy of it is not free


def thresholds_in_place(
    leaves: Sequence[jax.Array], request: Request, folded: bool
) -> list[Threshold]:
    """The thresholds of every leaf; `folded` where none lies on a mesh."""
    layout = InPlace(leaves, request.stacked, folded)
    found = threshold_of(layout, request)
    in_order = jax.tree.map(lambda of_layers: of_layers[layout.places], found)
    return in_order.of_leaves(leaves, request)


class InPlace(Layout):
    """Layers of one size together, so that work grows with the sizes in a network rather than with
    its number of layers. The layers are in the order of the stacks."""

    bits_a_pass, unroll = 2, 1

    def __init__(self, leaves: Sequence[jax.Array], stacked: Sequence[int], folded: bool):
        alike: dict[Any, list[jax.Array]] = {}
        numbers: dict[Any, list[int]] = {}  # in the order in which the layers came
        for leaf, count in zip(leaves, stacked, strict=True):
            stack = leaf.reshape(-1, *leaf.shape[count:])
            stack = _with_two_axes(stack) if folded else stack
            came = sum(map(len, numbers.values()))
            key = (stack.shape[1:], stack.dtype, came if stack.size > STACKED_ENTRIES else None)
            alike.setdefault(key, []).append(stack)
            numbers.setdefault(key, []).extend(range(came, came + len(stack)))
        # Written once: without the barrier every pass would look its entries up anew.
        self.stacks = jax.lax.optimization_barrier([*map(jnp.concatenate, alike.values())])
        self.sizes = [stack.size // len(stack) for stack in self.stacks for _ in range(len(stack))]
        self.places = np.argsort(np.concatenate([*numbers.values()]))
        self.folded = folded
        zeros = [jnp.zeros_like(leaf.reshape(-1)[0], widest(*leaves)) for leaf in leaves]
        self.zero = functools.reduce(jnp.add, zeros)

    def sums(self, term: Callable[..., jax.Array], *own: Any) -> jax.Array:
        def of_stack(entries, *own):
            terms = term(entries, *own)
            # Without the barrier XLA would make one sum of the two.
            return _sums(jax.lax.optimization_barrier(_fold(terms)) if self.folded else terms)

        return self._map(of_stack, *own)

    def counts_below(self, height: Callable[..., jax.Array], *own: Any) -> CountBelow:
        def of_stack(entries, columns, *own):
            bits = bits_of(height(entries, *own))
            below = [bits < column for column in columns]
            if self.folded:
                return _packed_counts(below)
            return jnp.stack([_sums(each.astype(jnp.int32)) for each in below], axis=1)

        return lambda candidates: self._map(of_stack, tuple(candidates.T), *own)

    def _map(self, function: Callable[..., jax.Array], *of_layers: Any) -> jax.Array:
        # XLA would store for several passes what all of them compute of each entry, or before a
        # loop what its passes have in common; to read a layer again is cheaper than to write it.
        stacks, of_layers = jax.lax.optimization_barrier((self.stacks, of_layers))
        results, start = [], 0
        for stack in stacks:
            layers = slice(start, start + len(stack))
            axes = range(1, stack.ndim)
            own = jax.tree.map(lambda each: jnp.expand_dims(each[layers], axes), of_layers)  # noqa: B023
            results.append(function(stack.astype(self.zero.dtype), *own))
            start += len(stack)
        return jnp.concatenate(results)


def _with_two_axes(stack: jax.Array) -> jax.Array:
    """The same with two axes beside that of the layers: of neighbours, and in memory."""
    layers, *_, minor = stack.shape if stack.ndim > 2 else (len(stack), 64)
    return stack.reshape(layers, -1, math.gcd(stack.size // layers, minor))


def _sums(stack: jax.Array) -> jax.Array:
    return jnp.sum(stack, axis=tuple(range(1, stack.ndim)), dtype=stack.dtype)


def _packed_counts(below: list[jax.Array]) -> jax.Array:
    ones = [jnp.where(each, jnp.int32(1 << FIELD * i), 0) for i, each in enumerate(below)]
    packed = _fold(functools.reduce(jnp.add, ones))
    counts = [packed >> FIELD * i & (1 << FIELD) - 1 for i in range(len(below))]
    # Summed as one array, for XLA would make one slow sum of each count and what comes after.
    folded = jnp.stack([_fold(count) for count in counts], axis=1)
    return jnp.sum(folded, axis=(2, 3), dtype=jnp.int32)


def _fold(stack: jax.Array) -> jax.Array:
    """Adds up groups of up to eight neighbours, along the last axis but one where it has some."""
    layers, axis, minor = stack.shape
    group = next(group for group in range(8, 0, -1) if axis % group == 0)
    if group > 1:
        return jnp.sum(stack.reshape(layers, -1, group, minor), axis=2, dtype=stack.dtype)
    group = next(group for group in range(8, 0, -1) if minor % group == 0)
    return jnp.sum(stack.reshape(layers, axis, group, -1), axis=2, dtype=stack.dtype)
