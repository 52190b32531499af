"""Vision transformers for small images, of the kind that the paper trains.

Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021. Two things differ here, as in the
network that the paper's authors took: attention scores are divided by the square root of the whole
width rather than of a head's, and the MLP has a GELU after both of its layers.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# Kernels start uniform within 1 / sqrt(fan in), as a linear layer of PyTorch does.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Attention(nn.Module):
    """Multi-head self-attention over tokens of shape (batch, tokens, width).

    Attributes:
        heads: How many heads share the width.
        dtype: What is computed in.
    """

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        *batch_and_tokens, width = tokens.shape
        dense = functools.partial(nn.Dense, width, kernel_init=torch_uniform, dtype=self.dtype)
        query, key, value = (
            dense(name=name)(tokens).reshape(*batch_and_tokens, self.heads, width // self.heads)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / width**0.5
        attention = nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        outputs = jnp.einsum("bhqk,bkhd->bqhd", attention, value)
        return dense(name="out")(outputs.reshape(*batch_and_tokens, width))


class EncoderBlock(nn.Module):
    """Attention and an MLP, each after a LayerNorm and beside a residual.

    Attributes:
        heads: How many heads the attention has.
        mlp_width: The width between the two layers of the MLP.
        dtype: What is computed in.
    """

    heads: int
    mlp_width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        dense = functools.partial(nn.Dense, kernel_init=torch_uniform, dtype=self.dtype)

        tokens = tokens + Attention(self.heads, self.dtype)(norm()(tokens))
        hidden = exact_gelu(dense(self.mlp_width)(norm()(tokens)))
        return tokens + exact_gelu(dense(tokens.shape[-1])(hidden))


class ViT(nn.Module):
    """A vision transformer; call it as `model.apply(variables, images, train=...)`.

    Images are float arrays of shape (batch, height, width, channels); float32 logits of shape
    (batch, num_classes) come back. Nothing differs in training, as there is no dropout.

    Attributes:
        layers: How many encoder blocks.
        width: The length of a token.
        heads: How many attention heads; they divide the width.
        mlp_width: The width between the two layers of an MLP.
        num_classes: How many logits.
        grid: Into how many patches height and width are cut; it divides both.
        dtype: What is computed in; parameters stay float32.

    Raises:
        ValueError: If the grid does not divide the height and width of the images.

    Example:
        >>> model = ViT(layers=1, width=16, heads=2, mlp_width=32, num_classes=10)
        >>> key, images = jax.random.key(0), jnp.zeros((2, 32, 32, 3))
        >>> variables = jax.jit(model.init, static_argnames="train")(key, images, train=False)
        >>> print(model.apply(variables, images, train=False).shape)
        (2, 10)
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    num_classes: int
    grid: int = 8
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        del train
        dense = functools.partial(nn.Dense, kernel_init=torch_uniform, dtype=self.dtype)
        standard_normal = nn.initializers.normal(1.0)

        patches = dense(self.width)(cut_into_patches(images, self.grid))
        class_token = self.param("class_token", standard_normal, (1, 1, self.width))
        class_tokens = jnp.tile(class_token.astype(self.dtype), (len(images), 1, 1))
        tokens = jnp.concatenate([class_tokens, patches], axis=1)
        positions = self.param("positions", standard_normal, (1, self.grid**2 + 1, self.width))
        tokens = tokens + positions.astype(self.dtype)

        for _ in range(self.layers):
            tokens = EncoderBlock(self.heads, self.mlp_width, self.dtype)(tokens)
        outputs = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)(tokens[:, 0])
        return dense(self.num_classes)(outputs).astype(jnp.float32)


def cut_into_patches(images: jax.Array, grid: int) -> jax.Array:
    """(batch, height, width, channels) to (batch, grid^2, pixels of a patch times channels)."""
    batch, height, width, channels = images.shape
    if height % grid or width % grid:
        raise ValueError(
            f"the height and width of the images must be multiples of grid={grid}, got {height} "
            f"and {width}."
        )
    rows, columns = height // grid, width // grid
    patches = images.reshape(batch, grid, rows, grid, columns, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, grid**2, rows * columns * channels)


exact_gelu = functools.partial(nn.gelu, approximate=False)

MODELS = {
    "vit_3_4_4_64": functools.partial(ViT, layers=3, width=64, heads=4, mlp_width=64, grid=4),
    "vit_7_8_8_384": functools.partial(ViT, layers=7, width=384, heads=8, mlp_width=384),
    "vit_7_8_12_768": functools.partial(ViT, layers=7, width=384, heads=8, mlp_width=768),
}
