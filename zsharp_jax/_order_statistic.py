"""The k-th smallest entry of every layer at once: exact, without sorting, by counting.

A non-negative float and its bits, read as an integer, order alike. So the k-th smallest entry is
the largest integer v for which at most k entries lie below v, and its bits are found one by one
from the top: 31 counts for float32, whatever the size. Nothing but counts leaves a tensor, so a
tensor that is sharded over devices is never gathered: they exchange one integer per layer and
count.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Layer = Sequence[jax.Array]


def order_statistics(layers: Sequence[Layer], ranks: Sequence[int]) -> jax.Array:
    """The entry of rank k (0 is the smallest) of each layer, all layers in one search.

    Args:
        layers: Each layer is one or more arrays whose entries are ranked together. All arrays are
            of one real floating dtype, float32 or float64, with entries of at least 0. NaN ranks
            above infinity, as in `numpy.sort`.
        ranks: For each layer a rank from 0 to its number of entries less one.

    Returns:
        An array of shape `(len(layers),)` in the dtype of the layers, subnormal numbers included.

    Raises:
        ValueError: If a rank is out of range, or a layer has more than 2^31 - 1 entries.

    Example:
        >>> first, second = jnp.array([3.0, 1.0, 2.0]), jnp.array([[5.0, 4.0]])
        >>> print(order_statistics([[first], [first, second]], ranks=[1, 3]))
        [2. 4.]
    """
    for layer, rank in zip(layers, ranks, strict=True):
        _check_rank(layer, rank)
    if not layers:
        return jnp.zeros(0)

    dtype = layers[0][0].dtype
    integer = jnp.dtype(f"int{8 * dtype.itemsize}")
    layer_bits = [
        [jax.lax.bitcast_convert_type(array, integer) for array in layer] for layer in layers
    ]
    wanted = jnp.asarray(ranks, jnp.int32)
    top = 8 * dtype.itemsize - 2  # the bit above is the sign, which is clear

    def settle_bit(index, found):
        candidates = found | jnp.asarray(1, integer) << jnp.asarray(top - index, integer)
        below = jnp.stack([_count_below(bits, candidates[i]) for i, bits in enumerate(layer_bits)])
        return jnp.where(below <= wanted, candidates, found)

    found = jax.lax.fori_loop(0, top + 1, settle_bit, jnp.zeros(len(layers), integer))
    return jax.lax.bitcast_convert_type(found, dtype)


def _count_below(layer_bits: Layer, candidate: jax.Array) -> jax.Array:
    return jnp.asarray(sum(jnp.sum(bits < candidate, dtype=jnp.int32) for bits in layer_bits))


def _check_rank(layer: Layer, rank: int) -> None:
    size = sum(array.size for array in layer)
    if size > jnp.iinfo(jnp.int32).max:
        raise ValueError(
            f"a layer may have at most 2**31 - 1 entries, as they are counted in int32, got {size}."
        )
    if not 0 <= rank < size:
        raise ValueError(
            f"the rank in a layer of {size} entries is at most {size - 1}, got {rank}."
        )
