"""Statistics and norms are taken in float32 at least, whatever the dtype of a gradient."""

from typing import Any

import jax
import jax.numpy as jnp


def at_least_float32(array: jax.typing.ArrayLike) -> jax.Array:
    """Casts narrower floats up to float32; wider and complex dtypes stay as they are."""
    array = jnp.asarray(array)  # a parameter may be a Python number
    return array.astype(at_least_float32_dtype(array.dtype))


def at_least_float32_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype itself, or float32 for a narrower one."""
    # `jnp.promote_types` would not mix them under JAX's strict promotion, and never float8.
    is_narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32 if is_narrow else dtype)


def widest(*arrays: jax.Array) -> jnp.dtype:
    """The widest real dtype of arrays, float32 at least."""
    real = [jnp.finfo(at_least_float32_dtype(array.dtype)).dtype for array in arrays]
    return max(real, key=lambda dtype: dtype.itemsize)


def wide_zeros(tree: Any) -> Any:
    """Zeros in float32 at least, like arrays, numbers or shapes."""

    def zeros(leaf):
        return jnp.zeros_like(leaf, dtype=at_least_float32_dtype(jnp.result_type(leaf)))

    return jax.tree.map(zeros, tree)
