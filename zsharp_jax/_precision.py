"""Statistics and norms are taken in float32 at least, whatever the dtype of a gradient."""

import jax
import jax.numpy as jnp
import optax


def at_least_float32(array: jax.typing.ArrayLike) -> jax.Array:
    """Casts bfloat16 and float16 up to float32; wider and complex dtypes stay as they are."""
    array = jnp.asarray(array)  # a parameter may be a Python number
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def tree_norm(tree: optax.Params) -> jax.Array:
    """The L2 norm over all entries of all leaves, in float32 at least."""
    # The gradients of a float16 model overflow when they are squared in their own dtype.
    return jnp.asarray(optax.tree.norm(jax.tree.map(at_least_float32, tree)))
