"""Where to cut every layer so that exactly the k-th smallest entry and those before it fall below:
exact, for all layers at once, without sorting, by counting.

A non-negative float and its bits, read as an integer, order alike, so a cut is looked for among
integers. It lies in a bracket: at most k entries are below its low end, more than k below its high
end. A pass counts the entries below three candidates in between, and the bracket narrows to two
neighbours. Only counts leave a layer, so a tensor that is sharded over devices is never gathered.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

CountBelow = Callable[[jax.Array], jax.Array]

GUESSES = 8  # passes of good guesses after which nearly every layer is cut


class Bracket(NamedTuple):
    """For each layer two integers, and how many entries lie below each; all of shape (layers,)."""

    low: jax.Array
    high: jax.Array
    below_low: jax.Array
    below_high: jax.Array


class Targets(NamedTuple):
    """What is asked of each layer; both of shape (layers,), int32."""

    rank: jax.Array
    size: jax.Array


def cuts(
    count_below: CountBelow, ranks: Sequence[int], sizes: Sequence[int], largest: jax.Array
) -> jax.Array:
    """For each layer an integer above the bits of the entry of its rank and of all smaller entries,
    and not above those of any other.

    Args:
        count_below: Takes candidates, integers of shape (layers, 3), to int32 counts of that shape:
            how many entries of each layer have smaller bits. Entries are at least 0.
        ranks: For each layer a rank, from 0 (the smallest) to its number of entries less one.
        sizes: The number of entries of each layer, at most 2^31 - 1.
        largest: At least the largest entry of each layer, of shape (layers,), float32 or float64;
            the nearer to it, the better the first guess.

    Returns:
        Integers of shape (layers,), as wide as the entries. A NaN never lies below one.

    Raises:
        ValueError: If a rank is out of range, or a layer has more than 2^31 - 1 entries.

    Example:
        >>> entries = jnp.array([3.0, 1.0, 2.0])
        >>> bits = jax.lax.bitcast_convert_type(entries, jnp.int32)
        >>> count_below = lambda candidates: jnp.sum(bits[:, None] < candidates, 0, keepdims=True)
        >>> cut = cuts(count_below, ranks=[1], sizes=[3], largest=jnp.array([3.0]))
        >>> print(bits < cut)
        [False  True  True]
    """
    for rank, size in zip(ranks, sizes, strict=True):
        _check_rank(rank, size)
    targets = Targets(jnp.asarray(ranks, jnp.int32), jnp.asarray(sizes, jnp.int32))

    def narrow(bracket, candidates):
        candidates = _within(bracket, candidates)
        return _narrowed(bracket, candidates, count_below(candidates), targets)

    def until_every_layer_is_cut(bracket):
        def propose(passes, bracket):
            guesses = _guesses(bracket, targets, largest.dtype)
            return jnp.where(passes < GUESSES, guesses, _quarters(bracket))

        return jax.lax.while_loop(
            lambda carry: _is_open(carry[1], targets),
            lambda carry: (carry[0] + 1, narrow(carry[1], propose(*carry))),
            (0, bracket),
        )[1]

    def quarter_to_the_end(bracket):
        # A loop of known length, for any other makes an accelerator wait for the host.
        passes = jnp.finfo(largest.dtype).bits // 2
        quarter = lambda _, bracket: narrow(bracket, _quarters(bracket))  # noqa: E731
        return jax.lax.fori_loop(0, passes, quarter, bracket)

    bracket = jax.lax.platform_dependent(
        _whole(targets, largest), cpu=until_every_layer_is_cut, default=quarter_to_the_end
    )
    return bracket.high


def bits_of(entries: jax.Array) -> jax.Array:
    """The bits of float32 or float64 entries as integers as wide."""
    return jax.lax.bitcast_convert_type(entries, jnp.dtype(f"int{jnp.finfo(entries.dtype).bits}"))


def _whole(targets: Targets, largest: jax.Array) -> Bracket:
    infinity = bits_of(jnp.asarray(jnp.inf, largest.dtype))
    high = jnp.where(largest < jnp.inf, bits_of(largest), infinity) + 1  # NaN lies above
    # Zeros like what varies over the devices of a `shard_map`, as its loops ask for.
    none = jnp.zeros_like(high, targets.size.dtype)
    return Bracket(jnp.zeros_like(high), high, none, none + targets.size)


def _is_open(bracket: Bracket, targets: Targets) -> jax.Array:
    cut = bracket.below_high == targets.rank + 1
    return ~jnp.all(cut | (bracket.high - bracket.low <= 1))


def _within(bracket: Bracket, candidates: jax.Array) -> jax.Array:
    first = bracket.low + 1
    last = jnp.maximum(bracket.high - 1, first)
    return jnp.clip(candidates, first[:, None], last[:, None])


def _narrowed(
    bracket: Bracket, candidates: jax.Array, below: jax.Array, targets: Targets
) -> Bracket:
    is_low = below <= targets.rank[:, None]

    def last_low(old, new):
        return jnp.maximum(old, jnp.max(jnp.where(is_low, new, old[:, None]), axis=1))

    def first_high(old, new):
        return jnp.minimum(old, jnp.min(jnp.where(is_low, old[:, None], new), axis=1))

    return Bracket(
        last_low(bracket.low, candidates),
        first_high(bracket.high, candidates),
        last_low(bracket.below_low, below),
        first_high(bracket.below_high, below),
    )


def _quarters(bracket: Bracket) -> jax.Array:
    """Candidates a quarter, a half and three quarters up the bracket, of shape (layers, 3)."""
    parts = jnp.arange(1, 4, dtype=bracket.low.dtype)[None]
    quarters, rest = jnp.divmod(bracket.high - bracket.low, 4)
    return bracket.low[:, None] + quarters[:, None] * parts + rest[:, None] * parts // 4


def _guesses(bracket: Bracket, targets: Targets, dtype: jnp.dtype) -> jax.Array:
    """Candidates about where the cut should be, of shape (layers, 3).

    The share of entries above a threshold is taken to fall exponentially between the two ends, and
    the outer candidates lie a tenth of the bracket from the middle one, or as far as chance may
    have moved the entry of the wanted rank. In a bracket of more than three octaves that would
    guess too low: it is quartered, but at most two octaves down at a time.
    """
    low = jax.lax.bitcast_convert_type(bracket.low, dtype)
    high = jax.lax.bitcast_convert_type(bracket.high - 1, dtype)
    above_low = (targets.size - bracket.below_low).astype(dtype)
    above_high = jnp.maximum((targets.size - bracket.below_high).astype(dtype), 0.5)
    above_target = (targets.size - targets.rank).astype(dtype) - 0.5
    inside = (bracket.below_high - bracket.below_low).astype(dtype)

    decay = jnp.maximum(jnp.log(above_low / above_high), jnp.finfo(dtype).eps)
    middle = low + (high - low) * jnp.log(above_low / above_target) / decay
    share = (above_low - above_target) / inside
    chance = 2 * jnp.sqrt(share * (1 - share) / inside) + 2 / inside
    reach = (high - low) * jnp.clip(chance, 0.1, 0.25)
    sides = jnp.arange(-1, 2, dtype=dtype)[None]
    narrow = bits_of(jnp.maximum(middle[:, None] + reach[:, None] * sides, 0))

    octave = jnp.asarray(1, bracket.low.dtype) << jnp.finfo(dtype).nmant
    down = 2 * octave * jnp.arange(3, 0, -1, dtype=octave.dtype)[None]
    wide = jnp.maximum(_quarters(bracket), bracket.high[:, None] - down)
    is_wide = bracket.high - bracket.low > 3 * octave
    return jnp.where(is_wide[:, None], wide, narrow)


def _check_rank(rank: int, size: int) -> None:
    if size > jnp.iinfo(jnp.int32).max:
        raise ValueError(
            f"a layer may have at most 2**31 - 1 entries, as they are counted in int32, got {size}."
        )
    if not 0 <= rank < size:
        raise ValueError(
            f"the rank in a layer of {size} entries is at most {size - 1}, got {rank}."
        )
