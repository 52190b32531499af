"""Vectors as long as the parameters: trees like them, in float32 at least, that lie where they lie.

Nothing is flattened into one long vector, since that would gather what is sharded.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from zsharp_jax._norm import tree_norm
from zsharp_jax._precision import widest

Homes = tuple[jax.NamedSharding | None, ...]


def homes_of(params: optax.Params) -> Homes:
    """Where each leaf lies on a mesh; None where it does not lie on one, or is being traced."""

    def home(leaf):
        # A tracer under `jax.jit` has no sharding to hold on to.
        sharding = None if isinstance(leaf, Tracer) else leaf.sharding
        return sharding if isinstance(sharding, jax.NamedSharding) else None

    return tuple(map(home, jax.tree.leaves(params)))


def placed(tree: optax.Params, homes: Homes, stacked: int = 0) -> optax.Params:
    """The same, laid out like the parameters; `stacked` counts leading axes that they lack."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(leaves, homes, strict=True)
    return jax.tree.unflatten(treedef, [_placed(leaf, home, stacked) for leaf, home in pairs])


def _placed(leaf: jax.Array, home: jax.NamedSharding | None, stacked: int) -> jax.Array:
    if home is None:
        return leaf
    spec = (*[None] * stacked, *home.spec)
    explicit = set(home.mesh.explicit_axes)
    if not explicit:
        sharding = jax.NamedSharding(home.mesh, jax.P(*spec))
        return jax.lax.with_sharding_constraint(leaf, sharding)
    # On a mesh of both kinds XLA lays out along the automatic axes by itself.
    names = [each if isinstance(each, tuple) else (each,) for each in spec]
    own = [tuple(name for name in each if name in explicit) or None for each in names]
    return jax.sharding.reshard(leaf, jax.NamedSharding(home.mesh, jax.P(*own)))


def gaussian(key: jax.Array, params: optax.Params, homes: Homes) -> optax.Params:
    """Independent standard normal entries."""
    return _drawn(jax.random.normal, key, params, homes)


def signs(key: jax.Array, params: optax.Params, homes: Homes) -> optax.Params:
    """Independent entries of 1 and -1."""
    return _drawn(jax.random.rademacher, key, params, homes)


def _drawn(
    draw: Callable[..., jax.Array], key: jax.Array, params: optax.Params, homes: Homes
) -> optax.Params:
    leaves, treedef = jax.tree.flatten(params)
    alike = defaultdict(list)
    for position, leaf in enumerate(leaves):
        alike[leaf.shape, leaf.dtype].append(position)

    drawn = [*leaves]
    # One draw for all of a kind: XLA takes half a second to compile each.
    for number, ((shape, dtype), positions) in enumerate(alike.items()):
        rows = draw(jax.random.fold_in(key, number), (len(positions), *shape), dtype)
        rows = _placed(rows, homes[positions[0]], stacked=1)
        for position, row in zip(positions, rows, strict=True):
            drawn[position] = row
    return placed(jax.tree.unflatten(treedef, drawn), homes)


def dot(one: optax.Params, other: optax.Params) -> jax.Array:
    """The inner product, in the dtype of the widest leaf."""
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), one, other))
    return total(products)


def total(parts: Sequence[jax.Array]) -> jax.Array:
    """The sum of what the leaves come to, in the dtype of the widest."""
    dtype = widest(*parts)
    return functools.reduce(jnp.add, [part.astype(dtype) for part in parts])


def scaled(tree: optax.Params, factor: jax.Array) -> optax.Params:
    """The same times a number, in its own dtypes."""
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


def length_of(tree: optax.Params) -> jax.Array:
    """The L2 norm, also of entries whose squares are beyond the largest float or below the least.

    Curvature may be so: before a normalisation layer it grows as one over the squared weights.
    """
    most = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    largest = functools.reduce(jnp.maximum, [each.astype(widest(*most)) for each in most])
    largest = jnp.where(largest > 0, largest, 1)
    return largest * tree_norm(scaled(tree, 1 / largest))


def unit(tree: optax.Params) -> optax.Params:
    """The same with length 1; a zero stays zero."""
    length = length_of(tree)
    return scaled(tree, jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0))


def size_of(params: optax.Params) -> int:
    """How many entries there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
