"""A dataset, a network and settings small enough to train in a test."""

import functools

import numpy as np

from zsharp_jax.benchmark.data import Dataset
from zsharp_jax.benchmark.settings import Settings
from zsharp_jax.models.resnet import ResNet

SMALL_RESNET = functools.partial(ResNet, blocks=1, widths=(16,))

SETTINGS = Settings(
    dataset="digits", model="resnet8", method="zsharp", seed=0, epochs=2, batch_size=16
)


def tiny_dataset():
    rng = np.random.default_rng(0)
    labels = np.arange(70, dtype=np.int32) % 10
    images = rng.integers(0, 40, (70, 8, 8, 1), dtype=np.uint8)
    images[np.arange(70), labels % 8, labels // 8] = 255
    return Dataset(
        images[:50], labels[:50], images[50:], labels[50:], 10, crop_padding=1, flip=True
    )


def silent(standing):
    del standing
