"""Exact order statistics of many layers at once, by counting.

Non-negative floats order like their bits read as integers, so the entry of rank k is looked for
among integers, a few bits a pass: it is the largest integer that at most k entries are below.
Only counts leave a layer, so nothing is sorted and nothing that is sharded is gathered.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

CountBelow = Callable[[jax.Array], jax.Array]


def bits_of(entries: jax.Array) -> jax.Array:
    """The bits of float32 or float64 entries as integers as wide."""
    return jax.lax.bitcast_convert_type(entries, jnp.dtype(f"int{jnp.finfo(entries.dtype).bits}"))


class Search:
    """Looks for entries of given ranks, of several layers or of all together.

    Args:
        count_below: Takes candidates, integers of shape (searches, 2^`bits_a_pass` - 1), to int32
            counts of that shape: how many entries have smaller bits. Entries are at least 0.
        ranks: For each search a rank, from 0 (the smallest) to the number of entries less one,
            int32.
        zero: A zero of the dtype of the entries, which varies over devices as they do.
        bits_a_pass: How many bits of the answer each pass finds.

    Example:
        >>> entries = jnp.array([3.0, 1.0, 2.0])
        >>> bits = jax.lax.bitcast_convert_type(entries, jnp.int32)
        >>> count_below = lambda candidates: jnp.sum(bits[:, None] < candidates, 0, keepdims=True)
        >>> search = Search(count_below, ranks=jnp.array([1]), zero=jnp.zeros(()), bits_a_pass=2)
        >>> print(bits > search.until_all_are_cut())
        [ True False False]
    """

    def __init__(
        self, count_below: CountBelow, ranks: jax.Array, zero: jax.Array, bits_a_pass: int
    ):
        self._count_below, self._ranks = count_below, ranks
        self._bits_a_pass, self._width = bits_a_pass, jnp.finfo(zero.dtype).bits - 1
        self._passes = -(-self._width // bits_a_pass)
        self._low = jnp.zeros(len(ranks), f"int{self._width + 1}") + bits_of(zero)
        exponents = (1 << jnp.finfo(zero.dtype).nexp) - 1
        self._infinity = exponents << jnp.finfo(zero.dtype).nmant

    def until_all_are_cut(self) -> jax.Array:
        """For each search an integer not below the bits of the entry of its rank, and below those
        of all larger entries and of NaN.

        It stops when that is so, for which an accelerator would have to wait for its host.
        """

        def is_open(carry):
            passes, _, below_high = carry
            return (passes < self._passes) & jnp.any(below_high != self._ranks + 1)

        def narrow(carry):
            passes, low, below_high = carry
            low, below = self._narrowed(passes, low)
            is_high = below > self._ranks[:, None]
            most = jnp.iinfo(below.dtype).max
            highest = jnp.min(jnp.where(is_high, below, most), axis=1)
            return passes + 1, low, jnp.where(highest < most, highest, below_high)

        none = self._low.astype(jnp.int32) - 1
        passes, low, _ = jax.lax.while_loop(is_open, narrow, (0, self._low, none))
        return low + ((jnp.asarray(1, low.dtype) << self._shift(passes - 1, low.dtype)) - 1)

    def to_the_last_bit(self) -> jax.Array:
        """The same, by a loop of known length."""
        narrow = lambda passes, low: self._narrowed(passes, low)[0]  # noqa: E731
        # An accelerator launches kernels for the loop itself: half as many so.
        return jax.lax.fori_loop(0, self._passes, narrow, self._low, unroll=2)

    def _shift(self, passes: jax.Array | int, dtype: jnp.dtype) -> jax.Array:
        return jnp.maximum(self._width - self._bits_a_pass * (passes + 1), 0).astype(dtype)

    def _narrowed(self, passes: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
        shift = self._shift(passes, low.dtype)

        def up(parts):
            # No further than to infinity, above which all NaN are.
            return low[:, None] + jnp.minimum(parts << shift, self._infinity - low[:, None])

        parts = jnp.arange(1, 1 << self._bits_a_pass, dtype=low.dtype)[None]
        below = self._count_below(up(parts))
        is_low = below <= self._ranks[:, None]
        return up(jnp.sum(is_low, axis=1, keepdims=True, dtype=low.dtype))[:, 0], below
