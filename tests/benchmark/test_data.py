"""Digits and their split; datasets from an archive; crops and flips."""

import dataclasses

import archives
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax.benchmark.datasets import images
from zsharp_jax.benchmark.datasets.images import Dataset, Origin, load
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.settings import DEFAULTS
from zsharp_jax.benchmark.training.augmentation import augment


def test_digits_are_split_by_class_and_always_alike():
    digits, again = load("digits", Origin()), load("digits", Origin())
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.train_images.dtype == np.uint8 and digits.train_images.max() == 16
    assert digits.train_labels.dtype == np.int32
    np.testing.assert_array_equal(digits.test_images, again.test_images)
    for label in range(10):
        in_test = np.sum(digits.test_labels == label)
        in_all = in_test + np.sum(digits.train_labels == label)
        assert abs(in_test / in_all - 360 / 1797) < 0.005


@pytest.mark.parametrize(
    "name, num_classes, shape",
    [
        ("cifar10", 10, (32, 32, 3)),
        ("cifar100", 100, (32, 32, 3)),
        ("tiny_imagenet", 200, (64, 64, 3)),
    ],
)
def test_each_dataset_is_loaded_with_its_classes(tmp_path, name, num_classes, shape):
    path, source = archives.write_official(name, tmp_path)
    dataset = load(name, Origin(tmp_path / "data", path, verify=False))
    assert dataset.num_classes == num_classes and dataset.train_images.shape[1:] == shape
    assert len(dataset.test_images) == len(dataset.test_labels) == source.counts["test"]
    assert dataset.crop_padding == 4 and dataset.flip
    assert DEFAULTS[name] == DEFAULTS["cifar10"]


def test_the_digest_is_that_of_the_content_and_not_taken_twice(tmp_path, monkeypatch):
    path, _ = archives.write_official("cifar10", tmp_path)
    dataset = load("cifar10", Origin(tmp_path / "data", path, verify=False))
    taken_anew = dataclasses.replace(dataset, known_sha256=None).sha256()
    monkeypatch.setattr(images.contents, "digest", None)
    assert dataset.sha256() == taken_anew


def test_the_first_training_images_alone():
    digits = load("digits", Origin())
    few = digits.first(100)
    np.testing.assert_array_equal(few.train_images, digits.train_images[:100])
    np.testing.assert_array_equal(few.train_labels, digits.train_labels[:100])
    assert len(few.test_images) == 360 and few.sha256() != digits.sha256()
    assert digits.first(None).sha256() == digits.sha256()
    with pytest.raises(RequestError, match="`train_images` must be at most 1437, got 1438"):
        digits.first(1438)


def test_channel_statistics_are_exact(tmp_path, monkeypatch):
    path, _ = archives.write_official("cifar10", tmp_path)
    dataset = load("cifar10", Origin(tmp_path / "data", path, verify=False))
    pixels = dataset.train_images.astype(np.float64)
    for at_once in (5_000, 7):
        monkeypatch.setattr(images, "_COUNTED_AT_ONCE", at_once)
        means, stds = dataset.channel_statistics()
        np.testing.assert_allclose(means, pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(stds, pixels.std(axis=(0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_class_count_that_does_not_fit_is_refused(label):
    images, labels = np.zeros((2, 4, 4, 1), np.uint8), np.array([0, label], np.int32)
    with pytest.raises(RequestError, match="labels must be 0 to 9 for 10 classes, got"):
        Dataset(images, labels, images, labels, 10, crop_padding=0, flip=False)


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
