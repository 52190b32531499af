"""The images of the benchmark, as uint8 arrays that fit on the device."""

import dataclasses

import numpy as np

from zsharp_jax.benchmark.datasets import contents
from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.benchmark.datasets.obtain import Origin, obtain
from zsharp_jax.benchmark.errors import RequestError

_DIGITS = (8, 8, 1)
_COUNTED_AT_ONCE = 5_000  # images


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images of shape (count, height, width, channels), uint8, and labels of shape (count,), int32.

    Attributes:
        train_images: What is trained on.
        train_labels: Their classes.
        test_images: What the accuracy is measured on.
        test_labels: Their classes.
        validation_images: What is looked at after every epoch in place of the test images; None
            where nothing is held out for that.
        validation_labels: Their classes.
        num_classes: How many classes there are.
        crop_padding: By how many black pixels an image is padded before a random crop.
        flip: Whether an image is mirrored at random.
        known_sha256: What `sha256` gives, where it is known already.

    Raises:
        RequestError: If a label lies beyond the classes.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    crop_padding: int
    flip: bool
    known_sha256: str | None = None
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        for labels in (self.train_labels, self.test_labels):
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise RequestError(
                    f"labels must be 0 to {self.num_classes - 1} for {self.num_classes} classes, "
                    f"got {labels.min()} to {labels.max()}"
                )

    def first(self, train_images: int | None) -> "Dataset":
        """The same with the first so many training images alone; None for all.

        Raises:
            RequestError: If there are not as many.
        """
        if train_images is not None and train_images > len(self.train_images):
            raise RequestError(
                f"`train_images` must be at most {len(self.train_images)}, got {train_images}: "
                "so many are left to train on"
            )
        return dataclasses.replace(
            self,
            train_images=self.train_images[:train_images],
            train_labels=self.train_labels[:train_images],
            known_sha256=None if train_images else self.known_sha256,
        )

    def sha256(self) -> str:
        """The digest of all images and labels, whatever archive they came in."""
        arrays = (self.train_images, self.train_labels, self.test_images, self.test_labels)
        held_out = (self.validation_images, self.validation_labels)
        return self.known_sha256 or contents.digest(
            array for array in (*arrays, *held_out) if array is not None
        )

    def channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel of the training images, float32, exact."""
        values, statistics = np.arange(256), []
        for channel in np.moveaxis(self.train_images, -1, 0):
            counts = np.zeros(256, np.int64)
            for first in range(0, len(channel), _COUNTED_AT_ONCE):  # for the sake of memory
                some = channel[first : first + _COUNTED_AT_ONCE]
                counts += np.bincount(some.ravel(), minlength=256)
            share = counts / channel.size
            mean = np.sum(share * values)
            statistics.append((mean, np.sqrt(np.sum(share * (values - mean) ** 2))))
        means, stds = np.array(statistics, np.float32).T
        return means, np.where(stds > 0, stds, 1)


def image_shape(name: str) -> tuple[int, int, int]:
    """Height, width and channels of the images of a dataset."""
    return _DIGITS if name == "digits" else SOURCES[name].image_shape


def load(name: str, origin: Origin) -> Dataset:
    """Loads a dataset by name; prepares it first where that has not been done.

    Args:
        name: `digits`, `cifar10`, `cifar100` or `tiny_imagenet`.
        origin: Where all but `digits` may come from.

    Returns:
        The dataset.

    Raises:
        RequestError: If it cannot be had.
    """
    if name == "digits":
        if origin.archive is not None:
            raise RequestError("digits needs no --archive; for that of cifar10: --dataset cifar10")
        return load_digits()
    source = SOURCES[name]
    cache = obtain(source, origin)
    return Dataset(
        **cache.arrays,
        num_classes=source.num_classes,
        crop_padding=4,
        flip=True,
        known_sha256=cache.meta["sha256"],
    )


def load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels in 17 greys: 1,437 train, 360 test.

    The split is fixed and stratified by class. Digits are shifted by a pixel at the most and never
    mirrored.
    """
    from sklearn import datasets, model_selection

    pixels, labels = (np.asarray(array) for array in datasets.load_digits(return_X_y=True))
    images, labels = pixels.reshape(-1, *_DIGITS).astype(np.uint8), labels.astype(np.int32)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    return Dataset(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        num_classes=10,
        crop_padding=1,
        flip=False,
    )
