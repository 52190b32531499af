"""The convolution and the normalisation that the convolutional networks are made of."""

import functools
from collections.abc import Callable

import flax.linen as nn
from jax.typing import DTypeLike

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def conv3x3(dtype: DTypeLike, *, use_bias: bool) -> Callable[..., nn.Module]:
    """Makes 3 x 3 convolutions that keep height and width, but for their stride."""
    return functools.partial(
        nn.Conv,
        kernel_size=(3, 3),
        padding=1,
        use_bias=use_bias,
        kernel_init=he_normal,
        dtype=dtype,
    )


def batch_norm(dtype: DTypeLike, train: bool) -> Callable[..., nn.Module]:
    """Makes BatchNorms with PyTorch's defaults; 0.9 is what PyTorch calls a momentum of 0.1."""
    return functools.partial(
        nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype
    )
