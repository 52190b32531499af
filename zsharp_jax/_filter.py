"""Which entries of a gradient stand out: the mask of ZSharp (paper, eq. 3)."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_choice, checked_min_ndim, checked_quantile
from zsharp_jax._order_statistic import cuts
from zsharp_jax._reduce import layer_counts
from zsharp_jax._stack import Stacks, stacked
from zsharp_jax._zscore import (
    Interval,
    Statistics,
    interval_below,
    lifting_if_any_is_tiny,
    statistics_of,
    zscore_bits,
)

Scope = Literal["layer", "global"]


def zscore_filter(
    quantile: float, *, scope: Scope = "layer", min_ndim: int = 2
) -> optax.GradientTransformation:
    """Keeps the gradient entries whose |z-score| lies strictly above a quantile; the others
    become 0.

    A layer is one parameter tensor, and its z-scores are z = (g - mean g) / std g with the
    population standard deviation (paper, section 2.2). Kept entries keep their *original*
    gradient. Without ties `n - 1 - floor(quantile * (n - 1))` of n entries are kept. The
    threshold is an exact order statistic, found without sorting and without gathering a sharded
    tensor.

    Args:
        quantile: The quantile Q_p of |z| in [0, 1); 0.95 keeps the top 5 %. A Python number.
        scope: `"layer"` takes the quantile of each tensor by itself, as the authors' code does (the
            standard deviation cancels). `"global"` takes one quantile over the |z| of all filtered
            tensors together, the literal reading of eq. 3; a constant tensor has z = 0.
        min_ndim: Tensors with fewer axes (biases, BatchNorm scales at the default) pass unfiltered.

    Returns:
        A stateless transformation. It preserves structure, dtype and sharding. Means and
        deviations are taken in float32 at least. A layer with a NaN passes whole, NaN and all.

    Raises:
        ValueError: If `quantile`, `scope` or `min_ndim` is out of range.
        TypeError: If `quantile` or `min_ndim` is a JAX array, or, on update, if a filtered
            gradient is not real floating point.

    Example:
        >>> gradients = {"kernel": jnp.array([[1.0, 2.0], [3.0, 40.0]]), "bias": jnp.ones(2)}
        >>> transformation = zscore_filter(0.5)
        >>> filtered, _ = transformation.update(gradients, transformation.init(gradients))
        >>> print(filtered["kernel"])
        [[ 1.  0.]
         [ 0. 40.]]
        >>> print(filtered["bias"])
        [1. 1.]

    References:
        Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering, eq. 3.
    """
    quantile = checked_quantile(quantile)
    checked_choice("scope", scope, ("layer", "global"))
    min_ndim = checked_min_ndim(min_ndim)
    keep_outstanding = _kept_within_layers if scope == "layer" else _kept_over_all_layers

    def filter_gradients(gradients, params=None):
        del params
        leaves, treedef = jax.tree.flatten(gradients)
        chosen = [i for i, leaf in enumerate(leaves) if leaf.ndim >= min_ndim and leaf.size > 0]
        if not chosen:
            return gradients
        kept = keep_outstanding([_checked_real(leaves[i]) for i in chosen], quantile)
        for i, leaf in zip(chosen, kept, strict=True):
            leaves[i] = leaf
        return jax.tree.unflatten(treedef, leaves)

    return optax.stateless(filter_gradients)


# Compiled as a whole, so that a filter that is not under jit compiles its search once.
@functools.partial(jax.jit, static_argnames="quantile")
def _kept_within_layers(gradients: list[jax.Array], quantile: float) -> list[jax.Array]:
    # Dividing a layer by its standard deviation scales its entries alike, so it is left out.
    layers = stacked(gradients)
    statistics = statistics_of(layers, with_std=False)
    ranks = [_rank(quantile, size) for size in layers.sizes]
    count_below = functools.partial(_count_below, layers, statistics)
    found = cuts(count_below, ranks, layers.sizes, statistics.largest)
    return _without(gradients, layers, statistics, found)


@functools.partial(jax.jit, static_argnames="quantile")
def _kept_over_all_layers(gradients: list[jax.Array], quantile: float) -> list[jax.Array]:
    layers = stacked(gradients)
    statistics = statistics_of(layers, with_std=True)

    def count_below(candidates):
        candidates = jnp.broadcast_to(candidates, (len(gradients), 3))
        counts = _count_below(layers, statistics, candidates)
        return jnp.sum(counts, axis=0, keepdims=True, dtype=counts.dtype)

    size, largest = sum(layers.sizes), jnp.max(statistics.largest, keepdims=True)
    found = cuts(count_below, [_rank(quantile, size)], [size], largest)
    found = jnp.broadcast_to(found, len(gradients))
    return _without(gradients, layers, statistics, found)


def _count_below(layers: Stacks, statistics: Statistics, candidates: jax.Array) -> jax.Array:
    """How many entries of each layer lie below its candidates; both of shape (layers, 3)."""

    def counts(layers, is_tiny, statistics, candidates):
        def of_stack(stack, statistics, candidates):
            return layer_counts(zscore_bits(stack, statistics), candidates)

        return layers.reduce(of_stack, statistics._replace(is_tiny=is_tiny), candidates)

    return lifting_if_any_is_tiny(counts, layers, statistics.is_tiny, statistics, candidates)


def _without(
    gradients: list[jax.Array], layers: Stacks, statistics: Statistics, found: jax.Array
) -> list[jax.Array]:
    """The gradients without the entries whose |z| lies below what was found, of shape (layers,)."""

    def cut(gradient, interval):
        return jnp.where(interval.holds(gradient), jnp.zeros_like(gradient), gradient)

    precisions = [jnp.promote_types(gradient.dtype, jnp.float32) for gradient in gradients]
    intervals = {
        dtype: _one_by_one(layers, interval_below(found, statistics, dtype))
        for dtype in dict.fromkeys(precisions)
    }
    return [
        cut(gradient, intervals[dtype][i])
        for i, (gradient, dtype) in enumerate(zip(gradients, precisions, strict=True))
    ]


def _one_by_one(layers: Stacks, interval: Interval) -> list[Interval]:
    """The interval of each layer, in numbers that are arrays of their own.

    XLA compiles equal kernels once. Those that cut layers of one shape are equal unless each looks
    up its numbers at a place of its own, which the barrier prevents; a CPU's kernels are made when
    barriers are gone, but not across a branch.
    """
    ends = jnp.stack([interval.before, interval.last], axis=1)  # of shape (layers, 2)

    def on_cpu(ends):
        def nothing(ends):
            return layers.unstacked(jnp.zeros_like(ends))

        return jax.lax.cond(jnp.any(ends[:, 0] < ends[:, 1]), layers.unstacked, nothing, ends)

    def elsewhere(ends):
        return jax.lax.optimization_barrier(layers.unstacked(ends))

    each = jax.lax.platform_dependent(ends, cpu=on_cpu, default=elsewhere)
    return [Interval(ends[0], ends[1]) for ends in each]


def _rank(quantile: float, size: int) -> int:
    """The rank below which the linearly interpolated quantile never falls, as in
    `numpy.quantile`."""
    return math.floor(quantile * (size - 1))


def _checked_real(gradient: jax.Array) -> jax.Array:
    if not jnp.issubdtype(gradient.dtype, jnp.floating):
        raise TypeError(
            f"a filtered gradient must be real floating point, got dtype {gradient.dtype}."
        )
    return gradient
