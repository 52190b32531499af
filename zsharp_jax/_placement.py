"""Where a step's state lies: in memory of its own, beside the parameters, and there it stays."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

T = TypeVar("T")


def compiled_in_place(step: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a step that takes over the state's memory and leaves the state where it lies.

    On a mesh XLA would lay out some optimizers' states anew (adafactor's, where the parameters are
    sharded), and the second call would compile once more.
    """
    compiled = jax.jit(step, donate_argnums=0)

    @functools.cache
    def compiled_for(treedef, shardings):
        state_shardings = jax.tree.unflatten(treedef, shardings)
        return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, None))

    @functools.wraps(step)
    def step_in_place(state, *inputs):
        leaves, treedef = jax.tree.flatten(state)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return compiled(state, *inputs)
        _refuse_explicit_axes((state, inputs))
        shardings = tuple(getattr(leaf, "sharding", None) for leaf in leaves)
        if not all(isinstance(sharding, jax.NamedSharding) for sharding in shardings):
            return compiled(state, *inputs)
        return compiled_for(treedef, shardings)(state, *inputs)

    return step_in_place


def _refuse_explicit_axes(tree: Any) -> None:
    # JAX would fail somewhere within the network: few of Flax's layers know such axes.
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.NamedSharding) and sharding.mesh.explicit_axes:
            raise ValueError(
                "the state and the batch must lie on a mesh with automatic axes, got explicit axes "
                f"{sharding.mesh.explicit_axes}: make it with `jax.make_mesh(shape, names, "
                "axis_types=(jax.sharding.AxisType.Auto,) * len(names))`."
            )


def own_array(leaf: Any) -> jax.Array:
    # An optimizer may keep the parameters in its state, and no buffer can be donated twice. The
    # dtype is spelled out because that of a Python number is weak, and would not be after a step.
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)


def placed_beside(params: optax.Params, state: T) -> T:
    """Puts what lies nowhere in particular where the parameters have been put.

    A step would do so with the counters at its first call, and compile once more for the second.
    """
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return state
    homes = [leaf.sharding for leaf in leaves if leaf.committed]
    if not homes:
        return state
    home = homes[0]
    if isinstance(home, jax.NamedSharding):
        home = jax.NamedSharding(home.mesh, jax.P())

    return jax.tree.map(lambda leaf: leaf if leaf.committed else jax.device_put(leaf, home), state)
