"""The layers where they are, for CPUs: large ones are never copied.

XLA's CPU backend neither uses vector instructions nor more than one core, ten times as long as
reading takes, for a sum over all of a tensor where something has to be computed for each entry
first: of integers, and of floats along a single axis. It does both if few entries are summed side
by side, so groups of up to eight are summed first, and those sums are few enough for what follows
to be cheap. Groups do not always fit the shards of a tensor, which would then be gathered, so on a
mesh everything is summed at once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsharp_jax._precision import widest
from zsharp_jax._selection._search import CountBelow, Search, bits_of
from zsharp_jax._selection._threshold import Request, Threshold, threshold_of

BITS_A_PASS, CANDIDATES = 2, 3
FIELD = 10  # bits; three counts of up to 1,023 are added as one integer
STACKED_ENTRIES = 2**16  # a larger leaf is worth passes of its own, and a copy of it is not free


def thresholds_in_place(
    leaves: Sequence[jax.Array], request: Request, folded: bool
) -> list[Threshold]:
    """The thresholds of every leaf; `folded` where none lies on a mesh."""
    layout = InPlace(leaves, request.stacked, folded)
    found = threshold_of(layout, request, BITS_A_PASS, Search.until_all_are_cut)
    in_order = jax.tree.map(lambda of_layers: of_layers[layout.places], found)
    return in_order.of_leaves(leaves, request)


class InPlace:
    """Layers of one shape and dtype together, so that work grows with the shapes of a network
    rather than with its number of layers. The layers are in the order of the stacks."""

    def __init__(self, leaves: Sequence[jax.Array], stacked: Sequence[int], folded: bool):
        each = zip(leaves, stacked, strict=True)
        stacks = [leaf.reshape(-1, *leaf.shape[k:]) for leaf, k in each]
        alike: dict[Any, list[int]] = {}
        for i, stack in enumerate(stacks):
            own = i if stack.size > STACKED_ENTRIES else None
            alike.setdefault((stack.shape[1:], stack.dtype, own), []).append(i)
        self.stacks = [_joined([stacks[i] for i in members]) for members in alike.values()]
        self.sizes = [stack.size // len(stack) for stack in self.stacks for _ in range(len(stack))]
        self.folded = folded
        dtype = widest(*leaves)
        zeros = [jnp.zeros_like(leaf.reshape(-1)[0], dtype) for leaf in leaves]
        self.zero = functools.reduce(jnp.add, zeros)

        # Where each layer is, in the order in which the layers came.
        ends = np.cumsum([len(stack) for stack in stacks])
        came = np.split(np.arange(ends[-1]), ends[:-1])
        order = np.concatenate([came[i] for members in alike.values() for i in members])
        self.places = np.argsort(order)

    def sums(self, term: Callable[..., jax.Array], *own: Any) -> jax.Array:
        def of_stack(stack, *own):
            beside = [_of_entries(each, stack) for each in own]
            terms = term(stack.astype(self.zero.dtype), *beside)
            return _folded_sums(terms) if self.folded and terms.ndim == 2 else _sums(terms)

        return self._map(of_stack, *own)

    def counts_below(self, height: Callable[..., jax.Array], *own: Any) -> CountBelow:
        def of_stack(stack, candidates, *own):
            beside = jax.tree.map(lambda each: _of_entries(each, stack), own)
            bits = bits_of(height(stack.astype(self.zero.dtype), *beside))
            columns = [_of_entries(candidates[:, i], stack) for i in range(CANDIDATES)]
            return (_packed_counts if self.folded else _plain_counts)(bits, columns)

        return lambda candidates: self._map(of_stack, candidates, *own)

    def _map(self, function: Callable[..., jax.Array], *of_layers: Any) -> jax.Array:
        # XLA would store for several passes what all of them compute of each entry, or before a
        # loop what its passes have in common; to read a layer again is cheaper than to write it.
        stacks, of_layers = jax.lax.optimization_barrier((self.stacks, of_layers))
        results, start = [], 0
        for stack in stacks:
            layers = slice(start, start + len(stack))
            results.append(function(stack, *jax.tree.map(lambda each: each[layers], of_layers)))  # noqa: B023
            start += len(stack)
        return jnp.concatenate(results)


def _joined(stacks: list[jax.Array]) -> jax.Array:
    if len(stacks) == 1:
        return stacks[0]
    # Written once: without the barrier every pass over it would look its entries up anew.
    return jax.lax.optimization_barrier(jnp.concatenate(stacks))


def _of_entries(of_layers: jax.Array, stack: jax.Array) -> jax.Array:
    return of_layers.reshape(-1, *[1] * (stack.ndim - 1))


def _sums(stack: jax.Array) -> jax.Array:
    return jnp.sum(stack, axis=tuple(range(1, stack.ndim)), dtype=stack.dtype)


def _folded_sums(stack: jax.Array) -> jax.Array:
    # Without the barrier XLA would make one sum of the two.
    return _sums(jax.lax.optimization_barrier(_fold(stack)))


def _plain_counts(stack: jax.Array, columns: list[jax.Array]) -> jax.Array:
    return jnp.stack([_sums((stack < column).astype(jnp.int32)) for column in columns], axis=1)


def _packed_counts(stack: jax.Array, columns: list[jax.Array]) -> jax.Array:
    below = [
        jnp.where(stack < column, jnp.int32(1 << FIELD * i), 0) for i, column in enumerate(columns)
    ]
    packed = _fold(below[0] + below[1] + below[2])
    counts = [packed >> FIELD * i & (1 << FIELD) - 1 for i in range(CANDIDATES)]
    # Summed as one array, for XLA would make one slow sum of each count and what comes after.
    folded = jnp.stack([_fold(count) for count in counts], axis=1)
    return jnp.sum(folded, axis=tuple(range(2, folded.ndim)), dtype=jnp.int32)


def _fold(stack: jax.Array) -> jax.Array:
    """Adds up groups of up to eight neighbours, along the last axis but one where it has some."""
    if stack.ndim == 2:
        width = 64 if stack.shape[1] % 64 == 0 else 1
        stack = stack.reshape(stack.shape[0], -1, width)
    elif stack.ndim < 2:
        return stack
    *outer, axis, minor = stack.shape
    group = next(group for group in range(8, 0, -1) if axis % group == 0)
    if group > 1:
        return jnp.sum(stack.reshape(*outer, axis // group, group, minor), -2, dtype=stack.dtype)
    group = next(group for group in range(8, 0, -1) if minor % group == 0)
    return jnp.sum(stack.reshape(*outer, axis, group, minor // group), -2, dtype=stack.dtype)
