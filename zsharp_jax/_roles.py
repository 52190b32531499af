"""An optimizer goes downhill, an ascent uphill: what stands in the other's place is refused.

All of this happens before the first step, and once for each optimizer or ascent and each tree of
parameters: which of them a mask leaves out depends on the tree.
"""

import contextlib
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._direction import DOWNHILL, UPHILL, goes, hands_on, some_leaf_goes
from zsharp_jax._links import LinkState, LookBackState

_OWN_ASCENTS = "zsharp_jax._ascents."


class _Known:
    """Transformations that have been found right for a tree, and need not be tried again."""

    def __init__(self):
        self.updates: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

    def has(self, transformation: Any, params: optax.Params) -> bool:
        return self.updates.get(_key(transformation, params)) is transformation.update

    def add(self, transformation: Any, params: optax.Params) -> None:
        with contextlib.suppress(TypeError):  # of an object to which there are no weak references
            self.updates[_key(transformation, params)] = transformation.update


def _key(transformation: Any, params: optax.Params) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    return id(transformation.update), treedef, tuple(map(jnp.shape, leaves))


_optimizers, _ascents = _Known(), _Known()


def check_optimizer(optimizer: Any, params: optax.Params) -> None:
    """Refuses an optimizer that goes uphill, or that cannot get what it needs."""
    if _optimizers.has(optimizer, params):
        return
    state = _abstract_state(optimizer, params)
    _refuse_lookahead(state)
    last = _last_link(state)
    if isinstance(last, (LinkState, LookBackState)):
        raise ValueError(
            "`optimizer` must not end in a link such as `surrogate_gap`, which works on gradients: "
            "put the link in front, `optax.chain(surrogate_gap(), optax.adamw(1e-3))`."
        )
    if isinstance(last, optax.MaskedState) and some_leaf_goes(UPHILL, optimizer, params):
        raise ValueError(
            "`optax.masked` at the end of `optimizer` hands on the raw gradient of what it leaves "
            "out, which would be added to the weights: to freeze those, use `optax.partition` with "
            "`optax.set_to_zero()`."
        )
    if goes(UPHILL, optimizer, params):
        raise ValueError(
            "`optimizer` must go downhill, but its updates point along the gradient, which trains "
            "to a higher loss. If this is the ascent, swap the two: the optimizer comes first, "
            "`(optimizer, ascent)`. If it is a chain of your own, end it with "
            "`optax.scale_by_learning_rate(0.1)`, which multiplies by -0.1."
        )
    _optimizers.add(optimizer, params)


def check_ascent(ascent: Any, params: optax.Params) -> None:
    """Refuses an ascent that goes downhill."""
    # A trial of `zsharp` compiles for a third of a second, and what is made here goes uphill.
    is_own = str(ascent.update.__module__).startswith(_OWN_ASCENTS)
    if is_own or _ascents.has(ascent, params):
        return
    last = _last_link(_abstract_state(ascent, params))
    if isinstance(last, optax.MaskedState) and hands_on(ascent, params):
        raise ValueError(
            "`optax.masked` at the end of `ascent` hands on the raw gradient of what it leaves "
            "out, which would be added to the weights: use `masked_ascent`, which leaves those "
            "where they are."
        )
    if goes(DOWNHILL, ascent, params):
        raise ValueError(
            "`ascent` must go uphill, for its result is added to the weights, but its updates "
            "point against the gradient. If this is the optimizer, swap the two: the ascent comes "
            "last, `(optimizer, ascent)`. An optimizer such as `optax.sgd(rho)`, or the one that "
            "`optax.contrib.sam` takes, becomes an ascent by a change of sign, "
            "`optax.chain(optimizer, optax.scale(-1.0))`; or use `sam(rho)`."
        )
    _ascents.add(ascent, params)


def _abstract_state(transformation: Any, params: optax.Params) -> Any:
    try:
        return jax.eval_shape(transformation.init, params)
    except Exception:  # the same error comes when the state is made, or it is made otherwise
        return None


def _last_link(state: optax.OptState) -> Any:
    """The state of the last transformation of a chain, which may end in a chain."""
    while state and (type(state) is tuple or isinstance(state, dict)):
        state = list(state.values())[-1] if isinstance(state, dict) else state[-1]
    return state


def _refuse_lookahead(state: optax.OptState) -> None:
    def is_lookahead(node: Any) -> bool:
        return isinstance(node, optax.LookaheadState)

    if any(map(is_lookahead, jax.tree.leaves(state, is_leaf=is_lookahead))):
        raise ValueError(
            "`optax.lookahead` keeps two copies of the parameters and wants the gradient of one: "
            "take the gradient at `params.fast` in a loop of your own by `sharp_value_and_grad`, "
            "and give it to the optimizer."
        )
