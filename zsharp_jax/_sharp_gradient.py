"""`jax.value_and_grad` with the gradient at w + ε, for loops that own their optimizer.

Both passes may take the batch in micro-batches or over devices, and groups of the batch may each
have a perturbation of their own.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._batch import every_kth, in_groups
from zsharp_jax._checks import (
    check_flags,
    check_is_ascent,
    check_is_loss,
    checked_argnums,
    checked_choice,
    checked_count,
    checked_unit_fraction,
)
from zsharp_jax._info import SamInfo, loss_and_aux
from zsharp_jax._mean_gradient import (
    LossFn,
    axis_size,
    is_averaged,
    mean_over_axis,
    mean_value_and_grad,
    varying,
)
from zsharp_jax._norm import tree_norm
from zsharp_jax._one_pass import (
    at_old_perturbation,
    one_pass_state,
    refuse_state_of_one_pass,
)
from zsharp_jax._perturb import (
    NARROW_WEIGHTS,
    NarrowWeights,
    at_perturbed,
    perturbation_of,
    plain_where_zero,
    state_if_finite,
)
from zsharp_jax._precision import at_least_float32
from zsharp_jax._refusals import check_params
from zsharp_jax._roles import check_ascent

GROUP_AXIS = "groups"


@dataclasses.dataclass(frozen=True)
class Ascend:
    """What `sharp_value_and_grad` returns: a function, and the state that it starts from."""

    init: Callable[[optax.Params], optax.OptState]
    function: Callable[..., tuple[tuple[Any, optax.Updates], optax.OptState, SamInfo]]

    def __call__(
        self, params: optax.Params, ascent_state: optax.OptState, *inputs: Any
    ) -> tuple[tuple[Any, optax.Updates], optax.OptState, SamInfo]:
        return self.function(params, ascent_state, *inputs)


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
    keep_gradients: bool = False,
    ascent_share: float = 1,
    one_pass: bool = False,
    narrow_weights: NarrowWeights = "widened",
) -> Ascend:
    """Makes a function that evaluates `loss_fn` at w and its gradient at w + ε.

    Args:
        loss_fn: `loss_fn(params, *inputs)` returns a scalar loss, or `(loss, aux)` with `has_aux`.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.
        has_aux: Whether `loss_fn` returns `(loss, aux)`. For a batch in parts see
            `mean_value_and_grad`. With `groups`, counters and keys are those of the first group.
        groups: Into how many groups of equal size the batch is split, each with a perturbation of
            its own (m-sharpness), whatever the devices; 1: one perturbation for all. Flax's
            BatchNorm takes statistics of each group, or with `axis_name="groups"` of all groups of
            its device (there is no such axis with one group). What an ascent keeps between steps
            (`friendly_sam`) is the mean over the groups.
        microbatches: In how many parts the batch, or each group, is taken in both passes, see
            `mean_value_and_grad`; like `groups` it needs a loss that is a mean over examples.
        axis_name: The axis of `jax.pmap` or `jax.shard_map` that the batch is spread over, see
            `mean_value_and_grad`. `groups` then counts the groups of all devices: 1, or a multiple
            of the number of devices, each of which gets equally many.
        batch_argnums: Which arguments of `loss_fn` hold the batch, see `mean_value_and_grad`.
        plain_if_zero: Whether the second pass is saved where ε is zero, by `jax.lax.cond`: the
            gradient is that at w anyway. For a rho that is 0 at times, see `periodic_rho`.
        keep_gradients: Whether `info` holds g and ε too, for the links of an optimizer's chain
            (`surrogate_gap`); with `groups`, their means over the groups.
        ascent_share: The share of the batch that the first gradient is taken on: 1, or 1/k for an
            integer k. Then it is that of every k-th example (`x[::k]` of each input that holds the
            batch, in every group), and a step costs 1 + 1/k passes. The clean loss, aux and ||g||
            are those of the share.
        one_pass: Whether ε comes from the gradient that the step before took at w + ε, so that a
            step takes one gradient and not two. The first step is plain, and a schedule of rho does
            not count it. Nothing is evaluated at w: `value` and aux are those at w + ε, and `info`
            has no `loss` and `gradient_norm`.
        narrow_weights: In which dtype the loss function gets w + ε if w is bfloat16 or float16, in
            which a small ε would round away. `"widened"`: float32, exact, which it must accept.
            `"rounded"`: the dtype of w, for a loss function that needs it (a scan over layers,
            `jax.lax.cond`, `jax.lax.conv`). Each entry then goes up or down to a neighbour at
            random, so that ε arrives on average, with noise orthogonal to it. The randomness comes
            from ||g||, so a resumed run repeats it.

    Returns:
        A function `ascend(params, ascent_state, *inputs)` that returns `(value, sharp_gradients),
        ascent_state, info`, where `value` is the clean loss, or `(loss, aux)` of the *clean*
        pass. Both passes get the same inputs, so the same dropout key. It is not compiled: call
        it under `jax.jit`. The first state is `ascend.init(params)`: with two passes that of
        `ascent.init`, with `one_pass` it holds a gradient too.

    Raises:
        TypeError: If an argument is of another kind than it should be; when called, if the
            parameters cannot be differentiated, or the loss function does not return what `has_aux`
            says.
        ValueError: If an argument is out of range; when called, if the batch cannot be split
            evenly, or if the ascent goes downhill or `ascent_state` is that of another.

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
        Bahri et al., Sharpness-Aware Minimization Improves Language Model Generalization, ACL 2022
        (a share of the batch for the ascent).
    """
    check_is_loss(loss_fn)
    check_is_ascent(ascent)
    check_flags(
        has_aux=has_aux,
        plain_if_zero=plain_if_zero,
        keep_gradients=keep_gradients,
        one_pass=one_pass,
    )
    checked_count("groups", groups)
    checked_choice("narrow_weights", narrow_weights, NARROW_WEIGHTS)
    argnums = checked_argnums("batch_argnums", batch_argnums)
    share_of = checked_unit_fraction("ascent_share", ascent_share)
    _refuse_what_saves_nothing(one_pass, groups, share_of, plain_if_zero)
    mean_of = functools.partial(
        mean_value_and_grad,
        loss_fn,
        has_aux,
        axis_name=axis_name if groups == 1 else None,
        batch_argnums=argnums,
    )
    value_and_grad = mean_of(microbatches=microbatches)
    first_value_and_grad = mean_of(microbatches=_share_of_microbatches(microbatches, share_of))
    each_group = functools.partial(jax.vmap, axis_name=GROUP_AXIS) if groups > 1 else _at_once

    def both_passes(params, ascent_state, parts, joined):
        """What `ascend` returns, of each group."""

        def first_pass(part):
            inputs = every_kth(joined(part), argnums, share_of)
            value, gradients = first_value_and_grad(params, *inputs)
            perturbation, next_state = perturbation_of(ascent, gradients, ascent_state, params)
            norms = tree_norm(gradients), tree_norm(perturbation)
            return value, gradients, perturbation, next_state, *norms

        def sharp_pass(part, gradients, perturbation):
            value, sharp_gradients = at_perturbed(
                lambda point: value_and_grad(point, *joined(part)),
                params,
                perturbation,
                gradients,
                narrow_weights,
            )
            # Those of narrow weights come in float32, which the optimizer does not expect.
            return value, optax.tree.cast_like(sharp_gradients, gradients)

        first = each_group(first_pass)(parts)
        value, gradients, perturbation, next_state, gradient_norm, norm = first
        second = functools.partial(each_group(sharp_pass), parts, gradients, perturbation)
        plain = (value, gradients)
        sharp = plain_where_zero(norm, plain, second) if plain_if_zero else second()

        sharp_value, sharp_gradients = sharp
        loss, aux = loss_and_aux(value, has_aux)
        sharp_loss, sharp_aux = loss_and_aux(sharp_value, has_aux)
        sharp_aux = sharp_aux if share_of > 1 else None
        info = SamInfo(loss, sharp_loss, gradient_norm, norm, aux, sharp_aux=sharp_aux)
        if keep_gradients:
            info = info._replace(clean_gradients=gradients, perturbation=perturbation)
        return (value, sharp_gradients), next_state, info

    def of_the_batch(params, ascent_state, *inputs):
        """The same, means over the groups."""
        if groups == 1:
            return both_passes(params, ascent_state, inputs, joined=list)
        groups_here = _groups_here(groups, axis_name)
        if axis_name is not None:
            params = varying(params, axis_name)
        parts, joined = in_groups(inputs, argnums, groups_here, params)
        means = jax.tree.map(_mean, both_passes(params, ascent_state, parts, joined))
        return means if axis_name is None else mean_over_axis(means, axis_name)

    def in_two_passes(params, ascent_state, *inputs):
        check_params(params)
        check_ascent(ascent, params)
        refuse_state_of_one_pass(ascent_state)
        result, next_state, info = of_the_batch(params, ascent_state, *inputs)
        # A mean is finite where all are, so that all groups and devices keep the same state.
        # (Where squares overflow, ||g|| is infinite and ε is 0.)
        norms = info.gradient_norm + info.perturbation_norm
        return result, state_if_finite(next_state, ascent_state, norms), info

    if one_pass:
        in_one_pass = at_old_perturbation(
            value_and_grad, ascent, has_aux, narrow_weights, keep_gradients
        )
        return Ascend(functools.partial(one_pass_state, ascent), in_one_pass)
    return Ascend(ascent.init, in_two_passes)


def _refuse_what_saves_nothing(
    one_pass: bool, groups: int, share_of: int, plain_if_zero: bool
) -> None:
    if one_pass and groups > 1:
        raise ValueError(
            "`one_pass` takes no `groups`: each would need a gradient of its own examples first."
        )
    if one_pass and share_of > 1:
        raise ValueError("`one_pass` has no first pass that `ascent_share` could make smaller.")
    if plain_if_zero and (one_pass or share_of > 1):
        raise ValueError(
            "`plain_if_zero` saves the second pass where the first one took the gradient of the "
            "batch at w, which it does not with `one_pass` or an `ascent_share` below 1."
        )


def _share_of_microbatches(microbatches: int, share_of: int) -> int:
    """How many micro-batches of about the same size hold every so many-th example."""
    if microbatches % share_of and share_of % microbatches:
        raise ValueError(
            "with `microbatches` the `ascent_share` must be a whole number of them, or a part of "
            f"one, got 1/{share_of} of {microbatches}."
        )
    return max(1, microbatches // share_of)


def _at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `jax.vmap` is to several groups, to the batch as a whole."""
    return function


def _groups_here(groups: int, axis_name: Hashable | None) -> int:
    """How many of all groups this device has."""
    if axis_name is None:
        return groups
    devices = axis_size(axis_name)
    if groups % devices:
        raise ValueError(
            f"`groups` must be 1 or a multiple of the {devices} devices of the axis "
            f"{axis_name!r}, got {groups}."
        )
    return groups // devices


def _mean(of_groups: jax.Array) -> jax.Array:
    """The mean over groups; what cannot be averaged, a counter or a key, is that of the first."""
    if not is_averaged(of_groups):
        return _gathered(of_groups)[0]
    return jnp.mean(at_least_float32(of_groups), axis=0).astype(of_groups.dtype)


def _gathered(of_groups: jax.Array) -> jax.Array:
    """The same on each device: one entry of what is spread over an explicit axis has no place."""
    sharding = jax.typeof(of_groups).sharding
    spread, *rest = sharding.spec
    if spread is None:
        return of_groups
    return jax.sharding.reshard(of_groups, jax.NamedSharding(sharding.mesh, jax.P(None, *rest)))
