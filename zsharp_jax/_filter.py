"""Which entries of a gradient stand out: the mask of ZSharp (paper, eq. 3)."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_choice, checked_min_ndim, checked_quantile
from zsharp_jax._order_statistic import order_statistics
from zsharp_jax._precision import at_least_float32

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
    keep_outstanding = _keep_within_layers if scope == "layer" else _keep_over_all_layers

    def filter_gradients(gradients, params=None):
        del params
        leaves, treedef = jax.tree.flatten(gradients)
        chosen = [i for i, leaf in enumerate(leaves) if leaf.ndim >= min_ndim and leaf.size > 0]
        kept = keep_outstanding([_checked_real(leaves[i]) for i in chosen], quantile)
        for i, leaf in zip(chosen, kept, strict=True):
            leaves[i] = leaf
        return jax.tree.unflatten(treedef, leaves)

    return optax.stateless(filter_gradients)


def _keep_within_layers(gradients: list[jax.Array], quantile: float) -> list[jax.Array]:
    # Dividing a layer by its standard deviation scales its threshold alike, so it is left out.
    deviations = _in_one_dtype([_deviation(gradient) for gradient in gradients])
    ranks = [_rank(quantile, gradient.size) for gradient in gradients]
    thresholds = order_statistics([[deviation] for deviation in deviations], ranks)
    return [
        _kept(gradient, deviation, thresholds[i])
        for i, (gradient, deviation) in enumerate(zip(gradients, deviations, strict=True))
    ]


def _keep_over_all_layers(gradients: list[jax.Array], quantile: float) -> list[jax.Array]:
    if not gradients:
        return []
    zscores = _in_one_dtype([_absolute_zscore(gradient) for gradient in gradients])
    rank = _rank(quantile, sum(gradient.size for gradient in gradients))
    threshold = order_statistics([zscores], [rank])[0]
    return [
        _kept(gradient, zscore, threshold)
        for gradient, zscore in zip(gradients, zscores, strict=True)
    ]


def _kept(gradient: jax.Array, deviation: jax.Array, threshold: jax.Array) -> jax.Array:
    # Not `>`: a layer with a NaN passes whole, for to drop it would hide the NaN.
    return jnp.where(deviation <= threshold, jnp.zeros_like(gradient), gradient)


def _rank(quantile: float, size: int) -> int:
    """The rank below which the linearly interpolated quantile never falls, as in
    `numpy.quantile`."""
    return math.floor(quantile * (size - 1))


def _absolute_zscore(gradient: jax.Array) -> jax.Array:
    deviation = _deviation(gradient)
    std = jnp.sqrt(jnp.mean(jnp.square(deviation)))
    return deviation / jnp.where(std == 0, 1, std)  # a constant tensor has deviations of 0


def _deviation(gradient: jax.Array) -> jax.Array:
    """|g - mean g| up to a power of two, in float32 at least."""
    gradient = _without_subnormals(at_least_float32(gradient))
    rough_mean = jnp.mean(gradient)
    # Once more about the rough mean: this takes away the rounding of the first sum, and leaves
    # a constant tensor with deviations of exactly 0.
    mean = rough_mean + jnp.mean(gradient - rough_mean)
    return jnp.abs(gradient - mean)


def _without_subnormals(gradient: jax.Array) -> jax.Array:
    """Multiplies a tensor of tiny entries by an exact power of two; any other passes as it is.

    XLA treats subnormal numbers as 0 on a CPU, even as factors, and would see no difference between
    them. Their bits, read as integers, are exact multiples of the smallest one. What is lifted can
    be squared without overflow or underflow.
    """
    info = jnp.finfo(gradient.dtype)
    integer = jnp.dtype(f"int{info.bits}")
    lift, tiny_exponent = -info.minexp * 4 // 5, info.minexp // 2  # 2^100 and 2^-63 for float32

    magnitude = jax.lax.bitcast_convert_type(jnp.abs(gradient), integer)
    from_bits = magnitude.astype(gradient.dtype) * 2.0 ** (info.minexp - info.nmant + lift)
    is_subnormal = magnitude < 1 << info.nmant
    lifted = jnp.where(is_subnormal, jnp.copysign(from_bits, gradient), gradient * 2.0**lift)

    tiny = jax.lax.bitcast_convert_type(jnp.asarray(2.0**tiny_exponent, gradient.dtype), integer)
    return jnp.where(jnp.max(magnitude) < tiny, lifted, gradient)


def _in_one_dtype(arrays: list[jax.Array]) -> list[jax.Array]:
    """Casts to the widest dtype among `arrays`, so that one search serves all."""
    widest = jnp.result_type(jnp.float32, *arrays)
    return [array.astype(widest) for array in arrays]


def _checked_real(gradient: jax.Array) -> jax.Array:
    if not jnp.issubdtype(gradient.dtype, jnp.floating):
        raise TypeError(
            f"a filtered gradient must be real floating point, got dtype {gradient.dtype}."
        )
    return gradient
