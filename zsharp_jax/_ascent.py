"""Ascents: transformations from the gradient at w to the perturbation that is *added* to w.

Each is a chain of small pieces. `sam` brings a gradient to length rho; `zsharp` filters it first;
`friendly_sam` subtracts its running mean first; `asam` measures the length in units of the weights.

    sam(rho)          = scale_to_norm(rho)
    zsharp(rho)       = chain(zscore_filter(quantile), scale_to_norm(rho))
    friendly_sam(rho) = chain(subtract the running mean, scale_to_norm(rho))
    asam(rho)         = chain(times T, scale_to_norm(rho), times T)

(`zsharp` with the fallback of eq. 4.) `zsharp_reference` is no such chain: the authors' code scales
some tensors by norms of their own and some by that of the whole gradient.

A gradient of zero gives a perturbation of zero, and a negative value of a rho schedule counts as 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_choice, checked_nonnegative, checked_share
from zsharp_jax._filter import Scope, zscore_filter
from zsharp_jax._precision import at_least_float32, tree_norm
from zsharp_jax._scale import next_ascent, over_norm, rho_times, scale_to_norm

_REFERENCE_DELTA = 1e-12  # the authors' code


class SubtractRunningMeanState(NamedTuple):
    """What one ascent of `friendly_sam` hands to the next.

    Attributes:
        ascents: How many ascents have been taken, an int32 scalar.
        running_mean: The exponential moving average m of their gradients, in float32 at least.
    """

    ascents: jax.Array
    running_mean: optax.Updates


def sam(rho: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Sharpness-Aware Minimization: a perturbation of length rho along the gradient (paper, eq. 1).

    Args:
        rho: The length of the perturbation, at least 0, or a schedule of the number of ascents
            taken.

    Returns:
        A transformation from the gradient at w to the perturbation rho g / (||g|| + 1e-8), in the
        dtype of the gradient.

    Raises:
        ValueError: If `rho` is negative or not finite.

    Example:
        >>> ascent = sam(rho=0.05)
        >>> gradient = jnp.array([0.0, 2.0])
        >>> perturbation, _ = ascent.update(gradient, ascent.init(gradient))
        >>> print(perturbation)
        [0.   0.05]

    References:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR
        2021.
    """
    return scale_to_norm(rho)


def asam(rho: optax.ScalarOrSchedule, eta: float = 0.01) -> optax.GradientTransformation:
    """Adaptive SAM: the ball is measured in units of the weights.

    With T = |w| + eta, the perturbation is rho T^2 g / (||T g|| + 1e-8). T is 1 for a leaf whose
    last path key is `bias`, as in the authors' code.

    Args:
        rho: The length of the perturbation in units of T, at least 0, or a schedule of the number
            of ascents taken. It does not compare with the rho of `sam`; the ASAM paper uses 0.5.
        eta: What is added to |w|, at least 0, so that zero weights are perturbed too.

    Returns:
        A transformation whose update needs `params`, the weights w.

    Raises:
        ValueError: If `rho` or `eta` is negative or not finite, or, on update, if `params` is
            missing.

    Example:
        >>> ascent = asam(rho=1.0, eta=0.0)
        >>> params, gradients = {"kernel": jnp.array([1.0, 3.0])}, {"kernel": jnp.array([1.0, 1.0])}
        >>> perturbation, _ = ascent.update(gradients, ascent.init(params), params)
        >>> print(perturbation["kernel"])
        [0.31622776 2.8460498 ]

    References:
        Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization, ICML 2021.
    """
    checked_nonnegative("eta", eta)
    weighting = _times_weights(eta)
    return _in_float32(optax.chain(weighting, scale_to_norm(rho), weighting))


def friendly_sam(
    rho: optax.ScalarOrSchedule, sigma: float = 1.0, decay: float = 0.9
) -> optax.GradientTransformation:
    """Friendly SAM: the perturbation follows what is new in this batch's gradient.

    With the running mean m_t = decay m_{t-1} + (1 - decay) g, the perturbation is rho d / (||d||
    + 1e-8) along d = g - sigma m_{t-1}. On the first ascent m is g, and nothing is subtracted.

    Args:
        rho: The length of the perturbation, at least 0, or a schedule of the number of ascents
            taken.
        sigma: How much of the running mean is subtracted, at least 0; 0 is `sam`.
        decay: How much of the running mean is kept at each ascent, in [0, 1].

    Returns:
        A transformation that keeps the running mean, one copy of the gradient in float32 at least.

    Raises:
        ValueError: If `rho` or `sigma` is negative or not finite, or `decay` outside [0, 1].

    Example:
        >>> ascent = friendly_sam(rho=1.0)
        >>> state = ascent.init(jnp.zeros(2))
        >>> first, state = ascent.update(jnp.array([2.0, 0.0]), state)
        >>> second, state = ascent.update(jnp.array([2.0, 1.0]), state)
        >>> print(first, second)
        [1. 0.] [0. 1.]

    References:
        Li et al., Friendly Sharpness-Aware Minimization, CVPR 2024.
    """
    checked_nonnegative("sigma", sigma)
    checked_share("decay", decay)
    return _in_float32(optax.chain(_subtract_running_mean(sigma, decay), scale_to_norm(rho)))


def zsharp(
    rho: optax.ScalarOrSchedule,
    quantile: float = 0.95,
    *,
    percentile_scope: Scope = "layer",
    norm_scope: Scope = "global",
    min_ndim: int = 2,
) -> optax.GradientTransformation:
    """ZSharp as the paper has it: the ascent keeps only the entries with the largest |z-scores|.

    The filtered gradient g' of `zscore_filter` gives the perturbation rho g' / (||g'|| + 1e-8).
    Where nothing is kept, the whole gradient takes its place: `sam` (paper, eq. 4).

    Args:
        rho: The length of the perturbation, at least 0, or a schedule of the number of ascents
            taken.
        quantile: The quantile Q_p of |z| in [0, 1) below which entries are left out. A Python
            number.
        percentile_scope: `"layer"`: the quantile of each tensor; `"global"`: one over all tensors.
        norm_scope: `"global"`: one norm, so ||perturbation|| = rho; `"layer"`: each tensor,
            filtered or not, is brought to rho by itself and falls back by itself.
        min_ndim: Tensors with fewer axes pass unfiltered, and count in the norm.

    Returns:
        A transformation from the gradient at w to the perturbation, in the dtype of the gradient.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If `quantile` or `min_ndim` is a JAX array.

    Example:
        >>> ascent = zsharp(rho=0.5, quantile=0.5)
        >>> gradients = {"kernel": jnp.array([[0.1, -3.0], [0.2, 4.0]])}
        >>> perturbation, _ = ascent.update(gradients, ascent.init(gradients))
        >>> print(perturbation["kernel"])
        [[ 0.  -0.3]
         [ 0.   0.4]]

    References:
        Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering, eq. 3 and 4.
    """
    checked_choice("percentile_scope", percentile_scope, ("layer", "global"))
    checked_choice("norm_scope", norm_scope, ("global", "layer"))
    outstanding = zscore_filter(quantile, scope=percentile_scope, min_ndim=min_ndim)
    return optax.chain(
        _whole_where_nothing_is_kept(outstanding, norm_scope), scale_to_norm(rho, scope=norm_scope)
    )


def zsharp_reference(
    rho: optax.ScalarOrSchedule, quantile: float = 0.95
) -> optax.GradientTransformation:
    """ZSharp as the authors' published code has it, which is not what the paper says.

    Every tensor with two axes or more is filtered by its own quantile and brought to rho *by
    itself*, so K such tensors give ||perturbation|| of about rho sqrt(K): 7.5 times that of `sam`
    on ResNet-56. All other tensors, and a tensor of which nothing is kept, become rho g / ||g||
    with the norm of the whole unfiltered gradient.

    Args:
        rho: The length of the perturbation of each tensor, at least 0, or a schedule of the
            number of ascents taken.
        quantile: The quantile of |z| in [0, 1) below which entries are left out. A Python number.

    Returns:
        A transformation from the gradient at w to the perturbation, in the dtype of the gradient.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If `quantile` is a JAX array.

    Example:
        >>> ascent = zsharp_reference(rho=1.0, quantile=0.5)
        >>> gradients = {"kernel": jnp.array([[0.1, -3.0], [0.2, 4.0]]), "bias": jnp.array([0.0])}
        >>> perturbation, _ = ascent.update(gradients, ascent.init(gradients))
        >>> print(perturbation["kernel"])
        [[ 0.  -0.6]
         [ 0.   0.8]]

    References:
        The authors' code, main.py, class SAM with zsam=True.
    """
    outstanding = zscore_filter(quantile, min_ndim=2)

    def direction(gradients):
        filtered, _ = outstanding.update(gradients, outstanding.init(gradients))
        whole_norm = tree_norm(gradients)

        def one_tensor(gradient, kept):
            alone = (gradient.ndim > 1) & jnp.any(kept != 0)
            by_itself = over_norm(kept, tree_norm(kept), _REFERENCE_DELTA)
            return jnp.where(alone, by_itself, over_norm(gradient, whole_norm, _REFERENCE_DELTA))

        return jax.tree.map(one_tensor, gradients, filtered)

    return rho_times(rho, direction)


def _whole_where_nothing_is_kept(
    outstanding: optax.GradientTransformation, norm_scope: Scope
) -> optax.GradientTransformation:
    """Filters, but passes the gradient whole where all of the filtered one is 0 (paper, eq. 4)."""

    def whole_if_empty(filtered, gradients):
        return optax.tree.where(tree_norm(filtered) == 0, gradients, filtered)

    def filter_gradients(gradients, params=None):
        del params
        filtered, _ = outstanding.update(gradients, outstanding.init(gradients))
        if norm_scope == "layer":
            return jax.tree.map(whole_if_empty, filtered, gradients)
        return whole_if_empty(filtered, gradients)

    return optax.stateless(filter_gradients)


def _times_weights(eta: float) -> optax.GradientTransformation:
    """Multiplies by ASAM's T: |w| + eta, or 1 for a leaf named `bias`."""

    def multiply(gradients, params):
        if params is None:
            raise ValueError(
                "`asam` measures in units of the weights and needs `params`: "
                "call `update(gradients, state, params)`."
            )

        def one_leaf(path, gradient, weight):
            if _leaf_name(path) == "bias":
                return gradient
            return gradient * (jnp.abs(at_least_float32(weight)) + eta)

        return jax.tree_util.tree_map_with_path(one_leaf, gradients, params)

    return optax.stateless(multiply)


def _leaf_name(path: jax.tree_util.KeyPath) -> str:
    # A Flax NNX variable holds its array one level deeper, in its attribute `value`.
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path[-1:], simple=True)


def _subtract_running_mean(sigma: float, decay: float) -> optax.GradientTransformation:
    def init_fn(params):
        zeros = optax.tree.zeros_like(jax.tree.map(at_least_float32, params))
        return SubtractRunningMeanState(jnp.zeros([], jnp.int32), zeros)

    def update_fn(updates, state, params=None):
        del params
        is_first = state.ascents == 0

        def news_of(gradient, mean):
            return jnp.where(is_first, gradient, gradient - sigma * mean)

        def moved(gradient, mean):
            mixed = decay * mean + (1 - decay) * gradient
            return jnp.where(is_first, gradient, mixed).astype(mean.dtype)

        news = jax.tree.map(news_of, updates, state.running_mean)
        running_mean = jax.tree.map(moved, updates, state.running_mean)
        return news, SubtractRunningMeanState(next_ascent(state.ascents), running_mean)

    return optax.GradientTransformation(init_fn, update_fn)


def _in_float32(ascent: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs a chain in float32 at least, for what its pieces hand on would vanish in float16."""

    def update_fn(updates, state, params=None):
        widened = jax.tree.map(at_least_float32, updates)
        perturbation, state = ascent.update(widened, state, params)
        return optax.tree.cast_like(perturbation, updates), state

    return optax.GradientTransformation(ascent.init, update_fn)
