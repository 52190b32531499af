"""VGG-16 with BatchNorm, as trained on CIFAR: one linear layer after the convolutions.

Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR
2015, configuration D; its three wide linear layers are left out, as images of 32 pixels end at one.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from zsharp_jax.models.layers import batch_norm, conv3x3, he_normal


class VGG(nn.Module):
    """A VGG with BatchNorm; call it as `model.apply(variables, images, train=...)`.

    Images are float arrays of shape (batch, height, width, channels), with a height and width of at
    least 2 to the number of stages; float32 logits of shape (batch, num_classes) come back.
    BatchNorm keeps its statistics in the collection `batch_stats`, which is mutable with
    `train=True`; their variance is that of the batch as it is, biased.

    Attributes:
        stages: For each stage the channels of its convolutions; a stage ends by halving height and
            width.
        num_classes: How many logits.
        dtype: What is computed in; parameters and statistics stay float32.

    Raises:
        ValueError: If the images are too small.

    Example:
        >>> model = VGG(stages=((4, 4), (8, 8)), num_classes=10)
        >>> key, images = jax.random.key(0), jnp.zeros((2, 32, 32, 3))
        >>> variables = jax.jit(model.init, static_argnames="train")(key, images, train=False)
        >>> print(model.apply(variables, images, train=False).shape)
        (2, 10)
    """

    stages: Sequence[Sequence[int]]
    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        smallest = 2 ** len(self.stages)
        if min(images.shape[1:3]) < smallest:
            raise ValueError(
                f"the height and width of the images must be at least {smallest}, as each of "
                f"{len(self.stages)} stages halves them, got {images.shape[1]} and "
                f"{images.shape[2]}."
            )
        conv, norm = conv3x3(self.dtype, use_bias=True), batch_norm(self.dtype, train)

        outputs = images
        for widths in self.stages:
            for width in widths:
                outputs = nn.relu(norm()(conv(width)(outputs)))
            outputs = nn.max_pool(outputs, (2, 2), strides=(2, 2))
        outputs = jnp.mean(outputs, axis=(1, 2))  # one pixel is left of 32, four of 64
        logits = nn.Dense(self.num_classes, kernel_init=he_normal, dtype=self.dtype)(outputs)
        return logits.astype(jnp.float32)


STAGES_16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

MODELS = {"vgg16_bn": functools.partial(VGG, stages=STAGES_16)}
