"""Eigenvalues of the Hessian by Lanczos' method, with re-orthogonalisation."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import check_flags, checked_count
from zsharp_jax._mean_gradient import LossFn
from zsharp_jax.sharpness._arguments import (
    checked_key,
    checked_params,
    refuse_nonfinite_hessian,
    refuse_nonfinite_loss,
)
from zsharp_jax.sharpness._objective import Objective, checked_objective
from zsharp_jax.sharpness._vectors import (
    Homes,
    dot,
    gaussian,
    homes_of,
    length_of,
    placed,
    size_of,
    total,
    unit,
)


class Spectrum(NamedTuple):
    """Eigenvalues of the Hessian, and how its spectral density lies on them.

    Attributes:
        eigenvalues: In ascending order, of shape (steps,), in float32 at least. The extremes
            converge first; those in between stand for the many eigenvalues around them.
        weights: The share of the spectrum that each of them stands for, of shape (steps,): at least
            0, and 1 in sum. They are nodes and weights of a Gauss quadrature of the density.
        eigenvectors: A tree like the parameters with a first axis of length steps: entry i has
            length 1 and belongs to eigenvalue i. None unless asked for.
    """

    eigenvalues: jax.Array
    weights: jax.Array
    eigenvectors: optax.Params | None = None


def hessian_spectrum(
    loss_fn: LossFn,
    params: optax.Params,
    *inputs: Any,
    key: jax.Array,
    steps: int = 30,
    eigenvectors: bool = False,
    has_aux: bool = False,
    microbatches: int = 1,
    batch_argnums: int | Sequence[int] | None = None,
) -> Spectrum:
    """The extreme eigenvalues of the Hessian of the loss, and its spectral density.

    The largest eigenvalue is the usual measure of sharpness. A step of Lanczos' method costs one
    product of the Hessian with a vector, about as much as two gradients, and keeps one more copy
    of the parameters in float32.

    Args:
        loss_fn: `loss_fn(params, *inputs)` returns a scalar loss, or `(loss, aux)` with `has_aux`.
            It gets parameters in float32 at least. With BatchNorm it chooses which statistics
            it uses; for a trained network take the running ones, as evaluation does.
        params: Where the Hessian is taken: a tree of real floating-point arrays.
        *inputs: What else the loss function takes.
        key: A key of `jax.random`, for the first vector.
        steps: How many steps, and so how many eigenvalues, from 1 to the number of parameters.
            Take more to see whether the largest one still moves.
        eigenvectors: Whether to return eigenvectors too. They take as much memory again.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.
        microbatches: In how many parts the batch is taken, see `mean_value_and_grad`.
        batch_argnums: Which arguments of `loss_fn` hold the batch, see `mean_value_and_grad`.

    Returns:
        A `Spectrum`.

    Raises:
        TypeError: If a leaf of `params` is not a real floating-point array, `key` is no key, or
            arguments are in the wrong place.
        ValueError: If an argument is out of range, or the batch cannot be split as asked.
        FloatingPointError: If the loss or its Hessian is not finite.

    Example:
        >>> from zsharp_jax.sharpness import hessian_spectrum
        >>> def loss_fn(w):
        ...     return jnp.sum(jnp.array([1.0, 2.0, 4.0]) * w**2) / 2
        >>> spectrum = hessian_spectrum(loss_fn, jnp.ones(3), key=jax.random.key(0), steps=3)
        >>> print(spectrum.eigenvalues.round(4))
        [1. 2. 4.]

    References:
        Ghorbani et al., An Investigation into Neural Net Optimization via Hessian Eigenvalue
        Density, ICML 2019.
    """
    objective = checked_objective(loss_fn, has_aux, microbatches, batch_argnums)
    params, key = checked_params(params), checked_key(key)
    check_flags(eigenvectors=eigenvectors)
    checked_count("steps", steps)
    if steps > size_of(params):
        raise ValueError(
            f"`steps` must be at most the number of parameters, {size_of(params)}, got {steps}."
        )
    homes = homes_of(params)
    loss, spectrum = _spectrum(
        objective,
        params,
        inputs,
        _first_vector(key, params, homes=homes),
        steps=steps,
        eigenvectors=eigenvectors,
        homes=homes,
    )
    refuse_nonfinite_loss(loss)
    refuse_nonfinite_hessian(spectrum.eigenvalues)
    return spectrum


# Only the parameters tell on which devices it runs, so they are kept though only shapes are used.
@functools.partial(jax.jit, static_argnames="homes", keep_unused=True)
def _first_vector(key: jax.Array, params: optax.Params, *, homes: Homes) -> optax.Params:
    # By itself: in the loop XLA would take minutes to compile the draws of a transformer.
    return gaussian(jax.random.fold_in(key, 0), params, homes)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("steps", "eigenvectors", "homes"))
def _spectrum(
    objective: Objective,
    params: optax.Params,
    inputs: Sequence[Any],
    first: optax.Params,
    *,
    steps: int,
    eigenvectors: bool,
    homes: Homes,
) -> tuple[jax.Array, Spectrum]:
    loss, diagonal, beside, basis = _lanczos(
        objective, params, inputs, first, steps=steps, homes=homes
    )
    tridiagonal = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    eigenvalues, combinations = jnp.linalg.eigh(tridiagonal)
    spectrum = Spectrum(eigenvalues, combinations[0] ** 2)
    if not eigenvectors:
        return loss, spectrum

    def combined(rows):
        return jnp.tensordot(combinations.T.astype(rows.dtype), rows, 1, precision="highest")

    vectors = placed(jax.tree.map(combined, basis), homes, stacked=1)
    return loss, spectrum._replace(eigenvectors=vectors)


def _lanczos(
    objective: Objective,
    params: optax.Params,
    inputs: Sequence[Any],
    first: optax.Params,
    *,
    steps: int,
    homes: Homes,
) -> tuple[jax.Array, jax.Array, jax.Array, optax.Params]:
    """The loss; and of the Hessian in tridiagonal form: diagonal, entries beside it, and basis."""

    def new_direction(index, basis):
        # Many times around the circle, entries that differ a little are as good as independent.
        turns = 1000 * index
        vector = jax.tree.map(lambda entries: jnp.sin(turns.astype(entries.dtype) * entries), first)
        return unit(_orthogonal(unit(vector), basis))

    def step(carry, index):
        basis, rest, is_closed = carry
        # Where the basis holds all that its vectors reach, a new direction goes on.
        vector = jax.lax.cond(is_closed, lambda: new_direction(index, basis), lambda: unit(rest))
        vector = placed(vector, homes)
        basis = placed(_with_row(basis, index, vector), homes, stacked=1)

        loss, image = objective.curvature_along(vector, params, *inputs)
        # Once would leave what rounding puts back, and copies of eigenvalues with it.
        rest = _orthogonal(_orthogonal(image, basis), basis)
        length = length_of(rest)
        is_closed = length <= jnp.finfo(length.dtype).eps * length_of(image)
        beside = jnp.where(is_closed, 0, length)
        return (basis, rest, is_closed), (loss, dot(vector, image), beside)

    rows = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), params)
    start = placed(rows, homes, stacked=1), first, jnp.array(False)
    (basis, *_), (losses, diagonal, beside) = jax.lax.scan(step, start, jnp.arange(steps))
    return losses[0], diagonal, beside[:-1], basis


def _with_row(basis: optax.Params, index: jax.Array, vector: optax.Params) -> optax.Params:
    def set_row(rows, row):
        return jax.lax.dynamic_update_index_in_dim(rows, row, index, 0)

    return jax.tree.map(set_row, basis, vector)


def _orthogonal(vector: optax.Params, basis: optax.Params) -> optax.Params:
    """What is left of a vector without its part in the span of the basis."""

    def along_rows(rows, leaf):
        # No `tensordot`: over what explicit axes split it would have to be told where to end up.
        return jnp.sum(rows * leaf[None], axis=tuple(range(1, rows.ndim)))

    parts = total(jax.tree.leaves(jax.tree.map(along_rows, basis, vector)))

    def without(leaf, rows):
        return leaf - jnp.tensordot(parts.astype(leaf.dtype), rows, 1, precision="highest")

    return jax.tree.map(without, vector, basis)
