"""The loss of a whole batch as a function of the parameters, with its derivatives."""

import dataclasses
import operator
import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._batch import in_microbatches, positions_of_batch
from zsharp_jax._checks import check_flags, check_is_loss, checked_argnums, checked_count
from zsharp_jax._mean_gradient import LossFn, mean_value_and_grad
from zsharp_jax._precision import at_least_float32
from zsharp_jax._refusals import scalar_loss


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss function and how its batch is taken; equal ones share what is compiled."""

    loss_fn: LossFn
    has_aux: bool
    microbatches: int
    batch_argnums: tuple[int, ...] | None

    def loss(self, params: optax.Params, *inputs: Any) -> jax.Array:
        """The mean over the batch, without any gradient."""
        positions_of_batch(inputs, self.batch_argnums)  # refuses wrong ones
        if self.microbatches == 1:
            return self._scalar(params, *inputs)
        parts, joined = in_microbatches(inputs, self.batch_argnums, self.microbatches)
        return jnp.mean(jax.lax.map(lambda part: self._scalar(params, *joined(part)), parts))

    def value_and_grad(self, params: optax.Params, *inputs: Any) -> tuple[jax.Array, optax.Updates]:
        """The same, and its gradient."""
        of_batch = mean_value_and_grad(
            self._scalar, microbatches=self.microbatches, batch_argnums=self.batch_argnums
        )
        return of_batch(params, *inputs)

    def curvature_along(
        self, vector: optax.Params, params: optax.Params, *inputs: Any
    ) -> tuple[jax.Array, optax.Params]:
        """The loss, and the Hessian times a vector."""
        (loss, _), (_, image) = jax.jvp(
            lambda params: self.value_and_grad(params, *inputs), (params,), (vector,)
        )
        return loss, image

    def _scalar(self, params: optax.Params, *inputs: Any) -> jax.Array:
        value = scalar_loss(self.loss_fn, self.has_aux)(params, *inputs)
        return at_least_float32(value[0] if self.has_aux else value)


def checked_objective(
    loss_fn: LossFn,
    has_aux: bool,
    microbatches: int,
    batch_argnums: int | Sequence[int] | None,
) -> Objective:
    """The objective of a public function's arguments; raises if one is out of range."""
    check_is_loss(loss_fn)
    check_flags(has_aux=has_aux)
    return Objective(
        _hashable(loss_fn),
        has_aux,
        checked_count("microbatches", microbatches),
        checked_argnums("batch_argnums", batch_argnums),
    )


def _hashable(loss_fn: LossFn) -> LossFn:
    try:
        hash(loss_fn)
    except TypeError:  # a dataclass, or a module that holds arrays
        # Methods are equal if they belong to the same object, whatever that holds.
        return types.MethodType(operator.call, loss_fn)
    return loss_fn
