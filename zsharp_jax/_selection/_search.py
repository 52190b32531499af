"""Exact order statistics of many layers at once, by counting.

Non-negative floats order like their bits read as integers, so the entry of rank k is looked for
among integers, a few bits a pass: it is the largest integer with at most k entries below it.
Only counts leave a layer, so nothing is sorted and nothing that is sharded is gathered.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

CountBelow = Callable[[jax.Array], jax.Array]


def bits_of(entries: jax.Array) -> jax.Array:
    """The bits of float32 or float64 entries as integers as wide."""
    return jax.lax.bitcast_convert_type(entries, jnp.dtype(f"int{jnp.finfo(entries.dtype).bits}"))


def search(
    count_below: CountBelow, ranks: jax.Array, zero: jax.Array, bits_a_pass: int, unroll: int = 1
) -> jax.Array:
    """Looks for entries of given ranks, of several layers or of all together.

    Args:
        count_below: Takes candidates, integers of shape (searches, 2^`bits_a_pass` - 1), to int32
            counts of that shape: how many entries have smaller bits. Entries are at least 0.
        ranks: For each search a rank, from 0 (the smallest) to the number of entries less one,
            int32.
        zero: A zero of the dtype of the entries, which varies over devices as they do.
        bits_a_pass: How many bits of the answer each pass finds.
        unroll: How many passes a round of the loop makes.

    Returns:
        For each search the bits of the entry of its rank; infinity's if that is NaN.
    """
    finfo = jnp.finfo(zero.dtype)
    width = finfo.bits - 1
    infinity = ((1 << finfo.nexp) - 1) << finfo.nmant

    def narrowed(passes, low):
        shift = jnp.maximum(width - bits_a_pass * (passes + 1), 0).astype(low.dtype)

        def up(parts):
            # No further than to infinity, above which all NaN are.
            return low[:, None] + jnp.minimum(parts << shift, infinity - low[:, None])

        parts = jnp.arange(1, 1 << bits_a_pass, dtype=low.dtype)[None]
        is_low = count_below(up(parts)) <= ranks[:, None]
        return up(jnp.sum(is_low, axis=1, keepdims=True, dtype=low.dtype))[:, 0]

    low = jnp.zeros(len(ranks), f"int{finfo.bits}") + bits_of(zero)
    return jax.lax.fori_loop(0, -(-width // bits_a_pass), narrowed, low, unroll=unroll)
