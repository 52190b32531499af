"""The mean loss at a distance from the parameters, in random directions."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_count, checked_nonnegative
from zsharp_jax._mean_gradient import LossFn
from zsharp_jax._perturb import perturbed
from zsharp_jax.sharpness._arguments import checked_key, checked_params, refuse_nonfinite
from zsharp_jax.sharpness._estimate import Estimate, estimate_of
from zsharp_jax.sharpness._objective import Objective, checked_objective
from zsharp_jax.sharpness._vectors import Homes, gaussian, homes_of, scaled, unit


def average_loss(
    loss_fn: LossFn,
    params: optax.Params,
    *inputs: Any,
    key: jax.Array,
    rho: float | jax.Array,
    samples: int = 100,
    has_aux: bool = False,
    microbatches: int = 1,
    batch_argnums: int | Sequence[int] | None = None,
) -> Estimate:
    """The mean loss at a distance from the parameters, in random directions.

    Each sample is the loss at w + rho z/||z||, with Gaussian z. It costs one evaluation.

    Args:
        loss_fn: See `hessian_spectrum`.
        params: The middle of the sphere: a tree of real floating-point arrays.
        *inputs: What else the loss function takes.
        key: A key of `jax.random`, for the directions.
        rho: The length of the noise, finite and at least 0, measured as `sam` measures.
        samples: How many samples, at least 2. The standard error falls with its square root.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.
        microbatches: In how many parts the batch is taken, see `mean_value_and_grad`.
        batch_argnums: Which arguments of `loss_fn` hold the batch, see `mean_value_and_grad`.

    Returns:
        An `Estimate` of the mean loss.

    Raises:
        TypeError: If a leaf of `params` is not a real floating-point array, or `key` is no key.
        ValueError: If an argument is out of range, or the batch cannot be split as asked.
        FloatingPointError: If a loss is not finite.

    Example:
        >>> from zsharp_jax.sharpness import average_loss
        >>> def loss_fn(w):
        ...     return jnp.sum(w**2) / 2
        >>> estimate = average_loss(loss_fn, jnp.zeros(3), key=jax.random.key(0), rho=2.0)
        >>> print(estimate.mean.round(4))
        2.0
    """
    objective = checked_objective(loss_fn, has_aux, microbatches, batch_argnums)
    params, key = checked_params(params), checked_key(key)
    checked_nonnegative("rho", rho)
    checked_count("samples", samples, least=2)
    estimate = _average(
        objective, params, inputs, key, rho, samples=samples, homes=homes_of(params)
    )
    refuse_nonfinite("the loss around `params`", estimate.mean, "take a smaller rho")
    return estimate


@functools.partial(jax.jit, static_argnums=0, static_argnames=("samples", "homes"))
def _average(
    objective: Objective,
    params: optax.Params,
    inputs: Sequence[Any],
    key: jax.Array,
    rho: jax.Array,
    *,
    samples: int,
    homes: Homes,
) -> Estimate:
    def sample(key):
        noise = scaled(unit(gaussian(key, params, homes)), jnp.asarray(rho))
        return objective.loss(perturbed(params, noise), *inputs)

    return estimate_of(jax.lax.map(sample, jax.random.split(key, samples)))
