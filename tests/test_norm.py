"""A norm over leaves that lie on a mesh, as accelerators take it: once counted, once exchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from zsharp_jax._norm import _on_mesh, tree_norm
from zsharp_jax._precision import at_least_float32

SPECS = {(64, 6): P("data", "model"), (8, 3): P("data"), (4, 2): P(None, "model"), (5,): P()}


def leaves_on(kind):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    rng = np.random.default_rng(0)
    return [
        jax.device_put(jnp.asarray(rng.normal(size=shape), dtype), NamedSharding(mesh, spec))
        for shape, spec in SPECS.items()
        for dtype in ("float32", "bfloat16", "complex64")
    ]


def plain(leaves):
    return np.sqrt(sum(np.sum(np.abs(np.asarray(leaf, np.complex128)) ** 2) for leaf in leaves))


def test_each_entry_counts_once_and_one_number_is_exchanged():
    leaves = leaves_on(AxisType.Auto)
    square = jax.jit(lambda leaves: _on_mesh(*map(at_least_float32, leaves)))
    compiled = square.lower(leaves).compile()
    np.testing.assert_allclose(np.sqrt(compiled(leaves)), plain(leaves), rtol=1e-6)
    program = compiled.as_text()
    assert program.count(" all-reduce(") == 1 and "all-gather" not in program


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_mesh_may_be_of_either_kind(kind):
    leaves = leaves_on(kind)
    np.testing.assert_allclose(jax.jit(tree_norm)(leaves), plain(leaves), rtol=1e-6)


def test_members_of_a_batch_and_derivatives():
    leaves = [leaf for leaf in leaves_on(AxisType.Auto) if leaf.dtype == jnp.float32]
    batch = [jnp.stack([leaf, 2 * leaf]) for leaf in leaves[:-1]]
    squares = jax.jit(jax.vmap(lambda *each: _on_mesh(*each, leaves[-1])))(*batch)
    one, rest = plain(leaves[:-1]) ** 2, plain(leaves[-1:]) ** 2
    np.testing.assert_allclose(squares, [one + rest, 4 * one + rest], rtol=1e-6)
    slopes = jax.jit(jax.grad(lambda leaves: _on_mesh(*leaves)))(leaves)
    for slope, leaf in zip(slopes, leaves, strict=True):
        np.testing.assert_allclose(slope, 2 * leaf, rtol=1e-6)
