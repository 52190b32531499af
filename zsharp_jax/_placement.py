"""Where a step's state lies: in memory of its own, beside the parameters, and there it stays."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

T = TypeVar("T")


def compiled_in_place(step: Callable[..., Any], donate: bool) -> Callable[..., Any]:
    """Compiles a step that leaves the state where it lies, and with `donate` takes over its memory.

    On a mesh XLA would lay out some optimizers' states anew (adafactor's, where the parameters are
    sharded), and the second call would compile once more.
    """
    jit = functools.partial(jax.jit, step, donate_argnums=(0,) if donate else ())
    compiled = jit()
    within_a_trace = jax.jit(step)  # of the user's, whose program decides what it takes over

    @functools.cache
    def compiled_for(treedef, shardings):
        state_shardings = jax.tree.unflatten(treedef, shardings)
        return jit(out_shardings=(state_shardings, None))

    @functools.wraps(step)
    def step_in_place(state, *inputs):
        leaves, treedef = jax.tree.flatten(state)
        if any(isinstance(leaf, Tracer) for leaf in (*leaves, *jax.tree.leaves(inputs))):
            return within_a_trace(state, *inputs)
        shardings = tuple(map(_mesh_sharding, leaves))
        if not any(shardings):
            return compiled(state, *inputs)
        return compiled_for(treedef, shardings)(state, *inputs)

    return step_in_place


def _mesh_sharding(leaf: Any) -> jax.NamedSharding | None:
    """Where on a mesh a leaf lies; None of one that was set to a number, or restored as NumPy's."""
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, jax.NamedSharding) else None


def own_array(leaf: Any) -> jax.Array:
    # An optimizer may keep the parameters in its state, and no buffer can be donated twice. The
    # dtype is spelled out because that of a Python number is weak, and would not be after a step.
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)


def placed_beside(params: optax.Params, state: T) -> T:
    """Puts what lies nowhere in particular where the parameters have been put.

    A step would do so with the counters at its first call, and compile once more for the second.
    """
    homes = [leaf.sharding for leaf in jax.tree.leaves(params) if _is_committed(leaf)]
    if not homes:
        return state
    home = homes[0]
    if isinstance(home, jax.NamedSharding):
        home = jax.NamedSharding(home.mesh, jax.P())

    def placed(leaf):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer) or leaf.committed:
            return leaf
        return jax.device_put(leaf, home)

    return jax.tree.map(placed, state)


def _is_committed(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed
