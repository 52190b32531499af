"""The images of the benchmark, as uint8 arrays that fit on the device."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from zsharp_jax.benchmark import cifar
from zsharp_jax.benchmark.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images of shape (count, height, width, channels), uint8, and labels of shape (count,), int32.

    Attributes:
        train_images: What is trained on.
        train_labels: Their classes.
        test_images: What the accuracy is measured on.
        test_labels: Their classes.
        num_classes: How many classes there are.
        crop_padding: By how many black pixels an image is padded before a random crop.
        flip: Whether an image is mirrored at random.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    crop_padding: int
    flip: bool

    def sha256(self) -> str:
        """The digest of all images and labels, whatever archive they came in."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel of the training images, float32, exact."""
        values, statistics = np.arange(256), []
        for channel in np.moveaxis(self.train_images, -1, 0):
            share = np.bincount(channel.ravel(), minlength=256) / channel.size
            mean = np.sum(share * values)
            statistics.append((mean, np.sqrt(np.sum(share * (values - mean) ** 2))))
        means, stds = np.array(statistics, np.float32).T
        return means, np.where(stds > 0, stds, 1)


def load(name: str, archive: pathlib.Path | None, verify: bool) -> Dataset:
    """Loads a dataset by name.

    Args:
        name: `digits` or `cifar10`.
        archive: Where the official archive of `cifar10` lies; `digits` needs none.
        verify: Whether the archive must have the official checksum.

    Returns:
        The dataset.

    Raises:
        RequestError: If the archive is missing, damaged or not the official one.
    """
    if name == "digits":
        if archive is not None:
            raise RequestError("digits needs no --archive; for that of cifar10: --dataset cifar10")
        return load_digits()
    if archive is None:
        raise RequestError(f"{name} needs --archive {cifar.ARCHIVE}, which is found at {cifar.URL}")
    return Dataset(**cifar.read_archive(archive, verify), num_classes=10, crop_padding=4, flip=True)


def load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels in 17 greys: 1,437 train, 360 test.

    The split is fixed and stratified by class. Digits are shifted by a pixel at the most and never
    mirrored.
    """
    from sklearn import datasets, model_selection

    pixels, labels = (np.asarray(array) for array in datasets.load_digits(return_X_y=True))
    images, labels = pixels.reshape(-1, 8, 8, 1).astype(np.uint8), labels.astype(np.int32)
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
