"""What a seed draws of the images: the split, and the labels that are wrong."""

import dataclasses

import numpy as np
import pytest
from run_files import DIGITS
from tiny import tiny_dataset

from zsharp_jax.benchmark.datasets.images import load_digits
from zsharp_jax.benchmark.datasets.splits import (
    split_off_validation,
    split_three_ways,
    with_wrong_labels,
)
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.training.images import RunImages

TINY = tiny_dataset()  # 50 images to train on, 5 of a class; 20 to test on


def images_of(dataset):
    parts = (dataset.train_images, dataset.validation_images, dataset.test_images)
    return [{image.tobytes() for image in part} for part in parts]


def test_three_ways_take_every_image_once_and_a_share_of_each_class():
    digits = load_digits()
    split = split_three_ways(digits, seed=3)
    sizes = [len(part) for part in images_of(split)]
    assert sizes == [1079, 359, 359]
    everything = np.concatenate([digits.train_images, digits.test_images])
    assert len(set.union(*images_of(split))) == len({image.tobytes() for image in everything})
    by_class = [
        np.bincount(labels)
        for labels in (split.train_labels, split.validation_labels, split.test_labels)
    ]
    np.testing.assert_allclose(by_class[1], by_class[0] / 3, atol=1)
    np.testing.assert_allclose(by_class[2], by_class[0] / 3, atol=1)
    other = split_three_ways(digits, seed=4)
    assert images_of(other)[2] != images_of(split)[2] == images_of(split_three_ways(digits, 3))[2]


def test_validation_images_are_taken_from_those_to_train_on_equally_many_of_a_class():
    split = split_off_validation(TINY, count=22, seed=0)
    assert np.bincount(split.validation_labels).tolist() == [3, 3] + [2] * 8
    train, validation, test = images_of(split)
    assert len(train) == 28 and len(validation) == 22 and not train & validation
    assert test == {image.tobytes() for image in TINY.test_images}
    assert images_of(split_off_validation(TINY, 22, seed=1))[1] != validation


@pytest.mark.parametrize("count", [9, 41, 60])
def test_a_validation_split_that_leaves_a_class_empty_is_refused(count):
    with pytest.raises(RequestError, match=rf"at least 10 and at most 40 here, got {count}"):
        split_off_validation(TINY, count, seed=0)


def test_a_three_way_split_that_leaves_a_class_empty_is_refused():
    few = dataclasses.replace(
        TINY, train_labels=np.minimum(TINY.train_labels, 8), test_labels=TINY.test_labels % 9
    )
    with pytest.raises(RequestError, match="`split_seed` must leave images of every class"):
        split_three_ways(few, seed=0)


def test_so_many_labels_are_wrong_each_in_the_same_way_at_a_larger_share():
    labels = TINY.train_labels
    some, more = (with_wrong_labels(TINY, share, seed=5).train_labels for share in (0.2, 0.4))
    assert (some != labels).sum() == 10 and (more != labels).sum() == 20
    assert np.array_equal(more[some != labels], some[some != labels])
    assert set(more) <= set(range(10))
    other = with_wrong_labels(TINY, 0.2, seed=6)
    assert not np.array_equal(other.train_labels, some)
    assert np.array_equal(other.test_labels, TINY.test_labels)


def test_wrong_labels_are_any_other_class_equally_often():
    digits = load_digits()
    wrong = with_wrong_labels(digits, 0.99, seed=0).train_labels
    steps = np.bincount((wrong - digits.train_labels) % 10, minlength=10)
    assert steps[0] == round(0.01 * len(wrong)) and steps[1:].min() > 120 > steps[1:].sum() / 12


def test_a_seed_fixes_the_images_of_all_methods_and_radii():
    images = RunImages(load_digits())
    runs = [
        dataclasses.replace(DIGITS, split_seed=True, label_noise=0.4, seed=seed, **change)
        for seed in (0, 1)
        for change in ({"method": "sam", "rho": 0.1}, {"method": "zsharp", "rho": 0.5})
    ]
    first, second, third, _ = map(images.of, runs)
    assert first is second and first.sha256() != third.sha256()
    assert images.of(runs[0]).sha256() == first.sha256()  # made anew
    assert len({images.sha256(run) for run in runs}) == 1


def test_nothing_is_drawn_where_nothing_is_asked_for():
    images = RunImages(TINY)
    other_seed = dataclasses.replace(DIGITS, seed=1)
    assert images.of(DIGITS) is images.of(other_seed)
    assert images.of(DIGITS).sha256() == TINY.sha256() == images.sha256(DIGITS)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"label_noise": 1.0}, "`label_noise` must be at least 0 and below 1, got 1.0"),
        ({"label_noise": -0.1}, "`label_noise` must be at least 0 and below 1, got -0.1"),
        ({"label_noise": float("nan")}, "`label_noise` must be at least 0 and below 1, got nan"),
        ({"validation_images": 0}, "`validation_images` must be at least 1, got 0"),
        ({"dataset": "cifar10", "split_seed": True}, "`split_seed` must be left out for cifar10"),
        ({"split_seed": True, "validation_images": 9}, "`validation_images` must be left out"),
    ],
)  # fmt: skip
def test_settings_that_draw_what_cannot_be_are_refused(change, reason):
    with pytest.raises(RequestError, match=reason):
        dataclasses.replace(DIGITS, **change)


def test_older_runs_keep_their_names():
    assert not {"label_noise", "split_seed", "validation_images"} & DIGITS.as_dict().keys()
    asked = dataclasses.replace(DIGITS, label_noise=0.2, split_seed=True).as_dict()
    assert asked["label_noise"] == 0.2 and asked["split_seed"] is True
