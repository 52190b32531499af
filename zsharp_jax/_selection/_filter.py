"""Which entries of a gradient stand out: the mask of ZSharp (paper, eq. 3)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import AxisType

from zsharp_jax._checks import checked_choice, checked_min_ndim, checked_quantile, checked_real
from zsharp_jax._mesh import lies_on_mesh, mesh_axes
from zsharp_jax._per_leaf import check_bools, chosen_leaves, stacked_of_leaves
from zsharp_jax._selection._in_place import thresholds_in_place
from zsharp_jax._selection._rows import thresholds_in_rows
from zsharp_jax._selection._sharded import thresholds_on_mesh, with_automatic_axes
from zsharp_jax._selection._threshold import Request, Scope, Threshold


def zscore_filter(
    quantile: float,
    *,
    scope: Scope = "layer",
    min_ndim: int = 2,
    stacked: Any = None,
    filtered: Any = None,
) -> optax.GradientTransformation:
    """Keeps the gradient entries whose |z-score| lies strictly above a quantile; the others
    become 0.

    A layer is one parameter tensor, or one slice of a tensor that stacks layers. Its z-scores are
    z = (g - mean g) / std g with the population standard deviation (paper, section 2.2). Kept
    entries keep their *original* gradient. Without ties `n - 1 - floor(quantile * (n - 1))` of n
    entries are kept. The threshold is an exact order statistic, found without sorting and without
    gathering a sharded tensor.

    As an ascent it needs `scale_to_norm` after it, or ε would be as long as the gradient.

    Args:
        quantile: The quantile Q_p of |z| in [0, 1); 0.95 keeps the top 5 %. A Python number.
        scope: `"layer"` takes the quantile of each layer by itself, as the authors' code does (the
            standard deviation cancels). `"global"` takes one quantile over the |z| of all filtered
            layers together, the literal reading of eq. 3; a constant layer has z = 0.
        min_ndim: Layers with fewer axes (biases, BatchNorm scales at the default) pass unfiltered.
        stacked: How many leading axes of a leaf stack layers, as the parameters of a scan over
            layers do: 0 for none. An integer, a tree of integers like the parameters or the top of
            one, or a function from the gradients (structure, names and shapes) to such a tree.
        filtered: Which leaves are filtered: as `stacked`, with bools for the integers. None: those
            with `min_ndim` axes or more beside the stacked ones.

    Returns:
        A stateless transformation. It preserves structure, dtype and sharding. Means and
        deviations are taken in float32 at least. A layer with a NaN passes unfiltered, NaN
        included. Entries below the smallest normal number may count as 0.

    Raises:
        ValueError: If an argument is out of range, or, on update, if a tree does not fit the
            gradients or a layer has 2^31 entries or more.
        TypeError: If `quantile` or `min_ndim` is a JAX array or a string, or, on update, if a
            filtered gradient is not real floating point.

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
    return _filter(quantile, scope, min_ndim, stacked, filtered, by_zscore=True)


def magnitude_filter(
    quantile: float,
    *,
    scope: Scope = "layer",
    min_ndim: int = 2,
    stacked: Any = None,
    filtered: Any = None,
) -> optax.GradientTransformation:
    """Keeps the gradient entries whose size |g| lies strictly above a quantile of |g|; the others
    become 0.

    It is `zscore_filter` without the mean and the standard deviation, to tell what those add. It is
    not in the paper.

    Args:
        quantile: The quantile of |g| in [0, 1); 0.95 keeps the top 5 %. A Python number.
        scope: Whether it is that of each layer by itself or one over all filtered layers.
        min_ndim: Layers with fewer axes pass unfiltered.
        stacked: How many leading axes of a leaf stack layers, see `zscore_filter`.
        filtered: Which leaves are filtered, see `zscore_filter`.

    Returns:
        A stateless transformation. It preserves structure, dtype and sharding.

    Raises:
        ValueError: As `zscore_filter` does.
        TypeError: As `zscore_filter` does.

    Example:
        >>> gradient = jnp.array([[1.0, -2.0], [3.0, -40.0]])
        >>> transformation = magnitude_filter(0.5)
        >>> print(transformation.update(gradient, transformation.init(gradient))[0])
        [[  0.   0.]
         [  3. -40.]]
    """
    return _filter(quantile, scope, min_ndim, stacked, filtered, by_zscore=False)


def _filter(
    quantile: float, scope: Scope, min_ndim: int, stacked: Any, filtered: Any, *, by_zscore: bool
) -> optax.GradientTransformation:
    quantile = checked_quantile(quantile)
    checked_choice("scope", scope, ("layer", "global"))
    min_ndim = checked_min_ndim(min_ndim)
    check_bools("filtered", filtered)

    def filter_gradients(gradients, params=None):
        del params
        leaves, treedef = jax.tree.flatten(gradients)
        of_leaves = stacked_of_leaves(stacked, gradients)
        are_chosen = jax.tree.leaves(chosen_leaves(filtered, gradients, of_leaves, min_ndim))
        counts = jax.tree.leaves(of_leaves)
        chosen = [i for i, leaf in enumerate(leaves) if are_chosen[i] and leaf.size > 0]
        if chosen:
            request = Request(quantile, scope, by_zscore, tuple(counts[i] for i in chosen))
            results = _kept([checked_real(leaves[i]) for i in chosen], request)
            for i, leaf in zip(chosen, results, strict=True):
                leaves[i] = leaf
        return jax.tree.unflatten(treedef, leaves)

    return optax.stateless(filter_gradients)


def kept(
    gradients: Sequence[jax.Array],
    request: Request,
    thresholds: Callable[[Sequence[jax.Array], Request], list[Threshold]],
) -> list[jax.Array]:
    """The gradients with 0 in place of what does not stand out."""
    # Which entries are kept does not change where a gradient does a little.
    found = thresholds(jax.lax.stop_gradient(gradients), request)
    return [own.keep(gradient) for own, gradient in zip(found, gradients, strict=True)]


# Compiled as a whole, so that a filter that is not under jit compiles its search once.
@functools.partial(jax.jit, static_argnames="request")
def _kept(gradients: list[jax.Array], request: Request) -> list[jax.Array]:
    return kept(gradients, request, _thresholds)


def _thresholds(gradients: Sequence[jax.Array], request: Request) -> list[Threshold]:
    kinds = set().union(*map(mesh_axes, gradients))
    on_mesh = lies_on_mesh(*gradients)

    def on_cpu(*gradients):
        return thresholds_in_place(gradients, request, folded=not on_mesh)

    def elsewhere(*gradients):
        if not on_mesh:
            return thresholds_in_rows(gradients, request)
        if AxisType.Manual in kinds:
            # Nobody tells how the other axes split what one device has in a `shard_map`.
            return thresholds_in_place(gradients, request, folded=False)
        return thresholds_on_mesh(gradients, request)

    def thresholds(*gradients):
        return jax.lax.platform_dependent(*gradients, cpu=on_cpu, default=elsewhere)

    if AxisType.Explicit in kinds:
        return with_automatic_axes(thresholds, gradients, request)
    return thresholds(*gradients)
