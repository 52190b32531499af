"""The gradient of a batch that comes in parts: micro-batches in turn, devices side by side."""

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zsharp_jax._batch import in_microbatches, positions_of_batch
from zsharp_jax._checks import check_flags, check_is_loss, checked_argnums, checked_count
from zsharp_jax._precision import at_least_float32, at_least_float32_dtype
from zsharp_jax._refusals import scalar_loss

LossFn = Callable[..., Any]
ValueAndGrad = Callable[..., tuple[Any, Any]]


def mean_value_and_grad(
    loss_fn: LossFn,
    has_aux: bool = False,
    *,
    microbatches: int = 1,
    axis_name: Hashable | None = None,
    batch_argnums: int | Sequence[int] | None = None,
) -> ValueAndGrad:
    """`jax.value_and_grad` of a whole batch that is taken in parts.

    The loss must be a mean over examples; then the mean over the parts is that of the batch (the
    second example shows a mean over tokens). It is taken in float32 at least, and returned in the
    dtype of what is averaged.

    Args:
        loss_fn: `loss_fn(params, *inputs)` returns a scalar loss, or `(loss, aux)` with `has_aux`.
        has_aux: Whether `loss_fn` returns `(loss, aux)`. Floating-point leaves of aux are averaged
            like the loss, so BatchNorm statistics become the mean of those of the parts. Do not
            return values of single examples, such as logits: they would be averaged too. Other
            leaves (counters, keys) are taken from the last micro-batch, and on each device from
            its own.
        microbatches: In how many parts of equal size the batch is taken, one after the other. It
            takes the memory of one part and of one more gradient in float32.
        axis_name: The axis, or a tuple of axes, of `jax.pmap` or `jax.shard_map` that the batch is
            spread over: take no mean over it yourself. Each device of it must have all parameters.
            (Under `jax.jit` on a mesh there is nothing to name.)
        batch_argnums: Which arguments of `loss_fn` hold the batch along their first axis, counted
            as `jax.grad` counts: the parameters are 0. None: all but the parameters. A dropout key
            that is not split is the same for every part: for masks of their own pass as many keys
            as examples, and use the first of a part.

    Returns:
        A function of `params, *inputs` that returns `loss, gradients` or `(loss, aux), gradients`.

    Raises:
        TypeError: If `loss_fn` is no function or `has_aux` no bool; on a call, if the loss is no
            real scalar or does not fit `has_aux`.
        ValueError: If an argument is out of range; on a call, if `microbatches` does not divide the
            batch, `batch_argnums` names no input, or there is no axis `axis_name`.

    Example:
        >>> def loss_fn(w, inputs, targets):
        ...     return jnp.mean((inputs @ w - targets) ** 2)
        >>> value_and_grad = mean_value_and_grad(loss_fn, microbatches=2)
        >>> loss, gradient = value_and_grad(jnp.zeros(2), jnp.eye(2), jnp.array([1.0, 3.0]))
        >>> print(loss, gradient)
        5.0 [-1. -3.]

        A mean over tokens with padding is no mean over examples, for parts differ in how many
        tokens they have. Divide by the number of the whole batch, which is not split:

        >>> parts = 2
        >>> def token_loss(w, tokens, mask, total):
        ...     return jnp.sum((tokens * w - 1) ** 2 * mask) * parts / total
        >>> tokens, mask = jnp.arange(6.0).reshape(2, 3), jnp.array([[1, 1, 1], [1, 0, 0]])
        >>> of_tokens = mean_value_and_grad(token_loss, microbatches=parts, batch_argnums=(1, 2))
        >>> loss, gradient = of_tokens(jnp.array(1.0), tokens, mask, jnp.sum(mask))
        >>> print(loss, gradient)
        1.5 4.0
    """
    check_is_loss(loss_fn)
    check_flags(has_aux=has_aux)
    checked_count("microbatches", microbatches)
    argnums = checked_argnums("batch_argnums", batch_argnums)
    value_and_grad = jax.value_and_grad(scalar_loss(loss_fn, has_aux), has_aux=has_aux)
    value_and_grad = _in_turn(value_and_grad, microbatches, argnums)
    return value_and_grad if axis_name is None else _over_axis(value_and_grad, axis_name)


def axis_size(axis_name: Hashable) -> int:
    """How many devices a mapped axis has."""
    try:
        return jax.lax.axis_size(axis_name)
    except NameError:
        raise ValueError(
            "`axis_name` must be the name of an axis of a `jax.pmap` or `jax.shard_map` that this "
            f"runs in, and there is no {axis_name!r}: under `jax.jit` alone leave it out, for "
            "means are over the whole batch there."
        ) from None


def varying(tree: Any, axis_name: Hashable) -> Any:
    """The same, as something that each device of a mapped axis has for itself.

    Where `jax.shard_map` keeps account of what varies, a gradient with respect to what does not has
    been summed over the devices already: a mean of it is too large by their number.
    """
    manual_axes = jax.sharding.get_abstract_mesh().manual_axes  # none of a `jax.vmap`
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    mapped = [name for name in names if name in manual_axes]

    def cast(leaf):
        new = tuple(name for name in mapped if name not in _varies_over(leaf))
        return jax.lax.pcast(leaf, new, to="varying") if new else leaf

    return jax.tree.map(cast, tree)


def mean_over_axis(tree: Any, axis_name: Hashable) -> Any:
    """Floating-point leaves become their mean over the devices of a mapped axis."""

    def mean(leaf):
        return jax.lax.pmean(at_least_float32(leaf), axis_name).astype(leaf.dtype)

    arrays = jax.tree.map(jnp.asarray, tree)  # aux may hold Python numbers
    return jax.tree.map(lambda leaf: mean(leaf) if is_averaged(leaf) else leaf, arrays)


def is_averaged(leaf: Any) -> bool:
    """Whether a leaf can be a mean, which a counter or a PRNG key cannot."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _over_axis(value_and_grad: ValueAndGrad, axis_name: Hashable) -> ValueAndGrad:
    def mean(params, *inputs):
        axis_size(axis_name)  # refuses one that is not there
        return mean_over_axis(value_and_grad(varying(params, axis_name), *inputs), axis_name)

    return mean


def _in_turn(
    value_and_grad: ValueAndGrad, microbatches: int, argnums: Collection[int] | None
) -> ValueAndGrad:
    # `optax.microbatching.microbatch` adds up in the dtype of a gradient, and what it adds up may
    # be neither a counter or a key nor something that varies within a `jax.shard_map`.
    def of_batch(params, *inputs):
        positions_of_batch(inputs, argnums)  # wrong ones are refused also where nothing is split
        if microbatches == 1:
            return value_and_grad(params, *inputs)
        stacks, joined = in_microbatches(inputs, argnums, microbatches)

        def evaluate(part):
            return value_and_grad(params, *joined(part))

        def add(sums, part):
            leaves = zip(sums, map(jnp.asarray, jax.tree.leaves(evaluate(part))), strict=True)
            added = [
                (total, leaf) if total is None else (total + at_least_float32(leaf), None)
                for total, leaf in leaves
            ]
            return [total for total, _ in added], [other for _, other in added]

        first = jax.tree.map(lambda stack: stack[0], stacks)
        likes, treedef = jax.tree.flatten(jax.eval_shape(evaluate, first))
        zeros = [_zeros_of(like) if is_averaged(like) else None for like in likes]
        sums_and_others: Any = jax.lax.scan(add, zeros, stacks)
        means = [
            other[-1] if total is None else (total / microbatches).astype(like.dtype)
            for like, total, other in zip(likes, *sums_and_others, strict=True)
        ]
        return jax.tree.unflatten(treedef, means)

    return of_batch


def _zeros_of(like: jax.ShapeDtypeStruct) -> jax.Array:
    zeros = jnp.zeros(like.shape, at_least_float32_dtype(like.dtype), device=like.sharding)
    for axis_name in _varies_over(like):
        zeros = varying(zeros, axis_name)
    return zeros


def _varies_over(leaf: Any) -> frozenset[Hashable]:
    """The mapped axes over which a `jax.shard_map` knows a leaf to vary."""
    kind = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return getattr(getattr(kind, "manual_axis_type", None), "varying", frozenset())
