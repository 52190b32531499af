"""The trace of the Hessian by Hutchinson's method."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import optax

from zsharp_jax._checks import checked_count
from zsharp_jax._mean_gradient import LossFn
from zsharp_jax.sharpness._arguments import (
    checked_key,
    checked_params,
    refuse_nonfinite_hessian,
    refuse_nonfinite_loss,
)
from zsharp_jax.sharpness._estimate import Estimate, estimate_of
from zsharp_jax.sharpness._objective import Objective, checked_objective
from zsharp_jax.sharpness._vectors import Homes, dot, homes_of, signs


def hessian_trace(
    loss_fn: LossFn,
    params: optax.Params,
    *inputs: Any,
    key: jax.Array,
    samples: int = 100,
    has_aux: bool = False,
    microbatches: int = 1,
    batch_argnums: int | Sequence[int] | None = None,
) -> Estimate:
    """The trace of the Hessian of the loss: the sum of its eigenvalues, estimated.

    Each sample is vᵀHv with random signs v. It costs one product of the Hessian with a
    vector, about as much as two gradients. The memory does not grow with the number of samples.

    Args:
        loss_fn: See `hessian_spectrum`.
        params: Where the Hessian is taken: a tree of real floating-point arrays.
        *inputs: What else the loss function takes.
        key: A key of `jax.random`, for the signs.
        samples: How many samples, at least 2. The standard error falls with its square root.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.
        microbatches: In how many parts the batch is taken, see `mean_value_and_grad`.
        batch_argnums: Which arguments of `loss_fn` hold the batch, see `mean_value_and_grad`.

    Returns:
        An `Estimate` of the trace. It is exact, with an error of 0, for a diagonal Hessian.

    Raises:
        TypeError: If a leaf of `params` is not a real floating-point array, or `key` is no key.
        ValueError: If an argument is out of range, or the batch cannot be split as asked.
        FloatingPointError: If the loss or its Hessian is not finite.

    Example:
        >>> from zsharp_jax.sharpness import hessian_trace
        >>> def loss_fn(w):
        ...     return jnp.sum(jnp.array([1.0, 2.0, 4.0]) * w**2) / 2
        >>> estimate = hessian_trace(loss_fn, jnp.ones(3), key=jax.random.key(0))
        >>> print(estimate.mean, estimate.standard_error)
        7.0 0.0

    References:
        Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian
        Smoothing Splines, 1990.
    """
    objective = checked_objective(loss_fn, has_aux, microbatches, batch_argnums)
    params, key = checked_params(params), checked_key(key)
    checked_count("samples", samples, least=2)
    loss, estimate = _trace(objective, params, inputs, key, samples=samples, homes=homes_of(params))
    refuse_nonfinite_loss(loss)
    refuse_nonfinite_hessian(estimate.mean)
    return estimate


@functools.partial(jax.jit, static_argnums=0, static_argnames=("samples", "homes"))
def _trace(
    objective: Objective,
    params: optax.Params,
    inputs: Sequence[Any],
    key: jax.Array,
    *,
    samples: int,
    homes: Homes,
) -> tuple[jax.Array, Estimate]:
    def sample(key):
        vector = signs(key, params, homes)
        loss, image = objective.curvature_along(vector, params, *inputs)
        return loss, dot(vector, image)

    losses, draws = jax.lax.map(sample, jax.random.split(key, samples))
    return losses[0], estimate_of(draws)
