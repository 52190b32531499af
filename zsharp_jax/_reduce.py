"""Sums and counts over a stack of layers, each in one pass over memory.

XLA's CPU backend neither uses vector instructions nor more than one core, ten times as long as
reading takes, for a sum over all of a tensor where something has to be computed for each entry
first: of integers, and of floats along a single axis. It does both if few entries are summed side
by side, so here a CPU sums in groups of up to eight first, and those sums are few enough for what
follows to be cheap. Groups do not always fit the shards of a tensor, which would then be gathered,
so where there are several devices a CPU sums as accelerators do: all at once.
"""

from typing import Any

import jax
import jax.numpy as jnp

from zsharp_jax._stack import of_entries

FIELD = 10  # bits; three counts of up to 1,023 are added as one integer


def computed_anew(*arrays: Any) -> Any:
    """The same arrays, for a pass that shares nothing with passes before it.

    XLA would store for both what both compute of each entry, or before a loop what its passes have
    in common; to read a layer again is cheaper than to write a copy of it.
    """
    return jax.lax.optimization_barrier(arrays)


def layer_sums(stack: jax.Array) -> jax.Array:
    """The sum of each layer of a stack of floats, of shape (layers, ...), of shape (layers,)."""
    is_folded = _is_one_device() and stack.ndim == 2
    on_cpu = _folded_sums if is_folded else _sums
    return jax.lax.platform_dependent(stack, cpu=on_cpu, default=_sums)


def layer_counts(stack: jax.Array, candidates: jax.Array) -> jax.Array:
    """How many entries of each layer lie below each of three candidates.

    Args:
        stack: Integers of shape (layers, ...).
        candidates: Integers of shape (layers, 3).

    Returns:
        int32 counts of shape (layers, 3).
    """
    on_cpu = _packed_counts if _is_one_device() else _plain_counts
    return jax.lax.platform_dependent(stack, candidates, cpu=on_cpu, default=_plain_counts)


def _is_one_device() -> bool:
    return jax.device_count() == 1


def _sums(stack: jax.Array) -> jax.Array:
    return jnp.sum(stack, axis=tuple(range(1, stack.ndim)), dtype=stack.dtype)


def _folded_sums(stack: jax.Array) -> jax.Array:
    # Without the barrier XLA would make one sum of the two.
    return _sums(jax.lax.optimization_barrier(_fold(stack)))


def _plain_counts(stack: jax.Array, candidates: jax.Array) -> jax.Array:
    below = [_sums((stack < column).astype(jnp.int32)) for column in _columns(stack, candidates)]
    return jnp.stack(below, axis=1)


def _packed_counts(stack: jax.Array, candidates: jax.Array) -> jax.Array:
    below = [
        jnp.where(stack < column, jnp.int32(1 << FIELD * i), 0)
        for i, column in enumerate(_columns(stack, candidates))
    ]
    packed = _fold(below[0] + below[1] + below[2])
    counts = [packed >> FIELD * i & (1 << FIELD) - 1 for i in range(3)]
    # Summed as one array, for XLA would make one slow sum of each count and what comes after.
    folded = jnp.stack([_fold(count) for count in counts], axis=1)
    return jnp.sum(folded, axis=tuple(range(2, folded.ndim)), dtype=jnp.int32)


def _columns(stack: jax.Array, candidates: jax.Array) -> list[jax.Array]:
    return [of_entries(candidates[:, i], stack) for i in range(3)]


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
