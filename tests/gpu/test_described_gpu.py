"""Programs are compiled for a GPU that is not there, each time anew."""

import described_gpu
import jax
import jax.numpy as jnp
import needs

pytestmark = needs.gpu_programs


def test_a_program_compiles_again_where_a_cache_of_programs_is_in_use(compilations):
    sharding = jax.NamedSharding(described_gpu.mesh(1), jax.P())
    vector = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=sharding)
    jax.jit(jnp.sort)(jnp.ones(64)).block_until_ready()  # the cache is in use from here
    assert jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    counts = []
    for _ in range(2):
        jax.clear_caches()
        before = len(compilations)
        described_gpu.costs(jnp.sort, vector)
        counts.append(len(compilations) - before)
    assert counts[0] == counts[1] >= 1
