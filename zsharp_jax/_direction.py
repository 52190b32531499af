"""Whether a transformation goes uphill or downhill, found by a small trial before the training."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax._extra_args import with_extra_args
from zsharp_jax._precision import at_least_float32_dtype

UPHILL, DOWNHILL = 1, -1

_MOST_UPDATES = 8  # a warm-up starts at 0, and `optax.MultiSteps` waits


_Pairs = list[tuple[np.ndarray, np.ndarray]]  # of each leaf the gradient and its first update


def goes(side: int, transformation: Any, params: optax.Params) -> bool:
    """Whether the first update that is not zero lies along the gradient (uphill) or against it.

    The trial takes the first and the last leaf of the parameters. If it fails, or one leaf goes up
    and the other down, the answer is no.
    """
    leaves = len(jax.tree.leaves(params))

    def all_go(pairs: _Pairs) -> bool:
        return {_side(*pair) for pair in pairs} - {0} == {side}

    return _holds(all_go, transformation, params, {0, leaves - 1})


def some_leaf_goes(side: int, transformation: Any, params: optax.Params) -> bool:
    """Whether at least one leaf moves to this side in its first update that is not zero."""
    return _holds(lambda pairs: side in {_side(*pair) for pair in pairs}, transformation, params)


def hands_on(transformation: Any, params: optax.Params) -> bool:
    """Whether the first update of some leaf is its gradient, except for entries that are zero.

    False if some leaves do not move and all others are handed on: the first are then frozen.
    """

    def some_are_raw(pairs: _Pairs) -> bool:
        moved = [(gradient, update) for gradient, update in pairs if np.any(update != 0)]
        raw = [bool(np.all((update == 0) | (update == gradient))) for gradient, update in moved]
        some_are_frozen = len(moved) < len(pairs)
        return any(raw) and not (some_are_frozen and all(raw))

    # Of gradients that are too small to be clipped.
    return _holds(some_are_raw, transformation, params, size=2**-10)


def _holds(
    law: Callable[[_Pairs], bool],
    transformation: Any,
    params: optax.Params,
    places: Collection[int] | None = None,
    size: float = 1.0,
) -> bool:
    """Whether the first updates of some leaves, or all, keep a law.

    No if the trial fails, or would have effects such as those of `jax.debug.print`.
    """
    try:
        with _on_the_host():
            # Noise lies on one side by chance, but not for both signs of the gradient.
            signs = (size, -size)
            return all(law(_first_updates(transformation, params, s, places)) for s in signs)
    except Exception:  # whatever the transformation needs and is not given here
        return False


def _first_updates(
    transformation: Any, params: optax.Params, factor: float, places: Collection[int] | None
) -> _Pairs:
    """The first updates that are not all zero of leaves cut to three entries an axis, at 0."""
    leaves, treedef = jax.tree.flatten(params)
    places = range(len(leaves)) if places is None else places
    small = [_small(leaf) if place in places else None for place, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(treedef, small)
    gradients = jax.tree.map(lambda leaf: factor * _ramp(leaf), params)

    def first_update():
        return update(transformation.init(params))

    def update(state):
        step = with_extra_args(transformation).update
        links = {"clean_gradients": gradients, "perturbation": gradients}
        return step(gradients, state, params, value=1.0, **links)

    updates, state = _run(first_update)
    for _ in range(_MOST_UPDATES - 1):
        if any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(updates))):
            break
        updates, state = _run(update, state)
    pairs = jax.tree.map(lambda *pair: pair, gradients, jax.device_get(updates))
    return jax.tree.leaves(pairs, is_leaf=lambda node: type(node) is tuple)


def _run(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns.

    Raises:
        ValueError: If it has effects, such as `jax.debug.print`: a trial is to leave no trace.
    """
    traced = jax.jit(function).trace(*arguments)
    if traced.jaxpr.effects:
        raise ValueError("it has effects")
    # Programs that are compiled ahead run within a trace of the user's too.
    return traced.lower().compile()(*arguments)


def _small(leaf: Any) -> np.ndarray:
    shape = [min(length, 3) for length in jnp.shape(leaf)]
    return np.zeros(shape, at_least_float32_dtype(jnp.result_type(leaf)))


def _ramp(leaf: np.ndarray) -> np.ndarray:
    # Unevenly spaced: one entry is farther from the mean than all others, so a filter keeps it.
    ramp = (np.arange(1, leaf.size + 1) / leaf.size) ** 2
    return ramp.reshape(leaf.shape).astype(leaf.dtype)


def _side(gradient: np.ndarray, update: np.ndarray) -> int:
    return int(np.sign(np.sum(np.real(update * np.conj(gradient)))))


def _on_the_host() -> AbstractContextManager[Any]:
    # An accelerator takes longer to compile, and its guard on transfers may be on.
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return nullcontext()
