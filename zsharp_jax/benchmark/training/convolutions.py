"""Convolutions as products of matrices, where XLA is slow at convolutions.

- On any device, several networks at once: each has its own kernels, so `jax.vmap` makes grouped
  convolutions of theirs.

On a CPU also:

- Within a compiled loop they take many times as long as outside, and everything that measures
  sharpness is a loop.
- For images of 2 x 2 pixels they take many times as long as products, above all with many
  channels, as in the last layers of VGG-16 on CIFAR.
"""

import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_SMALL = 2  # pixels along each axis of what comes out
_LARGEST = 1 << 30


def quick_in_loops() -> contextlib.AbstractContextManager[Any]:
    """Within it, on a CPU, networks that are applied convolve by products of matrices."""
    return _by_products(_LARGEST) if _is_on_cpu() else contextlib.nullcontext()


def quick_when_small() -> contextlib.AbstractContextManager[Any]:
    """Within it, on a CPU, networks that are applied convolve small images by such products."""
    return _by_products(_SMALL) if _is_on_cpu() else contextlib.nullcontext()


def quick_at_once() -> contextlib.AbstractContextManager[Any]:
    """Within it networks that are applied convolve by such products, on any device."""
    return _by_products(_LARGEST)


def _is_on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _by_products(largest: int) -> contextlib.AbstractContextManager[Any]:
    """Replaces the convolutions from which images of at most so many pixels a side come out."""

    def convolve(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer: Any = context.module
        if not _is_3x3(layer) or max(args[0].shape[1:3]) > largest * (layer.strides or 1):
            return next_call(*args, **kwargs)
        weights = layer.variables["params"]
        images, kernel, bias = layer.promote_dtype(
            args[0], weights["kernel"], weights.get("bias"), dtype=layer.dtype
        )
        outputs = convolved_3x3(images, kernel, layer.strides or 1)
        return outputs if bias is None else outputs + bias.reshape(1, 1, 1, -1)

    return nn.intercept_methods(convolve)


def _is_3x3(layer: Any) -> bool:
    return isinstance(layer, nn.Conv) and layer.kernel_size == (3, 3) and layer.padding == 1


def convolved_3x3(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution whose images are padded by one pixel.

    Args:
        images: Of shape (count, height, width, channels).
        kernel: Of shape (3, 3, channels, features).
        stride: Of both axes.

    Returns:
        Of shape (count, height / stride, width / stride, features), rounded up.
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    beside = [padded[:, :, column : column + width : stride] for column in range(3)]
    rows = jnp.concatenate(beside, axis=-1)
    above = [rows[:, row : row + height : stride] for row in range(3)]
    return jnp.concatenate(above, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
