"""`jax.value_and_grad` with the gradient at w + ε, for loops that own their optimizer.

Both passes may take the batch in micro-batches or over devices, and groups of the batch may each
have a perturbation of their own.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._batch import in_groups
from zsharp_jax._checks import checked_argnums, checked_count
from zsharp_jax._mean_gradient import (
    LossFn,
    is_averaged,
    mean_over_axis,
    mean_value_and_grad,
    varying,
)
from zsharp_jax._perturb import perturbation_of, perturbed, state_if_finite
from zsharp_jax._precision import at_least_float32, tree_norm

Ascend = Callable[..., tuple[tuple[Any, optax.Updates], optax.OptState, "SamInfo"]]

GROUP_AXIS = "groups"


class SamInfo(NamedTuple):
    """What one step tells about itself; the next step never needs it.

    With `groups`, losses and norms are means over the groups.

    Attributes:
        loss: The clean loss, at w.
        sharp_loss: The loss at w + ε on the same inputs.
        gradient_norm: ||g||, the L2 norm of the gradient at w over all parameters, in float32 at
            least.
        perturbation_norm: ||ε||, the L2 norm of the perturbation over all parameters, likewise.
        aux: What the loss function returned beside the loss at w; None without `has_aux`.
        skips: How many steps have been skipped; None but with `skip_nonfinite` of `sam_step`.
    """

    loss: jax.Array
    sharp_loss: jax.Array
    gradient_norm: jax.Array
    perturbation_norm: jax.Array
    aux: Any
    skips: Any = None


def sharp_value_and_grad(
    loss_fn: LossFn,
    ascent: optax.GradientTransformation,
    has_aux: bool = False,
    *,
    groups: int = 1,
    microbatches: int = 1,
    axis_name: Hashable | None = None,
    batch_argnums: int | Sequence[int] | None = None,
    plain_if_zero: bool = False,
) -> Ascend:
    """Makes a function that evaluates `loss_fn` at w and its gradient at w + ε.

    Args:
        loss_fn: `loss_fn(params, *inputs)` returns a scalar loss, or `(loss, aux)` with `has_aux`.
            It is evaluated at w + ε in float32 at least, also where w is narrower.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.
        has_aux: Whether `loss_fn` returns `(loss, aux)`. For a batch in parts see
            `mean_value_and_grad`; of groups, counters and keys are those of the first.
        groups: Into how many groups of equal size the batch is split, each with a perturbation of
            its own (m-sharpness), whatever the devices; 1: one perturbation for all. Flax's
            BatchNorm takes statistics of each group, or with `axis_name="groups"` of all groups of
            its device (there is no such axis with one group). What an ascent keeps between steps
            (`friendly_sam`) is the mean over the groups.
        microbatches: In how many parts the batch, or each group, is taken in both passes, see
            `mean_value_and_grad`; like `groups` it needs a loss that is a mean over examples.
        axis_name: The axis of `jax.pmap` or `jax.shard_map` that the batch is spread over, see
            `mean_value_and_grad`. Then `groups` are those of the batch of all devices: 1, or a
            multiple of their number, for as many on each.
        batch_argnums: Which arguments of `loss_fn` hold the batch, see `mean_value_and_grad`.
        plain_if_zero: Whether the second pass is saved where ε is zero, by `jax.lax.cond`: the
            gradient is that at w anyway. For a rho that is 0 at times, see `periodic_rho`.

    Returns:
        A function `ascend(params, ascent_state, *inputs)` that returns `(value, sharp_gradients),
        ascent_state, info`, where `value` is the clean loss, or `(loss, aux)` of the *clean*
        pass. Both passes get the same inputs, so the same dropout key. It is not compiled: call
        it under `jax.jit`.

    Raises:
        ValueError: If an argument is out of range, or, when called, if the batch cannot be split
            evenly.

    Example:
        >>> ascent = sam(rho=0.5)
        >>> ascend = sharp_value_and_grad(lambda w, target: jnp.sum((w - target) ** 2) / 2, ascent)
        >>> w = jnp.array([3.0, 4.0])
        >>> (loss, sharp_gradients), ascent_state, info = ascend(w, ascent.init(w), jnp.zeros(2))
        >>> print(loss, sharp_gradients, info.perturbation_norm)
        12.5 [3.3 4.4] 0.5

    References:
        Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering, section 2.1.
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR
        2021, section 4.1 (m-sharpness).
    """
    checked_count("groups", groups)
    argnums = checked_argnums("batch_argnums", batch_argnums)
    value_and_grad = mean_value_and_grad(
        loss_fn,
        has_aux,
        microbatches=microbatches,
        axis_name=axis_name if groups == 1 else None,
        batch_argnums=argnums,
    )
    each_group = _at_once if groups == 1 else functools.partial(jax.vmap, axis_name=GROUP_AXIS)

    def both_passes(params, ascent_state, parts, joined):
        """What `ascend` returns, of each group."""

        def clean_pass(part):
            return value_and_grad(params, *joined(part))

        def perturb(gradients):
            return perturbation_of(ascent, gradients, ascent_state, params)

        def sharp_pass(part, gradients, perturbation):
            value, sharp_gradients = value_and_grad(perturbed(params, perturbation), *joined(part))
            # Those of narrow weights come in float32, which the optimizer does not expect.
            return value, optax.tree.cast_like(sharp_gradients, gradients)

        value, gradients = each_group(clean_pass)(parts)
        perturbation, next_state = each_group(perturb)(gradients)
        norm = each_group(tree_norm)(perturbation)

        arguments = (parts, gradients, perturbation)
        if plain_if_zero:
            # A narrow loss is wider at w + ε.
            likes = jax.eval_shape(each_group(sharp_pass), *arguments)

            def plain(*_):
                return jax.tree.map(_cast_like, (value, gradients), likes)

            sharp_value, sharp_gradients = jax.lax.cond(
                jnp.all(norm == 0), plain, each_group(sharp_pass), *arguments
            )
        else:
            sharp_value, sharp_gradients = each_group(sharp_pass)(*arguments)

        loss, aux = value if has_aux else (value, None)
        sharp_loss = sharp_value[0] if has_aux else sharp_value
        info = SamInfo(loss, sharp_loss, each_group(tree_norm)(gradients), norm, aux)
        return (value, sharp_gradients), next_state, info

    def of_the_batch(params, ascent_state, *inputs):
        """The same, means over the groups."""
        if groups == 1:
            return both_passes(params, ascent_state, inputs, joined=lambda inputs: inputs)
        if axis_name is not None:
            params = varying(params, axis_name)
        parts, joined = in_groups(inputs, argnums, _groups_here(groups, axis_name))
        means = jax.tree.map(_mean, both_passes(params, ascent_state, parts, joined))
        return means if axis_name is None else mean_over_axis(means, axis_name)

    def ascend(params, ascent_state, *inputs):
        result, next_state, info = of_the_batch(params, ascent_state, *inputs)
        # A mean is finite where all are, so that all groups and devices keep the same state.
        return result, state_if_finite(next_state, ascent_state, info.perturbation_norm), info

    return ascend


def _at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `jax.vmap` is to several groups, to the batch as a whole."""
    return function


def _cast_like(leaf: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf if leaf.dtype == like.dtype else leaf.astype(like.dtype)  # a key has no other dtype


def _groups_here(groups: int, axis_name: Hashable | None) -> int:
    """How many of all groups this device has."""
    if axis_name is None:
        return groups
    devices = jax.lax.axis_size(axis_name)
    if groups % devices:
        raise ValueError(
            f"`groups` must be 1 or a multiple of the {devices} devices of the axis "
            f"{axis_name!r}, got {groups}."
        )
    return groups // devices


def _mean(of_groups: jax.Array) -> jax.Array:
    """The mean over groups; what cannot be averaged, a counter or a key, is that of the first."""
    if not is_averaged(of_groups):
        return of_groups[0]
    return jnp.mean(at_least_float32(of_groups), axis=0).astype(of_groups.dtype)
