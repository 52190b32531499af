"""Digits and their split; crops and flips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax.benchmark.augment import augment
from zsharp_jax.benchmark.data import load


def test_digits_are_split_by_class_and_always_alike():
    digits, again = load("digits", None, verify=True), load("digits", None, verify=True)
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.train_images.dtype == np.uint8 and digits.train_images.max() == 16
    assert digits.train_labels.dtype == np.int32
    np.testing.assert_array_equal(digits.test_images, again.test_images)
    for label in range(10):
        in_test = np.sum(digits.test_labels == label)
        in_all = in_test + np.sum(digits.train_labels == label)
        assert abs(in_test / in_all - 360 / 1797) < 0.005


IMAGES = jnp.arange(2 * 6 * 6 * 3, dtype=jnp.uint8).reshape(2, 6, 6, 3)


def test_without_crop_and_flip_nothing_changes():
    np.testing.assert_array_equal(augment(jax.random.key(0), IMAGES, 0, False), IMAGES)


@pytest.mark.parametrize("padding", [1, 4])
def test_a_crop_is_a_window_of_the_padded_image(padding):
    images = jnp.tile(IMAGES[:1] + 1, (200, 1, 1, 1))
    cropped = np.asarray(jax.jit(augment, static_argnums=(2, 3))(
        jax.random.key(1), images, padding, False
    ))  # fmt: skip
    padded = np.pad(np.asarray(images[0]), ((padding,) * 2, (padding,) * 2, (0, 0)))
    windows = {
        padded[top : top + 6, left : left + 6].tobytes()
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }
    found = {image.tobytes() for image in cropped}
    assert found <= windows
    assert len(found) > 0.8 * min(len(windows), 81 * 0.9)


def test_about_half_of_the_images_are_mirrored():
    images = jnp.tile(IMAGES[:1], (400, 1, 1, 1))
    flipped = np.asarray(augment(jax.random.key(2), images, 0, True))
    mirrored = np.all(flipped == np.asarray(images)[:, :, ::-1], axis=(1, 2, 3))
    same = np.all(flipped == np.asarray(images), axis=(1, 2, 3))
    assert np.all(mirrored ^ same) and 160 < mirrored.sum() < 240
