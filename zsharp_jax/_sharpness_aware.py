"""An Optax optimizer that takes its gradient at w + ε, for loops that call `optimizer.update`."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import (
    check_flags,
    check_is_ascent,
    check_is_function,
    check_is_optimizer,
    checked_choice,
)
from zsharp_jax._extra_args import with_extra_args
from zsharp_jax._norm import tree_norm
from zsharp_jax._perturb import (
    NARROW_WEIGHTS,
    NarrowWeights,
    at_perturbed,
    perturbation_of,
    plain_where_zero,
    state_if_finite,
)
from zsharp_jax._placement import placed_beside
from zsharp_jax._refusals import check_params, refuse_accumulated_links, updated
from zsharp_jax._roles import check_ascent, check_optimizer
from zsharp_jax._trees import first_difference


class SharpnessAwareState(NamedTuple):
    """What one update of `sharpness_aware` hands to the next.

    Attributes:
        opt_state: The state of the optimizer.
        ascent_state: The state of the ascent.
        gradient_norm: ||g|| of the last update, the L2 norm over all parameters, in float32 at
            least; 0 before it.
        perturbation_norm: ||ε||, likewise.
        sharp_loss: The loss at w + ε of the last update; 0 before it, and None without
            `has_value`.
    """

    opt_state: optax.OptState
    ascent_state: optax.OptState
    gradient_norm: jax.Array
    perturbation_norm: jax.Array
    sharp_loss: Any = None


def sharpness_aware(
    optimizer: optax.GradientTransformation,
    ascent: optax.GradientTransformation,
    *,
    plain_if_zero: bool = False,
    has_value: bool = False,
    narrow_weights: NarrowWeights = "widened",
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer take its gradient at w + ε instead of at w.

    Its update is called with the gradient at w as always, and once calls back for the gradient at
    w + ε: `updates, state = tx.update(gradients, state, params, grad_fn=grad_fn)`. The updates
    apply to w. `optax.tree.get(state, "perturbation_norm")` tells the last ||ε||.

    Clipping, weight decay, `optax.apply_if_finite` and the like belong inside, in the chain of the
    optimizer: `sharpness_aware(optax.chain(optax.clip(1.0), optax.adamw(1e-3)), ascent)`. What is
    chained in front of it changes the gradient at w, from which ε comes, and not the one that the
    optimizer gets.

    Args:
        optimizer: The optimizer of the descent. It gets g and ε as the extra arguments
            `clean_gradients` and `perturbation`, for links such as `surrogate_gap`.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.
        plain_if_zero: Whether `grad_fn` is left uncalled where ε is zero, by `jax.lax.cond`. For a
            rho that is 0 at times, see `periodic_rho`.
        has_value: Whether `grad_fn` returns `(loss, gradients)`, as `jax.value_and_grad(loss_fn)`
            does: then `optax.tree.get(state, "sharp_loss")` tells the loss at w + ε. With
            `plain_if_zero` the update needs `value`, the loss at w, for the steps without.
        narrow_weights: In which dtype `grad_fn` gets w + ε where w is bfloat16 or float16:
            `"widened"` is float32, `"rounded"` that of w; see `sharp_value_and_grad`.

    Returns:
        A transformation whose update needs `params` and `grad_fn`, a function from parameters to
        gradients on the same batch, such as `jax.grad(loss_fn)`; for a mean over micro-batches
        (`optax.MultiSteps`) it must cover all of them, see `mean_value_and_grad`. Any other extra
        argument reaches `optimizer`. Of complex parameters hand over JAX's gradients as they are,
        and conjugate them in the chain of `optimizer`, behind its links.

    Raises:
        TypeError: If `optimizer` or `ascent` is no Optax transformation; on `init`, if the
            parameters hold anything but floating-point or complex arrays; on update, if `grad_fn`
            is no function, the state is not the one that `init` made, or the optimizer needs an
            extra argument that is not there.
        ValueError: On `init`, as `init_state` does. On update, if `params` or `grad_fn` is missing,
            if `grad_fn` does not return a tree like the gradients, if `optax.masked` stands around
            this, or if the state is that of another optimizer, ascent or tree of parameters.

    Example:
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2
        >>> tx = sharpness_aware(optax.sgd(0.1), sam(rho=0.5))
        >>> w = jnp.array([3.0, 4.0])
        >>> state = tx.init(w)
        >>> updates, state = tx.update(jax.grad(loss_fn)(w), state, w, grad_fn=jax.grad(loss_fn))
        >>> print(optax.apply_updates(w, updates), state.perturbation_norm)
        [2.67 3.56] 0.5
    """
    check_is_optimizer(optimizer)
    check_is_ascent(ascent)
    check_flags(plain_if_zero=plain_if_zero, has_value=has_value)
    checked_choice("narrow_weights", narrow_weights, NARROW_WEIGHTS)
    descent = with_extra_args(optimizer)

    def init_fn(params):
        check_params(params)
        check_optimizer(optimizer, params)
        check_ascent(ascent, params)
        dtype = jax.eval_shape(tree_norm, params).dtype
        loss = jnp.zeros([], float) if has_value else None
        state = SharpnessAwareState(
            opt_state=descent.init(params),
            ascent_state=ascent.init(params),
            gradient_norm=jnp.zeros([], dtype),
            perturbation_norm=jnp.zeros([], dtype),  # another array: one could not be donated twice
            sharp_loss=loss,
        )
        return placed_beside(params, state)

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
        if params is None or grad_fn is None:
            missing = "params" if params is None else "grad_fn"
            raise ValueError(
                f"`sharpness_aware` needs `{missing}`: "
                "call `update(gradients, state, params, grad_fn=grad_fn)`. A loop that cannot pass "
                "it, such as Flax's `TrainState.apply_gradients`, takes `sharp_value_and_grad`."
            )
        _refuse_masked_params(params)
        check_is_function("grad_fn", grad_fn, "a function such as `jax.grad(loss_fn)` itself")
        if not isinstance(state, SharpnessAwareState):
            raise TypeError(
                "the state must be the one that `init` of this transformation makes, which holds "
                f"that of the optimizer, got a `{type(state).__name__}`."
            )
        refuse_accumulated_links(state.opt_state)
        perturbation, ascent_state = perturbation_of(ascent, updates, state.ascent_state, params)
        gradient_norm, norm = tree_norm(updates), tree_norm(perturbation)
        ascent_state = state_if_finite(ascent_state, state.ascent_state, gradient_norm + norm)

        def sharp_pass():
            result = at_perturbed(grad_fn, params, perturbation, updates, narrow_weights)
            loss, sharp_gradients = _loss_and_gradients(result) if has_value else (None, result)
            _check_like_gradients(sharp_gradients, updates)
            return optax.tree.cast_like((loss, sharp_gradients), (state.sharp_loss, updates))

        if plain_if_zero:
            plain = (_loss_at_w(extra_args) if has_value else None, updates)
            sharp_loss, sharp_gradients = plain_where_zero(norm, plain, sharp_pass)
        else:
            sharp_loss, sharp_gradients = sharp_pass()

        descended, opt_state = updated(
            "optimizer",
            descent,
            sharp_gradients,
            state.opt_state,
            params,
            clean_gradients=updates,
            perturbation=perturbation,
            **_for_line_search(extra_args),
        )
        norms = optax.tree.cast_like(
            (gradient_norm, norm), (state.gradient_norm, state.perturbation_norm)
        )
        return descended, SharpnessAwareState(opt_state, ascent_state, *norms, sharp_loss)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _refuse_masked_params(params: optax.Params) -> None:
    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    if any(map(is_masked, jax.tree.leaves(params, is_leaf=is_masked))):
        raise ValueError(
            "`sharpness_aware` needs all parameters, for `grad_fn` is called with them: put "
            "`optax.partition` inside, around the optimizer, and `masked_ascent` around the ascent."
        )


def _loss_and_gradients(result: Any) -> tuple[jax.Array, optax.Updates]:
    if isinstance(result, tuple) and len(result) == 2:
        loss, gradients = result
        if jax.tree.structure(loss) == jax.tree.structure(0) and jnp.ndim(loss) == 0:
            return jnp.asarray(loss), gradients
    raise ValueError(
        "`grad_fn` must return `(loss, gradients)` with `has_value=True`, as "
        f"`jax.value_and_grad(loss_fn)` does, got a `{type(result).__name__}`. One with "
        "`has_aux=True` returns `((loss, aux), gradients)`: leave out aux."
    )


def _for_line_search(extra_args: dict[str, Any]) -> dict[str, Any]:
    """The same, with a `value_fn` that takes our two arguments too.

    A line search gives `value_fn` all arguments that it does not know itself, by the names in its
    signature, and refuses what is left over.
    """
    value_fn = extra_args.get("value_fn")
    if not callable(value_fn):
        return extra_args
    signature = inspect.signature(value_fn)
    ours = [
        name for name in ("clean_gradients", "perturbation") if name not in signature.parameters
    ]

    @functools.wraps(value_fn)
    def without_ours(*args, **keywords):
        return value_fn(*args, **{k: v for k, v in keywords.items() if k not in ours})

    theirs = list(signature.parameters.values())
    rest = [each for each in theirs if each.kind is each.VAR_KEYWORD]
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ours]
    parameters = [*(each for each in theirs if each not in rest), *added, *rest]
    vars(without_ours)["__signature__"] = signature.replace(parameters=parameters)
    return {**extra_args, "value_fn": without_ours}


def _loss_at_w(extra_args: dict[str, Any]) -> jax.Array:
    if "value" in extra_args:
        return jnp.asarray(extra_args["value"])
    raise ValueError(
        "`sharpness_aware` needs `value`, the loss at w, which is that at w + ε where ε is zero: "
        "call `update(gradients, state, params, grad_fn=grad_fn, value=loss)`."
    )


def _check_like_gradients(sharp_gradients: Any, gradients: optax.Updates) -> None:
    difference = first_difference(sharp_gradients, gradients)
    if difference is not None:
        raise ValueError(
            "`grad_fn` must return gradients alone, a tree like the gradients at w, but "
            f"{difference}: take `jax.grad` of a function of plain parameters, not `nnx.grad`, and "
            "`jax.value_and_grad` only with `has_value=True`."
        )
