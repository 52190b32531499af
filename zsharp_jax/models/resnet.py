"""The CIFAR ResNets: three stages of basic blocks whose shortcuts have no weights.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: a network of
6 n + 2 layers has n blocks a stage, and its shortcuts are of option A.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from zsharp_jax.models.layers import batch_norm, conv3x3, he_normal


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut.

    Attributes:
        features: How many channels come out.
        stride: By how much the first convolution and the shortcut subsample.
        conv: Makes a 3 x 3 convolution.
        norm: Makes a normalisation.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        outputs = self.conv(self.features, strides=self.stride)(inputs)
        outputs = nn.relu(self.norm()(outputs))
        outputs = self.norm()(self.conv(self.features)(outputs))
        return nn.relu(outputs + self.shortcut(inputs))

    def shortcut(self, inputs: jax.Array) -> jax.Array:
        """Option A: subsamples, and pads new channels with zeros on both sides."""
        inputs = inputs[:, :: self.stride, :: self.stride]
        missing = self.features - inputs.shape[-1]
        before = missing // 2
        return jnp.pad(inputs, ((0, 0), (0, 0), (0, 0), (before, missing - before)))


class ResNet(nn.Module):
    """A CIFAR ResNet; call it as `model.apply(variables, images, train=...)`.

    Images are float arrays of shape (batch, height, width, channels); float32 logits of shape
    (batch, num_classes) come back. BatchNorm keeps its statistics in the collection `batch_stats`,
    which is mutable with `train=True`; their variance is that of the batch as it is, biased.

    Attributes:
        blocks: How many blocks a stage has.
        num_classes: How many logits.
        widths: The channels of each stage; each but the first halves height and width.
        dtype: What is computed in; parameters and statistics stay float32.

    Example:
        >>> model = ResNet(blocks=1, num_classes=10, widths=(4, 8))
        >>> key, images = jax.random.key(0), jnp.zeros((2, 32, 32, 3))
        >>> variables = jax.jit(model.init, static_argnames="train")(key, images, train=False)
        >>> print(model.apply(variables, images, train=False).shape)
        (2, 10)
    """

    blocks: int
    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        conv, norm = conv3x3(self.dtype, use_bias=False), batch_norm(self.dtype, train)

        outputs = nn.relu(norm()(conv(self.widths[0])(images)))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                outputs = BasicBlock(width, stride, conv, norm)(outputs)
        outputs = jnp.mean(outputs, axis=(1, 2))
        logits = nn.Dense(self.num_classes, kernel_init=he_normal, dtype=self.dtype)(outputs)
        return logits.astype(jnp.float32)


MODELS = {
    "resnet8": functools.partial(ResNet, blocks=1),
    "resnet20": functools.partial(ResNet, blocks=3),
    "resnet56": functools.partial(ResNet, blocks=9),
    "resnet110": functools.partial(ResNet, blocks=18),
}
