"""Layers that lie on a mesh, in rows on each of its devices: counts alone are exchanged.

Under `jax.jit` with automatic axes nobody knows while tracing which tensors are sharded. XLA does
when it partitions the program, and asks then what each device has to do with its part.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    SdyShardingRule,
    custom_partitioning,
)

from zsharp_jax._mesh import even_spec, index_along
from zsharp_jax._selection._in_place import thresholds_in_place
from zsharp_jax._selection._rows import Rows, Shard, thresholds_in_rows
from zsharp_jax._selection._threshold import Request, Threshold, threshold_of


def thresholds_on_mesh(leaves: Sequence[jax.Array], request: Request) -> list[Threshold]:
    """The thresholds of every leaf, split as the axes that stack its layers are."""
    on_mesh = jax.custom_batching.custom_vmap(_partitioned([leaf.ndim for leaf in leaves], request))

    @on_mesh.def_vmap
    def of_batch(size, is_batched, *leaves):
        leaves = [
            leaf if batched else jnp.broadcast_to(leaf, (size, *leaf.shape))
            for leaf, batched in zip(leaves, is_batched, strict=True)
        ]
        if request.scope == "global":
            in_place = functools.partial(thresholds_in_place, request=request, folded=False)
            found = jax.vmap(lambda *each: in_place(each))(*leaves)
        else:  # a batch is one more axis that stacks layers
            deeper = tuple(stacked + 1 for stacked in request.stacked)
            found = thresholds_on_mesh(leaves, request._replace(stacked=deeper))
        return found, jax.tree.map(lambda _: True, found)

    return on_mesh(*leaves)


def with_automatic_axes(
    thresholds: Callable[..., list[Threshold]], leaves: Sequence[jax.Array], request: Request
) -> list[Threshold]:
    """The thresholds of leaves on a mesh with explicit axes, by a function that knows none."""
    found = []
    for leaf, stacked in zip(leaves, request.stacked, strict=True):
        sharding = jax.typeof(leaf).sharding
        own: Any = jax.NamedSharding(sharding.mesh, jax.P(*sharding.spec[:stacked]))
        mean, inverse_std = own if request.by_zscore else None, own if request.is_scaled else None
        found.append(Threshold(mean, inverse_std, own))
    automatic: Any = jax.sharding.auto_axes(thresholds, out_sharding=found)
    return automatic(*leaves)


def _partitioned(ranks: Sequence[int], request: Request) -> custom_partitioning:
    def shardings(mesh, leaves, found):
        specs = [even_spec(leaf, mesh) for leaf in leaves]
        of_leaves = tuple(jax.NamedSharding(mesh, jax.P(*spec)) for spec in specs)
        return (
            specs,
            of_leaves,
            [
                jax.tree.map(
                    lambda _, spec=spec[:stacked]: jax.NamedSharding(mesh, jax.P(*spec)), each
                )
                for each, spec, stacked in zip(found, specs, request.stacked, strict=True)
            ],
        )

    def partition(mesh, leaves, found):
        specs, of_leaves, of_found = shardings(mesh, leaves, found)
        shapes = [leaf.shape for leaf in leaves]
        on_each = lambda *parts: _thresholds_of_parts(parts, shapes, specs, request)  # noqa: E731
        return mesh, on_each, of_found, of_leaves

    axes = [[f"leaf{i}_axis{axis}" for axis in range(rank)] for i, rank in enumerate(ranks)]
    arrays = 1 + request.by_zscore + request.is_scaled  # of each threshold
    thresholds = custom_partitioning(lambda *leaves: thresholds_in_rows(leaves, request))
    thresholds.def_partition(
        partition=partition,
        infer_sharding_from_operands=lambda *asked: shardings(*asked)[2],
        sharding_rule=SdyShardingRule(
            tuple(ArrayMapping(*names) for names in axes),
            tuple(
                ArrayMapping(*names[:stacked])
                for names, stacked in zip(axes, request.stacked, strict=True)
                for _ in range(arrays)
            ),
        ),
    )
    return thresholds


def _thresholds_of_parts(
    parts: Sequence[jax.Array],
    shapes: Sequence[tuple[int, ...]],
    specs: Sequence[list[tuple[str, ...]]],
    request: Request,
) -> list[Threshold]:
    axes = {name for spec in specs for names in spec for name in names}
    shards, sizes = [], []
    for part, shape, spec, stacked in zip(parts, shapes, specs, request.stacked, strict=True):
        layers = jnp.int32(0)
        for names, length, whole in zip(spec[:stacked], part.shape, shape, strict=False):
            own = jnp.arange(length, dtype=jnp.int32) + index_along(names) * length
            layers = jnp.add.outer(layers * whole, own)
        others = axes - {name for names in spec for name in names}
        shards.append(Shard(part, layers + len(sizes), index_along(sorted(others)) == 0))
        sizes += [math.prod(shape[stacked:])] * math.prod(shape[:stacked])
    total = functools.partial(jax.lax.psum, axis_name=tuple(sorted(axes)))
    found = threshold_of(Rows(shards, sizes, total), request)
    return [jax.tree.map(lambda each, own=shard.layers: each[own], found) for shard in shards]
