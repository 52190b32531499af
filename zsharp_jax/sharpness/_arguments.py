"""What the parameters, a key and the values of a loss may be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from zsharp_jax._precision import at_least_float32
from zsharp_jax._refusals import check_params


def checked_params(params: optax.Params) -> optax.Params:
    """The parameters in float32 at least; raises unless all are real floating-point arrays."""
    check_params(params)
    if not jax.tree.leaves(params):
        raise ValueError("`params` must hold at least one array, got none.")
    wide = jax.tree.map(at_least_float32, params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(wide):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"`params` must be real here, got {leaf.dtype} at `{jax.tree_util.keystr(path)}`: "
                "hand over real and imaginary parts as two arrays."
            )
    return wide


def checked_key(key: Any) -> jax.Array:
    """Returns `key` if it is one of `jax.random`, of either kind, else raises."""
    dtype = getattr(key, "dtype", None)
    is_new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if jnp.shape(key) != () if is_new else (dtype != jnp.uint32 or jnp.ndim(key) != 1):
        raise TypeError(f"`key` must be a key such as `jax.random.key(0)`, got {key!r}.")
    return key


def refuse_nonfinite_loss(loss: jax.Array) -> None:
    """Raises unless the loss at the parameters is finite."""
    refuse_nonfinite("the loss at `params`", loss, "without it nothing around it can be measured")


def refuse_nonfinite_hessian(value: jax.Array) -> None:
    """Raises unless what was made of the Hessian is finite."""
    way_out = "look in the loss for a root, a norm or a division that has no derivative there"
    refuse_nonfinite("the Hessian at `params`", value, way_out)


def refuse_nonfinite(what: str, value: jax.Array, way_out: str) -> None:
    """Raises where an entry is not finite; of what is being traced, nothing is known yet."""
    wrong = _nonfinite(value)
    if wrong.size:
        raise FloatingPointError(f"{what} must be finite, got {wrong[0]}: {way_out}.")


def refuse_all_nonfinite(what: str, values: jax.Array, way_out: str) -> None:
    """Raises where no entry is finite."""
    wrong = _nonfinite(values)
    if wrong.size == values.size > 0:
        raise FloatingPointError(f"{what} must be finite, got {wrong[0]}: {way_out}.")


def _nonfinite(values: jax.Array) -> np.ndarray:
    # With NumPy: JAX would index an array on a mesh only where that is the current one.
    known = np.zeros(0) if isinstance(values, Tracer) else np.asarray(values)
    return known[~np.isfinite(known)]
