"""Images to validate on, splits of a seed's own, and wrong labels to train on.

All of it is drawn from the seed of a run, so that the methods that are compared at a seed see the
same images and the same labels.
"""

import dataclasses

import numpy as np

from zsharp_jax.benchmark.datasets.images import Dataset
from zsharp_jax.benchmark.errors import RequestError

_SPLIT, _NOISE = 1, 2  # each draws random numbers of its own
_OTHERS = 0.2  # which part of all images is validated on, and which is tested on


def split_three_ways(dataset: Dataset, seed: int) -> Dataset:
    """Draws anew which of all images are trained on, validated on and tested on.

    A fifth of the images are tested on and as many validated on, the same share of every class.

    Args:
        dataset: Any images; those to train on and to test on are put together first.
        seed: Decides the split.

    Returns:
        The dataset with a validation set.

    Raises:
        RequestError: If a class has too few images to be in all three.
    """
    images = np.concatenate([dataset.train_images, dataset.test_images])
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    counts = np.bincount(labels, minlength=dataset.num_classes)
    others = round(_OTHERS * len(labels))
    random = np.random.default_rng([seed, _SPLIT])
    test, rest = _drawn(labels, _shares(counts, others), random)
    left = counts - np.bincount(labels[test], minlength=dataset.num_classes)
    chosen, train = _drawn(labels[rest], _shares(left, others), random)
    validation, train = rest[chosen], rest[train]
    for part in (train, validation, test):
        if len(np.unique(labels[part])) < dataset.num_classes:
            raise RequestError(
                f"`split_seed` must leave images of every class to train on, to validate on and "
                f"to test on, got {counts.min()} images of a class"
            )
    return dataclasses.replace(
        dataset,
        train_images=images[train],
        train_labels=labels[train],
        validation_images=images[validation],
        validation_labels=labels[validation],
        test_images=images[test],
        test_labels=labels[test],
        known_sha256=None,
    )


def split_off_validation(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Takes images to validate on from those to train on, equally many of every class.

    Args:
        dataset: Any images; those to test on stay as they are.
        count: How many. Where the classes do not divide it, the first ones get one more.
        seed: Decides which.

    Returns:
        The dataset with a validation set; the training images keep their order.

    Raises:
        RequestError: If a class would have no image to validate on, or none to train on.
    """
    labels, classes = np.asarray(dataset.train_labels), dataset.num_classes
    wanted = count // classes + (np.arange(classes) < count % classes)
    fewest = np.bincount(labels, minlength=classes).min()
    if wanted.min() < 1 or wanted.max() >= fewest:
        raise RequestError(
            f"`validation_images` must leave every class at least an image to validate on and one "
            f"to train on, so at least {classes} and at most {classes * (fewest - 1)} here, got "
            f"{count}"
        )
    validation, train = _drawn(labels, wanted, np.random.default_rng([seed, _SPLIT]))
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[train],
        train_labels=labels[train],
        validation_images=dataset.train_images[validation],
        validation_labels=labels[validation],
        known_sha256=None,
    )


def with_wrong_labels(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Replaces a share of the training labels by another class, each of which is equally likely.

    Labels to validate and to test on stay. With the same seed, what is wrong at a small share is
    wrong in the same way at a larger one.

    Args:
        dataset: Any images.
        share: Which part of the training labels, in [0, 1); rounded to whole images.
        seed: Decides which labels, and by what they are replaced.
    """
    labels, classes = np.array(dataset.train_labels), dataset.num_classes
    random = np.random.default_rng([seed, _NOISE])
    order = random.permutation(len(labels))
    steps = random.integers(1, classes, len(labels), dtype=labels.dtype)
    wrong = order[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + steps[wrong]) % classes
    return dataclasses.replace(dataset, train_labels=labels, known_sha256=None)


def _shares(counts: np.ndarray, total: int) -> np.ndarray:
    """How many of each class make up `total`, as near to its share of all images as can be."""
    exact = counts * (total / counts.sum())
    whole = exact.astype(int)
    most_missing = np.argsort(whole - exact, kind="stable")[: total - whole.sum()]
    whole[most_missing] += 1
    return whole


def _drawn(
    labels: np.ndarray, wanted: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of so many images of each class, drawn at random, and the others; both rising."""
    order = random.permutation(len(labels))
    chosen = np.concatenate(
        [order[labels[order] == label][:number] for label, number in enumerate(wanted)]
    )
    is_chosen = np.zeros(len(labels), bool)
    is_chosen[chosen] = True
    return np.flatnonzero(is_chosen), np.flatnonzero(~is_chosen)
