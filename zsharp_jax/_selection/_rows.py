"""All layers as rows of one buffer, for accelerators: a pass is a kernel or two, whatever the
number of layers. On a CPU this takes twenty times as long as the layers where they are."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsharp_jax._precision import widest
from zsharp_jax._selection._search import CountBelow, bits_of
from zsharp_jax._selection._threshold import Layout, Request, Threshold, threshold_of

ROW = 1024


class Shard(NamedTuple):
    """What this device has of a leaf."""

    entries: jax.Array  # of shape (*stacked, ...)
    layers: jax.Array  # the number of each layer it has some of, counted over all leaves
    is_counted: jax.Array | bool = True  # by this device: another may have the same


def thresholds_in_rows(leaves: Sequence[jax.Array], request: Request) -> list[Threshold]:
    """The thresholds of every leaf."""
    shards, sizes = [], []
    for leaf, stacked in zip(leaves, request.stacked, strict=True):
        count = math.prod(leaf.shape[:stacked])
        layers = len(sizes) + jnp.arange(count, dtype=jnp.int32)
        shards.append(Shard(leaf, layers.reshape(leaf.shape[:stacked])))
        sizes += [leaf.size // count] * count
    return threshold_of(Rows(shards, sizes), request).of_leaves(leaves, request)


class Rows(Layout):
    """All layers in one buffer; `total` adds up over the devices that have some of a layer."""

    bits_a_pass, unroll = 4, 2  # each round of the loop launches kernels too

    def __init__(
        self,
        shards: Sequence[Shard],
        sizes: list[int],
        total: Callable[[jax.Array], jax.Array] = lambda of_layers: of_layers,
    ):
        self.sizes, self.total = sizes, total
        dtype = widest(*[shard.entries for shard in shards])
        alike: dict[int, list[Shard]] = {}  # each filling of rows is a kernel
        for shard in shards:
            alike.setdefault(shard.entries.size // shard.layers.size, []).append(shard)
        pieces = [_in_rows(each, dtype) for each in alike.values()]
        self.buffer, self.layer_of_row, self.used = map(jnp.concatenate, zip(*pieces, strict=True))
        # Written once: without the barrier every pass would look its entries up anew.
        self.buffer = jax.lax.optimization_barrier(self.buffer)
        self.zero = jnp.zeros_like(self.buffer[0, 0])

    def sums(self, term: Callable[..., jax.Array], *own: Any) -> jax.Array:
        terms = term(self.buffer, *map(self._beside_entries, own))
        return self._of_layers(jnp.sum(jnp.where(self._is_entry(), terms, 0), axis=1)[None])[:, 0]

    def counts_below(self, height: Callable[..., jax.Array], *own: Any) -> CountBelow:
        beside = jax.tree.map(self._beside_entries, own)
        # In the place of the buffer. Nothing counts as below what is no entry.
        heights = jnp.where(self._is_entry(), height(self.buffer, *beside), jnp.nan)
        heights = jax.lax.optimization_barrier(heights)

        def count_below(candidates):
            bits, each = bits_of(heights), self._beside_entries(candidates.T)
            below = tuple((bits < column).astype(jnp.int32) for column in each)
            add = lambda totals, more: tuple(map(jax.lax.add, totals, more))  # noqa: E731
            below = jax.lax.reduce(below, (jnp.int32(0),) * len(each), add, (1,))  # one kernel
            return self._of_layers(jnp.stack(below))

        return count_below

    def _is_entry(self) -> jax.Array:
        # Without the barrier what several passes need of this would be kept in memory.
        return jnp.arange(ROW)[None] < jax.lax.optimization_barrier(self.used)[:, None]

    def _beside_entries(self, of_layers: jax.Array) -> jax.Array:
        """Of shape (..., layers) as (..., rows, 1)."""
        return of_layers[..., self.layer_of_row, None]

    def _of_layers(self, of_rows: jax.Array) -> jax.Array:
        """Sums over the rows of each layer, of shape (..., rows) as (layers, ...)."""
        own = self.layer_of_row[None] == jnp.arange(len(self.sizes), dtype=jnp.int32)[:, None]
        terms = jnp.where(own[:, None], of_rows[None], 0)
        return self.total(jnp.sum(terms, axis=-1, dtype=of_rows.dtype))


def _in_rows(shards: Sequence[Shard], dtype: jnp.dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The entries of layers of one size in rows, the layer of each row, and how many entries of a
    row are some."""
    layers = jnp.concatenate([shard.layers.reshape(-1) for shard in shards])
    entries = jnp.concatenate([_flat(shard).astype(dtype) for shard in shards])
    is_counted = jnp.concatenate(
        [jnp.broadcast_to(shard.is_counted, shard.layers.size) for shard in shards]
    )
    rows = -(-entries.shape[1] // ROW)
    missing = rows * ROW - entries.shape[1]
    entries = jnp.pad(entries, ((0, 0), (0, missing))).reshape(-1, ROW)
    used = jnp.where(jnp.arange(rows) < rows - 1, ROW, ROW - missing)
    used = jnp.where(is_counted[:, None], used[None], 0)
    return entries, jnp.repeat(layers, rows), used.reshape(-1)


def _flat(shard: Shard) -> jax.Array:
    """The entries of each layer in a row of any length. Their order does not matter."""
    entries, stacked = shard.entries, shard.layers.ndim
    if entries.ndim - stacked >= 4:
        # A GPU's gradient of a convolution has its outputs first. Asked for the order of the
        # parameters, it would be copied by a kernel of its own.
        entries = jnp.moveaxis(entries, -1, stacked)
    return entries.reshape(shard.layers.size, -1)
