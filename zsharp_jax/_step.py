"""One sharpness-aware step: clean pass at w, ascent, sharp pass at w + ε, update from w.

Three ways to take it:

- `sharp_value_and_grad` is `jax.value_and_grad` with the sharp gradient, for any training loop.
- `sharpness_aware` makes an Optax optimizer of it, for loops that call `optimizer.update`.
- `sam_step` is the whole step, compiled, for those who want no loop of their own.

An ascent is any Optax transformation from the gradient at w to the perturbation ε.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._placement import compiled_in_place, own_array, placed_beside
from zsharp_jax._precision import tree_norm

LossFn = Callable[..., Any]


class SamState(NamedTuple):
    """What one step hands to the next.

    Attributes:
        params: The parameters w, never the perturbed ones.
        opt_state: The state of the optimizer.
        ascent_state: The state of the ascent.
        step: How many steps have been taken, an int32 scalar.
    """

    params: optax.Params
    opt_state: optax.OptState
    ascent_state: optax.OptState
    step: jax.Array


class SamInfo(NamedTuple):
    """What one step tells about itself; the next step never needs it.

    Attributes:
        loss: The clean loss, at w.
        sharp_loss: The loss at w + ε on the same inputs.
        gradient_norm: ||g||, the L2 norm of the gradient at w over all parameters, in float32 at
            least.
        perturbation_norm: ||ε||, the L2 norm of the perturbation over all parameters, likewise.
        aux: What the loss function returned beside the loss at w; None without `has_aux`.
    """

    loss: jax.Array
    sharp_loss: jax.Array
    gradient_norm: jax.Array
    perturbation_norm: jax.Array
    aux: Any


def sharp_value_and_grad(
    loss_fn: LossFn, ascent: optax.GradientTransformation, has_aux: bool = False
) -> Callable[..., tuple[tuple[Any, optax.Updates], optax.OptState, SamInfo]]:
    """Makes a function that evaluates `loss_fn` at w and its gradient at w + ε.

    Args:
        loss_fn: `loss_fn(params, *inputs)` returns a scalar loss, or `(loss, aux)` with `has_aux`.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.

    Returns:
        A function `ascend(params, ascent_state, *inputs)` that returns `(value, sharp_gradients),
        ascent_state, info`, where `value` is the clean loss, or `(loss, aux)` of the *clean*
        pass. Both passes get the same inputs, so the same dropout key. It is not compiled: call
        it under `jax.jit`.

    Example:
        >>> ascent = sam(rho=0.5)
        >>> ascend = sharp_value_and_grad(lambda w, target: jnp.sum((w - target) ** 2) / 2, ascent)
        >>> w = jnp.array([3.0, 4.0])
        >>> (loss, sharp_gradients), ascent_state, info = ascend(w, ascent.init(w), jnp.zeros(2))
        >>> print(loss, sharp_gradients, info.perturbation_norm)
        12.5 [3.3 4.4] 0.5

    References:
        Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering, section 2.1.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=has_aux)

    def ascend(params, ascent_state, *inputs):
        value, gradients = value_and_grad(params, *inputs)
        perturbation, ascent_state = _perturbation(ascent, gradients, ascent_state, params)

        perturbed_params = optax.apply_updates(params, perturbation)
        sharp_value, sharp_gradients = value_and_grad(perturbed_params, *inputs)

        loss, aux = value if has_aux else (value, None)
        sharp_loss = sharp_value[0] if has_aux else sharp_value
        info = SamInfo(loss, sharp_loss, tree_norm(gradients), tree_norm(perturbation), aux)
        return (value, sharp_gradients), ascent_state, info

    return ascend


class SharpnessAwareState(NamedTuple):
    """What one update of `sharpness_aware` hands to the next.

    Attributes:
        opt_state: The state of the optimizer.
        ascent_state: The state of the ascent.
    """

    opt_state: optax.OptState
    ascent_state: optax.OptState


def sharpness_aware(
    optimizer: optax.GradientTransformation, ascent: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer take its gradient at w + ε instead of at w.

    Its update is called with the gradient at w as always, and once calls back for the gradient at
    w + ε: `updates, state = tx.update(gradients, state, params, grad_fn=grad_fn)`. The updates
    apply to w.

    Args:
        optimizer: The optimizer of the descent.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.

    Returns:
        A transformation whose update needs `params` and `grad_fn`, a function from parameters to
        gradients on the same batch, such as `jax.grad(loss_fn)`; for a mean over micro-batches
        (`optax.MultiSteps`) it must cover all of them. Any other extra argument reaches
        `optimizer`.

    Raises:
        ValueError: On update, if `params` or `grad_fn` is missing, if `grad_fn` does not return a
            tree like the gradients, or where `optax.masked` stands around this or the ascent.

    Example:
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2
        >>> tx = sharpness_aware(optax.sgd(0.1), sam(rho=0.5))
        >>> w = jnp.array([3.0, 4.0])
        >>> state = tx.init(w)
        >>> updates, state = tx.update(jax.grad(loss_fn)(w), state, w, grad_fn=jax.grad(loss_fn))
        >>> print(optax.apply_updates(w, updates))
        [2.67 3.56]
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init_fn(params):
        return SharpnessAwareState(optimizer.init(params), ascent.init(params))

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
        if params is None or grad_fn is None:
            missing = "params" if params is None else "grad_fn"
            raise ValueError(
                f"`sharpness_aware` needs `{missing}`: "
                "call `update(gradients, state, params, grad_fn=grad_fn)`. A loop that cannot pass "
                "it, such as Flax's `TrainState.apply_gradients`, takes `sharp_value_and_grad`."
            )
        _refuse_masked_params(params)
        perturbation, ascent_state = _perturbation(ascent, updates, state.ascent_state, params)
        sharp_gradients = grad_fn(optax.apply_updates(params, perturbation))
        _check_like_gradients(sharp_gradients, updates)

        updates, opt_state = optimizer.update(
            sharp_gradients, state.opt_state, params, **extra_args
        )
        return updates, SharpnessAwareState(opt_state, ascent_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def init_state(
    params: optax.Params,
    optimizer: optax.GradientTransformation,
    ascent: optax.GradientTransformation,
) -> SamState:
    """The state before the first step of `sam_step`.

    It shares no memory with `params`, so a step that takes over the state's memory leaves them
    whole. Place the parameters first, on a device or a mesh: counters are put where they lie.
    (Under `jax.jit` it cannot see where that is; give `out_shardings` there.)

    Args:
        params: The parameters to start from.
        optimizer: The optimizer of the descent.
        ascent: The ascent, such as `zsharp(0.05)`.

    Returns:
        The first `SamState`.

    Example:
        >>> state = init_state({"w": jnp.ones(3)}, optax.sgd(0.1), sam(rho=0.05))
        >>> print(state.params["w"], state.step)
        [1. 1. 1.] 0
    """
    state = SamState(params, optimizer.init(params), ascent.init(params), jnp.zeros([], jnp.int32))
    return placed_beside(params, jax.tree.map(own_array, state))


def sam_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    ascent: optax.GradientTransformation,
    has_aux: bool = False,
) -> Callable[..., tuple[SamState, SamInfo]]:
    """Compiles one training step: clean pass, ascent, sharp pass, and the update from w.

    It is single-program JAX: given a state and inputs that are laid out over a mesh of devices
    it runs on all of them, and means, quantiles and norms are those of the whole.

    Args:
        loss_fn: `loss_fn(params, *inputs)` returns a scalar loss, or `(loss, aux)` with
            `has_aux`. For BatchNorm, pass the statistics in and return the new ones as aux: they
            move once per step and are those of w, since aux comes from the clean pass.
        optimizer: The optimizer of the descent. The clean loss reaches it as the extra argument
            `value`.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.

    Returns:
        A compiled function `step(state, *inputs)` that returns `state, info`. It takes over
        (donates) the memory of the state that it gets, so that one cannot be used again; the new
        one lies where the old one lay.

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
    optimizer = optax.with_extra_args_support(optimizer)
    ascend = sharp_value_and_grad(loss_fn, ascent, has_aux)

    def step(state, *inputs):
        (_, sharp_gradients), ascent_state, info = ascend(state.params, state.ascent_state, *inputs)

        updates, opt_state = optimizer.update(
            sharp_gradients, state.opt_state, state.params, value=info.loss
        )
        params = optax.apply_updates(state.params, updates)

        step_count = jnp.asarray(optax.safe_increment(state.step))
        return SamState(params, opt_state, ascent_state, step_count), info

    return compiled_in_place(step)


def _perturbation(
    ascent: optax.GradientTransformation,
    gradients: optax.Updates,
    ascent_state: optax.OptState,
    params: optax.Params,
) -> tuple[optax.Updates, optax.OptState]:
    if isinstance(ascent_state, optax.MaskedState):
        raise ValueError(
            "`optax.masked` hands on the raw gradient of what it leaves out, which would be added "
            "to the weights: use `optax.partition` with `optax.set_to_zero()` for those."
        )
    return ascent.update(gradients, ascent_state, params)


def _refuse_masked_params(params: optax.Params) -> None:
    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    if any(map(is_masked, jax.tree.leaves(params, is_leaf=is_masked))):
        raise ValueError(
            "`sharpness_aware` needs all parameters, for `grad_fn` is called with them: put "
            "`optax.masked` or `optax.partition` inside, around the optimizer and the ascent."
        )


def _check_like_gradients(sharp_gradients: Any, gradients: optax.Updates) -> None:
    got, wanted = jax.tree.structure(sharp_gradients), jax.tree.structure(gradients)
    if got != wanted:
        raise ValueError(
            "`grad_fn` must return gradients alone, a tree like the gradients at w "
            f"({wanted}), got {got}; for `jax.value_and_grad` see `sharp_value_and_grad`."
        )
    for found, gradient in zip(
        jax.tree.leaves(sharp_gradients), jax.tree.leaves(gradients), strict=True
    ):
        if jnp.shape(found) != jnp.shape(gradient):
            raise ValueError(
                "`grad_fn` must return arrays of the shapes of the gradients at w, "
                f"got {jnp.shape(found)} for {jnp.shape(gradient)}."
            )
