"""From the gradient at w to w + ε."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._norm import tree_norm
from zsharp_jax._precision import at_least_float32, at_least_float32_dtype
from zsharp_jax._refusals import updated

T = TypeVar("T")

NarrowWeights = Literal["widened", "rounded"]
NARROW_WEIGHTS = get_args(NarrowWeights)


def perturbation_of(
    ascent: optax.GradientTransformation,
    gradients: optax.Updates,
    ascent_state: optax.OptState,
    params: optax.Params,
) -> tuple[optax.Updates, optax.OptState]:
    """What the ascent makes of the gradient at w, and its next state."""
    return updated("ascent", ascent, uphill(gradients), ascent_state, params)


def uphill(gradients: optax.Updates) -> optax.Updates:
    """Where the loss rises: the conjugate of JAX's gradient with respect to a complex number."""
    return jax.tree.map(jnp.conj, gradients)


def state_if_finite(
    next_state: optax.OptState, ascent_state: optax.OptState, norm: jax.Array
) -> optax.OptState:
    """The next state of the ascent where ||ε|| is finite, and else the one before.

    A single batch would spoil a running mean for good, whatever becomes of the update.
    """
    is_finite = jnp.isfinite(norm)
    return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), next_state, ascent_state)


def perturbed(params: optax.Params, perturbation: optax.Updates) -> optax.Params:
    """w + ε in float32 at least, for bfloat16 weights of size 1 would round a small ε away."""
    wide = jax.tree.map(at_least_float32, params)
    return optax.apply_updates(wide, optax.tree.cast_like(perturbation, wide))


def at_perturbed(
    function: Callable[[optax.Params], T],
    params: optax.Params,
    perturbation: optax.Updates,
    gradients: optax.Updates,
    narrow_weights: NarrowWeights,
) -> T:
    """The function at w + ε.

    Narrow weights come widened to float32, or rounded at random; `gradients` are the randomness.
    """
    wide = perturbed(params, perturbation)
    if narrow_weights == "rounded":
        return function(_rounded_at_random(wide, params, gradients))
    try:
        return function(wide)
    except (ArithmeticError, RuntimeError):
        raise
    except Exception as error:
        narrow = sorted({str(leaf.dtype) for leaf in _narrow_leaves(params)})
        if not narrow:
            raise
        jax.eval_shape(function, params)  # raises what is wrong at w too, which is another fault
        raise TypeError(
            f"the loss function failed at w + ε, where {' and '.join(narrow)} weights come as "
            "float32, so that a small ε is not rounded away. Where it needs the dtype of the "
            'weights (a scan, `lax.cond`, `lax.conv`), give `narrow_weights="rounded"`.'
        ) from error


def plain_where_zero(norm: jax.Array, plain: T, sharp_pass: Callable[[], T]) -> T:
    """The result at w where ||ε|| is zero (in all groups), else that of the second pass."""
    likes = jax.eval_shape(sharp_pass)  # a narrow loss is wider at w + ε

    def at_w():
        return jax.tree.map(_cast_like, plain, likes)

    return jax.lax.cond(jnp.all(norm == 0), at_w, sharp_pass)


def _cast_like(leaf: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf if leaf.dtype == like.dtype else leaf.astype(like.dtype)  # a key has no other dtype


def _narrow_leaves(params: optax.Params) -> list[jax.Array]:
    arrays = map(jnp.asarray, jax.tree.leaves(params))
    return [leaf for leaf in arrays if leaf.dtype != at_least_float32_dtype(leaf.dtype)]


def _rounded_at_random(
    wide: optax.Params, params: optax.Params, gradients: optax.Updates
) -> optax.Params:
    """Up or down to the dtype of the parameters, so that the mean is what was rounded."""
    # A run that is resumed rounds as before. Without the last bits of the norm it does so on
    # another number of devices too, except in about one step of 250.
    bits = jax.lax.bitcast_convert_type(tree_norm(gradients).astype(jnp.float32), jnp.uint32)
    leaves, treedef = jax.tree.flatten(wide)
    keys = jax.random.split(jax.random.key(bits >> 8), len(leaves))
    dtypes = [jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(params)]
    return treedef.unflatten(map(_leaf_rounded_at_random, leaves, dtypes, keys))


def _leaf_rounded_at_random(wide: jax.Array, dtype: jnp.dtype, key: jax.Array) -> jax.Array:
    nearest = wide.astype(dtype)
    if nearest.dtype == wide.dtype:
        return wide
    lost = wide - nearest.astype(wide.dtype)
    other = jnp.nextafter(nearest, jnp.where(lost > 0, jnp.inf, -jnp.inf).astype(dtype))
    gap = jnp.abs(other.astype(wide.dtype) - nearest.astype(wide.dtype))
    sharding = jax.typeof(wide).sharding
    chance = jax.random.uniform(
        key, wide.shape, wide.dtype, out_sharding=sharding if sharding.mesh.explicit_axes else None
    )
    return jnp.where(chance * gap < jnp.abs(lost), other, nearest)
