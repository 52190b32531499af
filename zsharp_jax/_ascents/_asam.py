"""The ascent that measures lengths in units of the weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._ascents._scale import in_float32, scale_to_norm
from zsharp_jax._checks import checked_nonnegative
from zsharp_jax._per_leaf import bools_of_leaves, check_bools
from zsharp_jax._precision import at_least_float32


def asam(
    rho: optax.ScalarOrSchedule, eta: float = 0.01, *, adaptive: Any = None
) -> optax.GradientTransformation:
    """Adaptive SAM: the ball is measured in units of the weights.

    With T = |w| + eta, the perturbation is rho T^2 g / (||T g|| + 1e-8). T is 1 for biases, as in
    the authors' code.

    Args:
        rho: The length of the perturbation in units of T, at least 0, or a schedule, which
            gets the number of steps taken so far. It does not compare with the rho of `sam`;
            the ASAM paper uses 0.5.
        eta: What is added to |w|, at least 0, so that zero weights are perturbed too.
        adaptive: True where T is |w| + eta, False where T is 1: a bool, a tree of bools like the
            parameters or the top of one, or a function from the parameters to such a tree. None
            means True but for leaves whose last path key is `bias`. Haiku calls biases `b`, and a
            list has no names: choose the leaves by their shape there, e.g.
            `adaptive=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)`.

    Returns:
        A transformation whose update needs `params`, the weights w.

    Raises:
        ValueError: If `rho` or `eta` is negative or not finite, or, on update, if `params` is
            missing or `adaptive` does not fit them.
        TypeError: If a number is given as text.

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
    check_bools("adaptive", adaptive)
    weighting = _times_weights(eta, adaptive)
    return in_float32(optax.chain(weighting, scale_to_norm(rho), weighting))


def _times_weights(eta: float, adaptive: Any) -> optax.GradientTransformation:
    """Multiplies by ASAM's T: |w| + eta, or 1 where it does not adapt."""

    def multiply(gradients, params):
        if params is None:
            raise ValueError(
                "`asam` measures in units of the weights and needs `params`: "
                "call `update(gradients, state, params)`."
            )
        adapts = bools_of_leaves("adaptive", _no_bias if adaptive is None else adaptive, params)

        def one_leaf(gradient, weight, adapts):
            if not adapts:
                return gradient
            unit = jnp.abs(at_least_float32(weight))
            return gradient * (unit + jnp.asarray(eta, unit.dtype)).astype(gradient.dtype)

        return jax.tree.map(one_leaf, gradients, params, adapts)

    return optax.stateless(multiply)


def _no_bias(params: optax.Params) -> Any:
    is_other = lambda path, _: _leaf_name(path) != "bias"  # noqa: E731
    return jax.tree_util.tree_map_with_path(is_other, params)


def _leaf_name(path: jax.tree_util.KeyPath) -> str:
    # A Flax NNX variable holds its array one level deeper, in its attribute `value`.
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path[-1:], simple=True)
