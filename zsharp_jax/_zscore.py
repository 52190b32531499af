"""How far every entry of a layer stands out from the others (paper, section 2.2)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsharp_jax._order_statistic import bits_of
from zsharp_jax._precision import at_least_float32
from zsharp_jax._reduce import computed_anew, layer_sums
from zsharp_jax._stack import Stacks, of_entries


class Statistics(NamedTuple):
    """Of each layer, all of shape (layers,).

    Attributes:
        is_tiny: Whether its entries are so small that they are lifted, see `_lifted`.
        mean: The mean of its entries, lifted or not.
        inverse_std: One over their population standard deviation, or None where entries are only
            compared within the layer: dividing by it scales all of them alike. (XLA rounds the
            division of an array by a scalar in one program as it does not in another.)
        largest: At least how far the entry that stands out most does so.
    """

    is_tiny: jax.Array
    mean: jax.Array
    inverse_std: jax.Array | None
    largest: jax.Array


def statistics_of(layers: Stacks, *, with_std: bool) -> Statistics:
    """In the widest dtype of all layers, float32 at least, whatever is asked of them."""
    magnitude = layers.reduce(_magnitude)
    sizes = jnp.asarray(layers.sizes, magnitude.dtype)
    is_tiny = magnitude < _constants(layers, _tiny, magnitude.dtype)

    # Rough also in that subnormal numbers count as 0.
    factor = jnp.where(is_tiny, _constants(layers, _lift, magnitude.dtype), 1)
    rough_mean = layers.reduce(_scaled_sums, factor) / sizes
    # Once more about the rough mean: this takes away the rounding of the first sum, and leaves
    # a constant tensor with deviations of exactly 0.
    mean = rough_mean + _sums_of(_deviations, layers, is_tiny, rough_mean) / sizes

    # Which of some subnormal numbers is the largest, a CPU does not tell: what they are lifted to.
    lifted = _constants(layers, lambda dtype: 2 * _lift(dtype) * _tiny(dtype), magnitude.dtype)
    largest = jnp.where(is_tiny, lifted, magnitude + jnp.abs(mean))
    if not with_std:
        return Statistics(is_tiny, mean, None, largest)

    std = jnp.sqrt(_sums_of(_squares, layers, is_tiny, mean) / sizes)
    inverse = 1 / jnp.where(std == 0, 1, std)  # a constant tensor has deviations of 0
    return Statistics(is_tiny, mean, inverse, largest * inverse)


def zscore_bits(stack: jax.Array, statistics: Statistics) -> jax.Array:
    """|z| of every entry, without the std where there is none, as its bits: a NaN lies above all.

    Args:
        stack: Layers of one shape, of shape (layers, ...).
        statistics: Of these layers.
    """
    zscores = _deviations(stack, statistics.is_tiny, statistics.mean)
    if statistics.inverse_std is not None:
        zscores = zscores * of_entries(statistics.inverse_std, stack)
    return bits_of(jnp.abs(zscores))  # abs last, as it clears the sign of a NaN too


class Interval(NamedTuple):
    """Gradients of each layer from the one after `before` to `last`, in terms of `order_of`."""

    before: jax.Array
    last: jax.Array

    def holds(self, gradients: jax.Array) -> jax.Array:
        order = order_of(at_least_float32(gradients))
        return (order > self.before) & (order <= self.last)


def interval_below(cuts: jax.Array, statistics: Statistics, dtype: jnp.dtype) -> Interval:
    """The gradients of a dtype whose |z| lies below a cut, for each layer.

    |z|, rounded as it is, falls up to the mean and rises from there, so these are neighbours: once
    they are known, two comparisons tell for each entry what all of `zscore_bits` would tell.

    Args:
        cuts: What the bits of |z| are compared to, of shape (layers,).
        statistics: Of the same layers.
        dtype: Of the gradients, float32 at least.

    Returns:
        An interval without NaN, and one that holds nothing if the mean is NaN.
    """
    bits = jnp.finfo(dtype).bits
    start = jnp.zeros_like(cuts, f"int{bits}") + jnp.iinfo(f"int{bits}").min

    def settle_bit(i, interval):
        bit = jnp.asarray(1, start.dtype) << jnp.asarray(bits - 1 - i, start.dtype)
        before, last = interval.before + bit, interval.last + bit
        is_before = _is_below_mean(before, statistics) & ~_is_cut(before, cuts, statistics)
        is_inside = _is_below_mean(last, statistics) | _is_cut(last, cuts, statistics)
        return Interval(
            jnp.where(is_before, before, interval.before),
            jnp.where(is_inside, last, interval.last),
        )

    return jax.lax.fori_loop(0, bits, settle_bit, Interval(start, start))


def order_of(numbers: jax.Array) -> jax.Array:
    """Integers as wide as the numbers that order like them, subnormal ones included."""
    bits = bits_of(numbers)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)


def _number_of(order: jax.Array) -> jax.Array:
    bits = jnp.where(order < 0, order ^ jnp.iinfo(order.dtype).max, order)
    return jax.lax.bitcast_convert_type(bits, jnp.dtype(f"float{jnp.iinfo(bits.dtype).bits}"))


def _is_below_mean(order: jax.Array, statistics: Statistics) -> jax.Array:
    return _deviations(_number_of(order), statistics.is_tiny, statistics.mean) < 0


def _is_cut(order: jax.Array, cuts: jax.Array, statistics: Statistics) -> jax.Array:
    return zscore_bits(_number_of(order), statistics) < cuts


def _deviations(stack: jax.Array, is_tiny: jax.Array, mean: jax.Array) -> jax.Array:
    """g - mean g of every entry, up to a power of two."""
    return _lifted(stack, is_tiny).astype(mean.dtype) - of_entries(mean, stack)


def _magnitude(stack: jax.Array) -> jax.Array:
    return at_least_float32(jnp.max(jnp.abs(stack), axis=tuple(range(1, stack.ndim))))


def _scaled_sums(stack: jax.Array, factor: jax.Array) -> jax.Array:
    return layer_sums(at_least_float32(stack) * of_entries(factor, stack))


def _squares(stack: jax.Array, is_tiny: jax.Array, mean: jax.Array) -> jax.Array:
    return jnp.square(_deviations(stack, is_tiny, mean))


def _sums_of(
    term: Callable[..., jax.Array], layers: Stacks, is_tiny: jax.Array, mean: jax.Array
) -> jax.Array:
    """The sum over each layer of `term(stack, is_tiny, mean)`."""

    def sums(layers, is_tiny, mean):
        return layers.reduce(lambda *own: layer_sums(term(*own)), is_tiny, mean)

    return lifting_if_any_is_tiny(sums, layers, is_tiny, mean)


def lifting_if_any_is_tiny(
    pass_over: Callable[..., jax.Array], layers: Stacks, is_tiny: jax.Array, *own: Any
) -> jax.Array:
    """`pass_over(layers, is_tiny, *own)`, on a CPU without a thought of lifting if none has to be.

    There it takes as long as all else in a pass, or even has a lifted copy written down.
    """

    def without_lifting(layers, is_tiny, *own):
        return pass_over(layers, jnp.zeros_like(is_tiny), *own)

    def on_cpu(layers, is_tiny, *own):
        any_is_tiny = jnp.any(is_tiny)
        return jax.lax.cond(any_is_tiny, pass_over, without_lifting, layers, is_tiny, *own)

    inputs = computed_anew(layers, is_tiny, *own)
    return jax.lax.platform_dependent(*inputs, cpu=on_cpu, default=pass_over)


def _lifted(stack: jax.Array, is_tiny: jax.Array) -> jax.Array:
    """In float32 at least, with tiny layers multiplied by an exact power of two.

    XLA treats subnormal numbers as 0 on a CPU, even as factors, and would see no difference between
    them. Their bits, read as integers, are exact multiples of the smallest one. What is lifted can
    be squared without overflow or underflow.
    """
    stack = at_least_float32(stack)
    info, lift = jnp.finfo(stack.dtype), _lift(stack.dtype)
    magnitude = bits_of(jnp.abs(stack))
    from_bits = magnitude.astype(stack.dtype) * (float(info.smallest_subnormal) * lift)
    is_subnormal = magnitude < 1 << info.nmant
    lifted = jnp.where(is_subnormal, jnp.copysign(from_bits, stack), stack * lift)
    return jnp.where(of_entries(is_tiny, stack), lifted, stack)


def _lift(dtype: jnp.dtype) -> float:
    return 2.0 ** (-jnp.finfo(dtype).minexp * 4 // 5)  # 2^100 for float32


def _tiny(dtype: jnp.dtype) -> float:
    return 2.0 ** (jnp.finfo(dtype).minexp // 2)  # 2^-63 for float32


def _constants(
    layers: Stacks, of_precision: Callable[[jnp.dtype], float], dtype: jnp.dtype
) -> jax.Array:
    """For each layer what `of_precision` says of the dtype in which its entries are lifted."""

    def constants(stack):
        precision = jnp.promote_types(stack.dtype, jnp.float32)
        return jnp.full(len(stack), of_precision(precision), dtype)

    return layers.reduce(constants)
