"""A dataset, a network and settings small enough to train in a test."""

import flax.linen as nn
import numpy as np

from zsharp_jax.benchmark.datasets.images import Dataset
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.models.layers import batch_norm, conv3x3


class OneConvolution(nn.Module):
    """A network with BatchNorm that compiles at once."""

    num_classes: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, train):
        outputs = conv3x3(self.dtype, use_bias=False)(4, strides=2)(images)
        outputs = nn.relu(batch_norm(self.dtype, train)()(outputs)).mean((1, 2))
        return nn.Dense(self.num_classes)(outputs)


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


def assert_same_but_for_rounding(ours, theirs):
    """Two outcomes of a run."""
    assert (ours.status, ours.steps) == (theirs.status, theirs.steps)
    np.testing.assert_allclose(ours.step_losses, theirs.step_losses, rtol=1e-3)
    for name in ours.curves.keys() - {"seconds"}:
        np.testing.assert_allclose(ours.curves[name], theirs.curves[name], rtol=1e-3)
