"""What stands in the wrong place is refused: what it is, what belongs there, and how to get it.

Flax and Equinox are known by what their objects look like, for the library imports neither. All of
this happens before the first step or while it is traced, and costs a compiled step nothing.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax._links import LinkState, LookBackState
from zsharp_jax._trees import first_difference

_LINEN_COLLECTIONS = ("batch_stats", "cache", "intermediates")


def check_params(params: optax.Params) -> None:
    """Refuses parameters that cannot be differentiated."""
    if hasattr(params, "opt_state") and hasattr(params, "params"):
        raise TypeError(
            f"`params` must be the parameters alone, got a `{type(params).__name__}`: hand over "
            "its `.params`."
        )
    _refuse_moving_statistics(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not _is_differentiable(leaf):
            raise TypeError(
                "`params` must hold arrays of floating-point (or complex) numbers alone, got "
                f"{_described(leaf)} at {_where(path)}. Take out what is not trained and hand it "
                "to the loss function as an input, or close over it: `params, rest = "
                "eqx.partition(model, eqx.is_inexact_array)` with Equinox, `graphdef, params, rest "
                "= nnx.split(model, nnx.Param, ...)` with Flax NNX, `variables['params']` with "
                "Flax linen."
            )


def _refuse_moving_statistics(params: optax.Params) -> None:
    """Refuses all variables of a Flax model, of which the parameters are a part."""
    if isinstance(params, Mapping) and "params" in params:
        others = [name for name in _LINEN_COLLECTIONS if name in params]
        if others:
            raise TypeError(
                f"`params` must be the parameters alone, got `{others[0]}` beside `params`: hand "
                "over `variables['params']`, and the rest to the loss function as an input."
            )
    for node in jax.tree.leaves(params, is_leaf=_is_nnx_variable):
        if _is_nnx_variable(node) and "Param" not in _names(node):
            raise TypeError(
                "`params` must be the parameters alone, got the NNX variable "
                f"`{type(node).__name__}`: hand over the second of `graphdef, params, rest = "
                "nnx.split(model, nnx.Param, ...)`, and `rest` to the loss function as an input."
            )


def _is_nnx_variable(node: Any) -> bool:
    return type(node).__module__.startswith("flax.nnx") and "Variable" in _names(node)


def _names(node: Any) -> set[str]:
    return {kind.__name__ for kind in type(node).__mro__}


def refuse_accumulated_links(opt_state: optax.OptState) -> None:
    """Refuses links within `optax.MultiSteps`, which takes the mean of one gradient alone."""

    def has_link(node):
        return isinstance(node, (LinkState, LookBackState))

    def accumulates(node):
        return isinstance(node, optax.MultiStepsState)

    for node in jax.tree.leaves(opt_state, is_leaf=accumulates):
        if accumulates(node) and any(map(has_link, jax.tree.leaves(node, is_leaf=has_link))):
            raise ValueError(
                "within `optax.MultiSteps` a link such as `surrogate_gap` would get the mean of "
                "the gradients at w + ε, but of those at w the last one alone: put the link in "
                "front of it, or take the batch in parts by `microbatches`."
            )


def updated(
    name: str,
    transformation: Any,
    gradients: optax.Updates,
    state: optax.OptState,
    params: optax.Params,
    **extra_args: Any,
) -> tuple[optax.Updates, optax.OptState]:
    """`transformation.update`, which says what is wrong where it fails or does not fit."""
    try:
        updates, next_state = transformation.update(gradients, state, params, **extra_args)
    except Exception as error:
        _explain(error, name, transformation, state, params)
        raise
    if difference := first_difference(updates, params):
        raise ValueError(
            f"what the {name} returns must be a tree like the parameters, but {difference}: look "
            f"at what it makes of the gradient that it gets."
        )
    if _shapes(next_state) != _shapes(state) and _same_structure(next_state, state):
        raise ValueError(
            f"the state of the {name} was made for parameters of other shapes, and its update "
            f"changes the shape of what it keeps: make it anew with `{name}.init(params)`, or both "
            "with `init_state(params, optimizer, ascent)`."
        )
    return updates, next_state


def _explain(
    error: Exception, name: str, transformation: Any, state: optax.OptState, params: optax.Params
) -> None:
    """Raises what says more than an error, if it comes from a foreign state or a missing input."""
    if isinstance(error, TypeError) and "required keyword-only argument" in str(error):
        raise TypeError(
            f"the {name} asks for what it is not given ({error}). The update of `sharpness_aware` "
            "hands on every extra argument; `sam_step` passes on no more than `value`, "
            "`clean_gradients` and `perturbation`, which no line search can do with: write a loop "
            "of your own with `sharp_value_and_grad`."
        ) from error
    try:
        own = jax.eval_shape(transformation.init, params)
    except Exception:
        return
    if _same_structure(own, state):
        return
    found, wanted = _kinds(state), _kinds(own)
    other = f"of another, which keeps {found}" if found != wanted else "made for other parameters"
    raise ValueError(
        f"the state of the {name} is not one of this {name}, which keeps {wanted}, but {other}: "
        f"make it with `{name}.init(params)`, or both with `init_state(params, optimizer, ascent)`."
    ) from error


def _same_structure(one: Any, other: Any) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def naming_what_is_no_state(step: Callable[..., Any], state_type: type) -> Callable[..., Any]:
    """A step that says what its state must be, where it gets another thing or one used before."""

    @functools.wraps(step)
    def checked(state, *inputs, **keywords):
        if keywords:
            given = ", ".join(keywords)
            raise TypeError(
                f"a step takes its inputs by position, in the order of the loss function's: "
                f"`step(state, {given})`, got {given} by name."
            )
        if not isinstance(state, state_type):
            raise TypeError(
                "`state` must be a `SamState`, which `init_state(params, optimizer, ascent)` makes "
                "and every step returns; it holds the parameters and both states. Got "
                f"{_described(state)}; the batch comes after it, `step(state, *inputs)`."
            )
        try:
            return step(state, *inputs)
        except (RuntimeError, ValueError) as error:
            # Both may be words of the loss function's own error, but that begins otherwise. After
            # another error, such as too little memory, the state is deleted too.
            is_there_twice = str(error).startswith("INVALID_ARGUMENT") and "donate" in str(error)
            is_used = "deleted" in str(error) and _some_are_deleted((state, inputs))
            if not is_there_twice and not is_used:
                raise
            raise ValueError(
                "an array of this state is gone, or it comes twice, in the state or as an input: a "
                "step takes over the memory of the state that it gets. Go on with the state that "
                "the last step returned. What you keep of a state (the best weights, a target "
                "network) copy before you hand it over, `jax.tree.map(jnp.copy, state.params)`, or "
                "make the step with `donate=False`."
            ) from error

    return checked


def _some_are_deleted(tree: Any) -> bool:
    return any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(tree))


def scalar_loss(loss_fn: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """The same loss function, which says what it must return where it does not."""

    @functools.wraps(loss_fn)
    def checked(*arguments):
        value = loss_fn(*arguments)
        is_pair = isinstance(value, (tuple, list)) and len(value) == 2
        if has_aux and not is_pair:
            raise TypeError(
                "`loss_fn` must return `(loss, aux)` with `has_aux=True`, got "
                f"{_described(value)}: return both, or leave `has_aux` out."
            )
        loss = value[0] if has_aux else value
        if not has_aux and is_pair:
            raise TypeError(
                "`loss_fn` must return the loss alone, got a pair: `(loss, aux)` needs "
                "`has_aux=True`."
            )
        if not _is_differentiable(loss) or np.shape(loss) or jnp.iscomplexobj(loss):
            raise TypeError(
                f"`loss_fn` must return a real floating-point scalar, got {_described(loss)}; of "
                "the losses of a batch, take the mean."
            )
        return value

    return checked


def _is_differentiable(leaf: Any) -> bool:
    if hasattr(leaf, "dtype"):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return isinstance(leaf, (float, complex))


def _where(path: jax.tree_util.KeyPath) -> str:
    return f"`{jax.tree_util.keystr(path)}`" if path else "the top"


def _described(value: Any) -> str:
    """A few words on what a value is."""
    if isinstance(value, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        return f"an array of {value.dtype} and shape {tuple(value.shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function `{value.__name__}`"
    return f"a `{type(value).__name__}`"


def _kinds(state: optax.OptState) -> str:
    """The named parts of an optimizer's state, in order."""
    names = []

    def look(node):
        if hasattr(node, "_fields"):
            names.append(type(node).__name__)
        return False

    jax.tree.leaves(state, is_leaf=look)
    return ", ".join(names) or _described(state)
