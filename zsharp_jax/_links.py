"""Links for the chain of the optimizer: what reaches it is made of both gradients, at w and w + ε.

    optax.chain(surrogate_gap(0.4), optax.adamw(1e-3))

`sam_step` and `sharpness_aware` hand g, the gradient at w, and ε to the optimizer as the extra
arguments `clean_gradients` and `perturbation`, which `optax.chain` passes on to these links. What
they get as updates is g_s, the gradient at w + ε. Inner products and norms are taken in float32 at
least, over all parameters that the link gets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_nonnegative, scheduled
from zsharp_jax._norm import tree_norm
from zsharp_jax._precision import at_least_float32, at_least_float32_dtype, wide_zeros
from zsharp_jax._trees import first_difference

_ROUNDING = 10  # in units of the last place: what a difference of vectors loses in float32 or wider


class LinkState(NamedTuple):
    """What a link that keeps nothing but a count hands to the next step.

    Attributes:
        steps: How many steps have been taken, an int32 scalar; a schedule reads it.
    """

    steps: jax.Array


class LookBackState(NamedTuple):
    """What `look_back` hands to the next step.

    Attributes:
        direction: v / ||v|| of the last sharp step, in float32 at least; 0 before it.
    """

    direction: optax.Updates


def surrogate_gap(alpha: float = 0.4) -> optax.GradientTransformationExtraArgs:
    """GSAM: also closes the gap between the loss at w + ε and the loss at w.

    It goes against the part of g that is orthogonal to g_s: the optimizer gets
    g_s - alpha (g - (<g, g_s> / ||g_s||^2) g_s). If g_s is zero, or the square of its norm
    overflows, it gets g_s. A plain step, with g_s = g, stays as it is. With `groups`, both
    gradients are means over the groups (the authors take the parts of each worker before the mean).

    Args:
        alpha: How much of that part is subtracted, at least 0 (authors: 0.4 for ResNets, 0.6 for
            ViTs); 0 changes nothing.

    Returns:
        A link for the front of the optimizer's chain. Its update needs `clean_gradients`.

    Raises:
        ValueError: If `alpha` is negative or not finite; on update, if `clean_gradients` is
            missing.
        TypeError: If a number is given as text.

    Example:
        >>> link = surrogate_gap(alpha=1.0)
        >>> sharp, clean = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
        >>> updates, _ = link.update(sharp, link.init(sharp), clean_gradients=clean)
        >>> print(updates)
        [ 2. -1.]

    References:
        Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR 2022.
    """
    checked_nonnegative("alpha", alpha)

    def combine(sharp, clean, steps):
        del steps
        across = _part_across(clean, sharp)
        return jax.tree.map(lambda s, v: s - _in_dtype_of(v, alpha) * v, sharp, across)

    return _link("surrogate_gap", combine, is_neutral=_is(alpha, 0))


def mix_gradients(weight: optax.ScalarOrSchedule = 0.8) -> optax.GradientTransformationExtraArgs:
    """GNP and WSAM: the optimizer gets (1 - weight) g + weight g_s.

    That penalizes the norm of the gradient. WSAM with its gamma in the coupled form is
    weight = gamma / (1 - gamma).

    Args:
        weight: The share of the gradient at w + ε, at least 0, or a schedule of the number of
            steps taken, whose negative values count as 0; 1 changes nothing, 0 leaves the gradient
            at w. GNP's authors take 0.8.

    Returns:
        A link for the front of the optimizer's chain. Its update needs `clean_gradients`.

    Raises:
        ValueError: If `weight` is negative or not finite; on update, if `clean_gradients` is
            missing.
        TypeError: If a number is given as text.

    Example:
        >>> link = mix_gradients(weight=0.75)
        >>> sharp, clean = jnp.array([4.0, 0.0]), jnp.array([0.0, 4.0])
        >>> updates, _ = link.update(sharp, link.init(sharp), clean_gradients=clean)
        >>> print(updates)
        [3. 1.]

    References:
        Zhao et al., Penalizing Gradient Norm for Efficiently Improving Generalization in Deep
        Learning, ICML 2022.
        Yue et al., Sharpness-Aware Minimization Revisited: Weighted Sharpness as a Regularization
        Term, KDD 2023.
    """
    checked_nonnegative("weight", 0 if callable(weight) else weight)

    def combine(sharp, clean, steps):
        share: Any = weight
        if callable(weight):
            share = jnp.maximum(scheduled("weight", weight, steps), 0)
        return jax.tree.map(
            lambda s, g: _in_dtype_of(g, 1 - share) * g + _in_dtype_of(s, share) * s, sharp, clean
        )

    return _link("mix_gradients", combine, is_neutral=_is(weight, 1))


def look_back(alpha: float = 0.7) -> optax.GradientTransformationExtraArgs:
    """LookSAM: plain steps in between reuse what the last sharp step has found.

    A sharp step (ε is not 0) hands on g_s and keeps v / ||v||, where v is the part of g_s that is
    orthogonal to g. A plain step hands on g + alpha ||g|| v / ||v||, or g where v is no larger than
    what rounding leaves, or the square of ||g|| overflows. It goes with an ascent of
    `periodic_rho(rho, every=k)` and `plain_if_zero=True`: 1 + 1/k passes a step.

    Args:
        alpha: How much of the kept direction is added, at least 0 (authors: 0.7; 0.2 to 1 are in
            use); 0 leaves plain steps as they are.

    Returns:
        A link for the front of the optimizer's chain, which keeps one copy of the gradient in
        float32 at least. Its update needs `clean_gradients` and `perturbation`.

    Raises:
        ValueError: If `alpha` is negative or not finite; on update, if `clean_gradients` or
            `perturbation` is missing.
        TypeError: If a number is given as text.

    Example:
        >>> link = look_back(alpha=1.0)
        >>> sharp, clean = jnp.array([3.0, 1.0]), jnp.array([3.0, 0.0])
        >>> state = link.init(sharp)
        >>> _, state = link.update(sharp, state, clean_gradients=clean, perturbation=clean)
        >>> updates, _ = link.update(clean, state, clean_gradients=clean, perturbation=0 * clean)
        >>> print(state.direction, updates)
        [0. 1.] [3. 3.]

    References:
        Liu et al., Towards Efficient and Scalable Sharpness-Aware Minimization, CVPR 2022.
    """
    checked_nonnegative("alpha", alpha)

    def init_fn(params):
        return LookBackState(wide_zeros(params))

    def update_fn(
        updates, state, params=None, *, clean_gradients=None, perturbation=None, **extra_args
    ):
        del params, extra_args
        clean = _needed("look_back", "clean_gradients", clean_gradients, updates)
        is_sharp = tree_norm(_needed("look_back", "perturbation", perturbation, updates)) > 0
        if _is(alpha, 0):
            return updates, state
        gradients = jax.tree.map(at_least_float32, updates)

        across = _part_across(gradients, clean)
        length, whole = tree_norm(across), tree_norm(gradients)
        # Where g_s lies along g, what is left across is what rounding leaves.
        rounding = max(map(_rounding, jax.tree.leaves(updates)), default=0.0)
        is_there = length > rounding * whole
        safe = jnp.where(is_there, length, 1)
        found = jax.tree.map(lambda v: jnp.where(is_there, v / _in_dtype_of(v, safe), 0), across)
        # What is not finite would spoil every step up to the next sharp one.
        direction = optax.tree.where(is_sharp & jnp.isfinite(length), found, state.direction)

        step = jnp.where(is_sharp, 0, _in_dtype_of(whole, alpha) * _or_zero(whole))
        combined = jax.tree.map(lambda g, v: g + _in_dtype_of(v, step) * v, gradients, direction)
        direction = optax.tree.cast_like(direction, state.direction)
        return optax.tree.cast_like(combined, updates), LookBackState(direction)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _link(
    name: str,
    combine: Callable[[optax.Updates, optax.Updates, jax.Array], optax.Updates],
    is_neutral: bool,
) -> optax.GradientTransformationExtraArgs:
    """Hands on what `combine` makes of g_s, g (both in float32 at least) and the count of steps.

    A neutral link hands g_s on as it is: what else is computed of it could change its last bit.
    """

    def init_fn(params):
        del params
        return LinkState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, *, clean_gradients=None, **extra_args):
        del params, extra_args
        clean = _needed(name, "clean_gradients", clean_gradients, updates)
        if is_neutral:
            return updates, state
        combined = combine(jax.tree.map(at_least_float32, updates), clean, state.steps)
        steps = jnp.asarray(optax.safe_increment(state.steps))
        return optax.tree.cast_like(combined, updates), LinkState(steps)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _needed(link: str, argument: str, tree: Any, updates: optax.Updates) -> optax.Updates:
    """An extra argument in float32 at least, without what `optax.partition` has masked out."""
    if tree is None:
        raise ValueError(
            f"`{link}` needs `{argument}`, which `sam_step` and `sharpness_aware` pass to their "
            "optimizer: put it in front of that, `optax.chain(" + link + "(...), optimizer)`. A "
            "loop of your own passes what `sharp_value_and_grad(..., keep_gradients=True)` has in "
            "its info: `optimizer.update(gradients, opt_state, params, "
            "clean_gradients=info.clean_gradients, perturbation=info.perturbation)`. With "
            "`one_pass=True` no gradient is taken at w, so no link can be used."
        )

    def one_leaf(update, leaf):
        return update if _is_masked(update) else at_least_float32(leaf)

    is_partial = any(map(_is_masked, jax.tree.leaves(updates, is_leaf=_is_masked)))
    if not is_partial and (difference := first_difference(updates, tree)):
        raise ValueError(
            f"the gradients that `{link}` gets must be a tree like `{argument}`, but {difference}: "
            "put the link where they have the form of the parameters, outside of `optax.flatten`."
        )
    return jax.tree.map(one_leaf, updates, tree, is_leaf=_is_masked)


def _is(value: Any, neutral: float) -> bool:
    return isinstance(value, (int, float)) and value == neutral


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _part_across(tree: optax.Updates, other: optax.Updates) -> optax.Updates:
    """The part of a gradient that is orthogonal to another one.

    It is 0 where the other is zero, or has a norm that is not finite.
    """
    length = _or_zero(tree_norm(other))
    along = jax.tree.map(
        lambda leaf: leaf / _in_dtype_of(leaf, jnp.where(length > 0, length, 1)), other
    )
    products = map(_real_product, jax.tree.leaves(tree), jax.tree.leaves(along))
    product = sum(each.astype(length.dtype) for each in products)

    def across(leaf, along):
        return jnp.where(length > 0, leaf - _in_dtype_of(along, product) * along, 0)

    return jax.tree.map(across, tree, along)


def _in_dtype_of(leaf: jax.Array, number: Any) -> jax.Array:
    """A number in the dtype of a leaf, which strict promotion asks for."""
    return jnp.asarray(number).astype(leaf.dtype)


def _rounding(leaf: jax.Array) -> float:
    """How large a part of a gradient may be what rounding has left, also before it was widened."""
    own, wide = (jnp.finfo(d).eps for d in (leaf.dtype, at_least_float32_dtype(leaf.dtype)))
    return float(max(own, _ROUNDING * wide))


def _or_zero(norm: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(norm), norm, 0)


def _real_product(one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.sum(jnp.real(jnp.conj(one) * other))
