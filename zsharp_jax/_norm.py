"""Norms of trees, in few launches and one exchange wherever their leaves lie."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    SdyShardingRule,
    custom_partitioning,
)
from jax.sharding import AxisType

from zsharp_jax._mesh import even_spec, index_along, lies_on_mesh, mesh_axes
from zsharp_jax._precision import at_least_float32, widest


def tree_norm(tree: optax.Params) -> jax.Array:
    """The L2 norm over all entries of all leaves, in float32 at least."""
    # The gradients of a float16 model overflow when they are squared in their own dtype.
    leaves = [at_least_float32(leaf) for leaf in jax.tree.leaves(tree)]
    return _root(_sum_of_squares(leaves)) if leaves else jnp.zeros(())


def layer_norm(leaf: jax.Array, stacked: int) -> jax.Array:
    """The L2 norm of each layer that a leaf stacks, in the rank of the leaf."""
    axes = tuple(range(stacked, leaf.ndim))
    return _root(jnp.sum(_squares(at_least_float32(leaf)), axis=axes, keepdims=True))


def _root(square: jax.Array) -> jax.Array:
    # The square root has no derivative at 0.
    is_zero = square == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square)))


def _sum_of_squares(leaves: Sequence[jax.Array]) -> jax.Array:
    elsewhere = _on_mesh if lies_on_mesh(*leaves) else _by_shape

    def sum_of_squares(*leaves):
        return jax.lax.platform_dependent(*leaves, cpu=_leaf_by_leaf, default=elsewhere)

    if AxisType.Explicit in set().union(*map(mesh_axes, leaves)):
        mesh = next(jax.typeof(leaf).sharding.mesh for leaf in leaves if lies_on_mesh(leaf))
        everywhere = jax.NamedSharding(mesh, jax.P())
        automatic: Any = jax.sharding.auto_axes(sum_of_squares, out_sharding=everywhere)
        return automatic(*leaves)
    return sum_of_squares(*leaves)


def _leaf_by_leaf(*leaves: jax.Array) -> jax.Array:
    dtype = widest(*leaves)
    return functools.reduce(jnp.add, [jnp.sum(_squares(leaf)).astype(dtype) for leaf in leaves])


def _by_shape(*leaves: jax.Array) -> jax.Array:
    """One sum for all leaves of a shape: an accelerator starts one or two kernels for each sum."""
    alike: dict[Any, list[jax.Array]] = {}
    for leaf in leaves:
        alike.setdefault((leaf.shape, leaf.dtype), []).append(leaf)
    return _leaf_by_leaf(*[jnp.stack(each) for each in alike.values()])


@jax.custom_jvp
def _on_mesh(*leaves: jax.Array) -> jax.Array:
    """The same for what each device has, and then one sum over the devices."""
    sum_of_squares = jax.custom_batching.custom_vmap(_partitioned([leaf.ndim for leaf in leaves]))

    @sum_of_squares.def_vmap
    def of_batch(size, is_batched, *leaves):
        del size
        axes = [0 if batched else None for batched in is_batched]
        return jax.vmap(_leaf_by_leaf, axes)(*leaves), True

    return sum_of_squares(*leaves)


@_on_mesh.defjvp
def _on_mesh_jvp(leaves, tangents):
    return _on_mesh(*leaves), jax.jvp(_leaf_by_leaf, leaves, tangents)[1]


def _partitioned(ranks: Sequence[int]) -> Callable[..., jax.Array]:
    def partition(mesh, leaves, found):
        del found
        specs = [even_spec(leaf, mesh) for leaf in leaves]
        split = [{name for names in spec for name in names} for spec in specs]
        axes = tuple(sorted(set().union(*split)))

        def of_parts(*parts):
            # Devices that have the same part count it once.
            others = [tuple(name for name in axes if name not in own) for own in split]
            by_others: dict[tuple[str, ...], list[jax.Array]] = {}
            for part, each in zip(parts, others, strict=True):
                by_others.setdefault(each, []).append(part)
            sums = [
                jnp.where(index_along(each) == 0, _by_shape(*own), 0)
                for each, own in by_others.items()
            ]
            dtype = widest(*sums)
            square = functools.reduce(jnp.add, [each.astype(dtype) for each in sums])
            return jax.lax.psum(square, axes) if axes else square

        placed = tuple(jax.NamedSharding(mesh, jax.P(*spec)) for spec in specs)
        return mesh, of_parts, jax.NamedSharding(mesh, jax.P()), placed

    names = [[f"leaf{i}_axis{axis}" for axis in range(rank)] for i, rank in enumerate(ranks)]
    sum_of_squares = custom_partitioning(_leaf_by_leaf)
    sum_of_squares.def_partition(
        partition=partition,
        infer_sharding_from_operands=lambda mesh, *_: jax.NamedSharding(mesh, jax.P()),
        sharding_rule=SdyShardingRule(
            tuple(ArrayMapping(*each) for each in names), (ArrayMapping(),)
        ),
    )
    return sum_of_squares


def _squares(leaf: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(leaf):
        return jnp.square(leaf.real) + jnp.square(leaf.imag)
    return jnp.square(leaf)
