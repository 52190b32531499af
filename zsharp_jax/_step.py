"""One sharpness-aware step: clean pass at w, ascent, sharp pass at w + ε, update from w.

Three ways to take it:

- `sharp_value_and_grad` is `jax.value_and_grad` with the sharp gradient, for any training loop.
- `sharpness_aware` makes an Optax optimizer of it, for loops that call `optimizer.update`.
- `sam_step` is the whole step, compiled, for those who want no loop of their own.

An ascent is any Optax transformation from the gradient at w to the perturbation ε.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import (
    check_flags,
    check_is_ascent,
    check_is_loss,
    check_is_optimizer,
    checked_count,
)
from zsharp_jax._extra_args import with_extra_args
from zsharp_jax._info import SamInfo
from zsharp_jax._mean_gradient import LossFn
from zsharp_jax._one_pass import one_pass_state
from zsharp_jax._perturb import NarrowWeights, uphill
from zsharp_jax._placement import compiled_in_place, own_array, placed_beside
from zsharp_jax._refusals import (
    check_params,
    naming_what_is_no_state,
    refuse_accumulated_links,
    updated,
)
from zsharp_jax._roles import check_ascent, check_optimizer
from zsharp_jax._sharp_gradient import sharp_value_and_grad
from zsharp_jax._skips import Skips, all_finite, counted, stopping


class SamState(NamedTuple):
    """What one step hands to the next.

    Attributes:
        params: The parameters w, never the perturbed ones.
        opt_state: The state of the optimizer.
        ascent_state: The state of the ascent.
        step: How many steps have been taken, an int32 scalar.
        skips: How many have been skipped, see `skip_nonfinite` of `sam_step`.
    """

    params: optax.Params
    opt_state: optax.OptState
    ascent_state: optax.OptState
    step: jax.Array
    skips: Skips = Skips()


def init_state(
    params: optax.Params,
    optimizer: optax.GradientTransformation,
    ascent: optax.GradientTransformation,
    *,
    one_pass: bool = False,
) -> SamState:
    """The state before the first step of `sam_step`.

    The state shares no memory with `params`, so they stay usable after a step has taken over the
    state's memory. Place the parameters on a device or a mesh first: the counters go to the same
    place. (Under `jax.jit` that place is not known; give `out_shardings` there.)

    Args:
        params: The parameters to start from. `jax.ShapeDtypeStruct`s in their place give the state
            that `jax.eval_shape` would, for a checkpoint to be restored into.
        optimizer: The optimizer of the descent.
        ascent: The ascent, such as `zsharp(0.05)`.
        one_pass: As in `sam_step`: the state then holds the gradient of the step before, too.

    Returns:
        The first `SamState`.

    Raises:
        TypeError: If `params` holds anything but floating-point or complex arrays, or all variables
            of a Flax model, or if `optimizer` or `ascent` is no Optax transformation.
        ValueError: If the optimizer goes uphill or the ascent downhill (they may be swapped), if
            one of them ends in an `optax.masked` that hands on the raw gradient, or the optimizer
            in a link, or if it is an `optax.lookahead`.

    Example:
        >>> state = init_state({"w": jnp.ones(3)}, optax.sgd(0.1), sam(rho=0.05))
        >>> print(state.params["w"], state.step)
        [1. 1. 1.] 0
    """
    check_flags(one_pass=one_pass)
    check_is_optimizer(optimizer)
    check_is_ascent(ascent)
    check_params(params)
    check_optimizer(optimizer, params)
    check_ascent(ascent, params)

    def first_state(params):
        step_count = jnp.zeros([], jnp.int32)
        ascent_state = one_pass_state(ascent, params) if one_pass else ascent.init(params)
        state = SamState(params, optimizer.init(params), ascent_state, step_count)
        return jax.tree.map(own_array, state)

    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        return jax.eval_shape(first_state, params)._replace(params=params)
    return placed_beside(params, first_state(params))


def sam_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    ascent: optax.GradientTransformation,
    has_aux: bool = False,
    *,
    groups: int = 1,
    microbatches: int = 1,
    axis_name: Hashable | None = None,
    batch_argnums: int | Sequence[int] | None = None,
    plain_if_zero: bool = False,
    ascent_share: float = 1,
    one_pass: bool = False,
    narrow_weights: NarrowWeights = "widened",
    skip_nonfinite: bool = False,
    max_consecutive_skips: int = 10,
    donate: bool = True,
) -> Callable[..., tuple[SamState, SamInfo]]:
    """Compiles one training step: clean pass, ascent, sharp pass, and the update from w.

    It is single-program JAX: given a state and inputs that are laid out over a mesh of devices
    it runs on all of them, and means, quantiles and norms are those of the whole.

    Args:
        loss_fn: `loss_fn(params, *inputs)` returns a scalar loss, or `(loss, aux)` with
            `has_aux`. For BatchNorm, pass the statistics in and return the new ones as aux: they
            move once per step and are those of w, since aux comes from the clean pass.
        optimizer: The optimizer of the descent. It gets the clean loss, g and ε as the extra
            arguments `value`, `clean_gradients` and `perturbation`, for links such as
            `surrogate_gap`. Of complex parameters it gets the conjugate of JAX's gradient, which
            points to where the loss rises.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.
        groups: How many groups of the batch have a perturbation of their own. This argument and
            those up to `narrow_weights` are explained in `sharp_value_and_grad`.
        microbatches: In how many parts the batch is taken, one after the other.
        axis_name: The axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        batch_argnums: Which arguments of `loss_fn` hold the batch.
        plain_if_zero: Whether the second pass is saved where ε is zero.
        ascent_share: On which share of the batch the first gradient is taken.
        one_pass: Whether ε comes from the gradient of the step before, for one pass a step. The
            state is that of `init_state(..., one_pass=True)`, and the optimizer gets the loss at
            w + ε as `value`.
        narrow_weights: In which dtype the loss function gets w + ε if w is bfloat16 or float16.
        skip_nonfinite: If true, a step leaves the state as it was, except `skips`, when a loss, an
            entry of a gradient, ||g|| or ||ε|| is not finite. (Norms overflow from entries of about
            1e19 in float32.) What the loss function returned as aux is handed on all the same:
            keep the old statistics where `info.skips.in_a_row > 0`.
        max_consecutive_skips: With `skip_nonfinite`, after how many skips in a row a call raises.
            It does so one or two steps late, so that the device need not wait. Give each call the
            state that the last call returned: any other state starts the check anew. Inside
            `jax.jit` or `jax.pmap` of your own a step cannot raise: look at `info.skips` there.
        donate: Whether a step takes over the memory of the state that it gets, which then cannot
            be used again. False leaves that state whole, and needs memory for two.

    Returns:
        A compiled function `step(state, *inputs)` that returns `state, info`; the new state lies
        where the old one lay.

    Raises:
        TypeError: If an argument is of another kind than it should be; on a call, if the state is
            no `SamState`, the parameters cannot be differentiated, the loss function does not
            return what `has_aux` says, or the optimizer needs more than it gets, as a line search.
        ValueError: If an argument is out of range; on a call, if the batch cannot be split evenly,
            if the ascent goes downhill, or if the state is that of another optimizer, ascent or
            tree of parameters, or has been handed to a step before.
        FloatingPointError: On a call, after `max_consecutive_skips` skips in a row.

    Example:
        >>> def loss_fn(w, inputs, targets):
        ...     return jnp.mean((inputs @ w - targets) ** 2)
        >>> optimizer, ascent = optax.sgd(0.1), zsharp(rho=0.05)
        >>> inputs, targets = jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> step = sam_step(loss_fn, optimizer, ascent)
        >>> state = init_state(jnp.zeros((2, 2)), optimizer, ascent)
        >>> for _ in range(100):
        ...     state, info = step(state, inputs, targets)
        >>> print(state.params.round(1), state.step)
        [[1. 2.]
         [3. 4.]] 100

    References:
        Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering, section 2.
    """
    checked_count("max_consecutive_skips", max_consecutive_skips)
    check_is_loss(loss_fn)
    check_is_optimizer(optimizer)
    check_flags(skip_nonfinite=skip_nonfinite, donate=donate)
    optimizer = with_extra_args(optimizer)
    ascend = sharp_value_and_grad(
        loss_fn,
        ascent,
        has_aux,
        groups=groups,
        microbatches=microbatches,
        axis_name=axis_name,
        batch_argnums=batch_argnums,
        plain_if_zero=plain_if_zero,
        keep_gradients=True,
        ascent_share=ascent_share,
        one_pass=one_pass,
        narrow_weights=narrow_weights,
    )

    def step(state, *inputs):
        refuse_accumulated_links(state.opt_state)
        (_, sharp_gradients), ascent_state, info = ascend(state.params, state.ascent_state, *inputs)

        updates, opt_state = updated(
            "optimizer",
            optimizer,
            uphill(sharp_gradients),
            state.opt_state,
            state.params,
            value=info.sharp_loss if one_pass else info.loss,
            clean_gradients=uphill(info.clean_gradients),
            perturbation=info.perturbation,
        )
        info = info._replace(clean_gradients=None, perturbation=None)
        params = optax.apply_updates(state.params, updates)

        step_count = jnp.asarray(optax.safe_increment(state.step))
        moved = SamState(params, opt_state, ascent_state, step_count, state.skips)
        if not skip_nonfinite:
            return moved, info
        # The norms speak for the gradient at w and for ε, which then need not be read once more.
        told = (info.loss, info.sharp_loss, info.gradient_norm, info.perturbation_norm)
        is_taken = all_finite((told, sharp_gradients))
        skips = counted(state.skips, is_taken)
        kept = jax.tree.map(lambda new, old: jnp.where(is_taken, new, old), moved, state)
        return kept._replace(skips=skips), info._replace(skips=skips)

    compiled = compiled_in_place(step, donate)
    if skip_nonfinite:
        compiled = stopping(compiled, max_consecutive_skips)
    return naming_what_is_no_state(compiled, SamState)
