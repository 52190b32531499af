"""Which mesh an array lies on, as far as its type tells, and what each of its devices has."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AxisType


def mesh_axes(array: jax.Array) -> set[AxisType]:
    """The kinds of axes of the mesh of an array, none if it lies on one device."""
    mesh = jax.typeof(array).sharding.mesh
    each = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return {kind for size, kind in each if size > 1}


def lies_on_mesh(*arrays: jax.Array) -> bool:
    """Whether several devices may hold parts of some array. (In a `shard_map` each has its own.)"""
    return not set().union(*map(mesh_axes, arrays)) <= {AxisType.Manual}


def even_spec(leaf: jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh) -> list[tuple[str, ...]]:
    """The mesh axes that each axis of a leaf is split over, if it is split evenly."""
    spec = [*leaf.sharding.spec, *[None] * len(leaf.shape)][: len(leaf.shape)]
    names = [() if each is None else each if isinstance(each, tuple) else (each,) for each in spec]
    return [
        each if length % math.prod(mesh.shape[name] for name in each) == 0 else ()
        for each, length in zip(names, leaf.shape, strict=True)
    ]


def index_along(names: Sequence[str]) -> jax.Array:
    """Which part along axes of the mesh this device has."""
    return jax.lax.axis_index(tuple(names)) if names else jnp.int32(0)
