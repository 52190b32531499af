"""Where the entries of a layer are cut, whatever way the layers lie in memory."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from zsharp_jax._selection._search import CountBelow, bits_of, search

Scope = Literal["layer", "global"]


class Request(NamedTuple):
    """What is asked of some leaves.

    Attributes:
        quantile: Below which entries are left out.
        scope: Whether the quantile is that of a layer or of all of them.
        by_zscore: Whether an entry stands out by its |z-score| or by its |value|.
        stacked: For each leaf, how many leading axes stack layers.
    """

    quantile: float
    scope: Scope
    by_zscore: bool
    stacked: tuple[int, ...]

    @property
    def is_scaled(self) -> bool:
        """Whether z-scores of several layers are compared, so that the std matters."""
        return self.by_zscore and self.scope == "global"

    def ranks(self, sizes: Sequence[int]) -> list[int]:
        """The rank of the entry at or just below each quantile, interpolated as NumPy does."""
        asked = sizes if self.scope == "layer" else [sum(sizes)]
        if max(asked) > jnp.iinfo(jnp.int32).max:
            raise ValueError(
                "a layer, or all layers together with scope `global`, may have at most 2**31 - 1 "
                f"entries, as they are counted in int32, got {max(asked)}."
            )
        return [math.floor(self.quantile * (size - 1)) for size in asked]


class Threshold(NamedTuple):
    """What tells which entries of layers stand out; arrays with an element for each, or None.

    Attributes:
        mean: Of the entries, where they stand out by their |z-score|.
        inverse_std: One over the population standard deviation, where layers are compared. Within
            a layer it is left out: dividing by it scales all entries alike.
        cut: The bits of what stands out are above this.
    """

    mean: jax.Array | None
    inverse_std: jax.Array | None
    cut: jax.Array

    def of_leaves(self, leaves: Sequence[jax.Array], request: Request) -> list["Threshold"]:
        """That of all layers as those of the leaves, in the shape of the axes that stack them."""
        found, start = [], 0
        for leaf, stacked in zip(leaves, request.stacked, strict=True):
            shape = leaf.shape[:stacked]
            layers = slice(start, start + math.prod(shape))
            found.append(jax.tree.map(lambda each: each[layers].reshape(shape), self))  # noqa: B023
            start = layers.stop
        return found

    def keep(self, gradient: jax.Array) -> jax.Array:
        """The gradient of a leaf with 0 in place of what does not stand out. A NaN does."""
        axes = tuple(range(self.cut.ndim, gradient.ndim))
        mean, inverse_std, cut = jax.tree.map(lambda each: jnp.expand_dims(each, axes), tuple(self))
        entries = gradient.astype(f"float{jnp.iinfo(cut.dtype).bits}")
        stand_out = bits_of(_standing(entries, mean, inverse_std)) > cut
        return jnp.where(stand_out, gradient, jnp.zeros_like(gradient))


class Layout(Protocol):
    """Layers in memory, and what is asked of all their entries.

    Functions get entries of the dtype of `zero` and `own`, of shape (layers,), made such that the
    two can be broadcast.
    """

    sizes: list[int]
    zero: jax.Array  # of the widest dtype, float32 at least; varies over devices as entries do
    bits_a_pass: int
    unroll: int  # how many passes a round of the search's loop makes

    def sums(self, term: Callable[..., jax.Array], *own: Any) -> jax.Array:
        """For each layer the sum of `term(entries, *own)`."""
        ...

    def counts_below(self, height: Callable[..., jax.Array], *own: Any) -> CountBelow:
        """For each layer how many of the bits of `height(entries, *own)` lie below its candidates,
        of shape (layers, candidates)."""
        ...


def threshold_of(layout: Layout, request: Request) -> Threshold:
    """The threshold of every layer."""
    mean = inverse_std = None
    if request.by_zscore:
        mean = _means(layout)
        inverse_std = _inverse_stds(layout, mean) if request.is_scaled else None
    count_in_layers = layout.counts_below(_standing, mean, inverse_std)
    layers = len(layout.sizes)

    def count_below(candidates):
        if request.scope == "layer":
            return count_in_layers(candidates)
        counts = count_in_layers(jnp.broadcast_to(candidates, (layers, candidates.shape[1])))
        return jnp.sum(counts, 0, jnp.int32, keepdims=True)

    ranks = _constant(request.ranks(layout.sizes), jnp.int32)
    cut = search(count_below, ranks, layout.zero, layout.bits_a_pass, layout.unroll)
    return Threshold(mean, inverse_std, jnp.broadcast_to(cut, (layers,)))


def _standing(
    entries: jax.Array, mean: jax.Array | None, inverse_std: jax.Array | None
) -> jax.Array:
    """How far entries stand out."""
    if mean is not None:
        entries = entries - mean
    if inverse_std is not None:
        entries = entries * inverse_std
    return jnp.abs(entries)  # last, as it clears the sign of a NaN too


def _means(layout: Layout) -> jax.Array:
    sizes = _constant(layout.sizes, layout.zero.dtype)

    def refined(_, mean):
        return mean + layout.sums(lambda entries, mean: entries - mean, mean) / sizes

    # Twice: the second takes away the rounding of the first sum, and leaves a constant tensor with
    # deviations of exactly 0. In a loop, for out of it XLA might round the mean anew wherever it
    # is used, and then an entry would not be cut where it was counted.
    return jax.lax.fori_loop(0, 2, refined, jnp.broadcast_to(layout.zero, sizes.shape))


def _inverse_stds(layout: Layout, mean: jax.Array) -> jax.Array:
    sizes = _constant(layout.sizes, layout.zero.dtype)
    spread = layout.sums(lambda entries, mean: jnp.abs(entries - mean), mean) / sizes
    unit = jnp.where(spread == 0, 1, spread)  # squares of what is measured in it do not vanish
    squares = layout.sums(lambda entries, mean, unit: ((entries - mean) / unit) ** 2, mean, unit)
    std = unit * jnp.sqrt(squares / sizes)
    # (XLA rounds the division of an array by a scalar in one program as it does not in another.)
    return 1 / jnp.where(std == 0, 1, std)  # a constant tensor has deviations of 0


def _constant(numbers: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    """An array that is computed: what is to be partitioned may hold none."""
    runs = [(number, len(list(same))) for number, same in itertools.groupby(numbers)]
    return jnp.concatenate([jnp.full(length, number, dtype) for number, length in runs])
