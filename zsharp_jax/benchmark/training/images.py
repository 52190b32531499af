"""The images of each run of a request: split, cut to size and mislabelled as its settings say."""

import functools
from typing import NamedTuple

from zsharp_jax.benchmark.datasets.images import Dataset
from zsharp_jax.benchmark.datasets.splits import (
    split_off_validation,
    split_three_ways,
    with_wrong_labels,
)
from zsharp_jax.benchmark.runs.settings import Settings


class _Drawing(NamedTuple):
    """What decides the images of a run; `seed` is None where nothing is drawn."""

    split_seed: bool
    validation_images: int | None
    train_images: int | None
    label_noise: float
    seed: int | None


class RunImages:
    """The images of runs, made when they are asked for; those of the last seeds are kept.

    Args:
        loaded: All images of the dataset.
        kept: Of how many seeds.
    """

    def __init__(self, loaded: Dataset, kept: int = 1) -> None:
        self._loaded = loaded
        self._made = functools.lru_cache(maxsize=kept)(self._make)

    def of(self, settings: Settings) -> Dataset:
        """The images of a run; the same object for runs that differ in their method alone.

        Raises:
            RequestError: If they cannot be had.
        """
        drawing = _Drawing(
            settings.split_seed,
            settings.validation_images,
            settings.train_images,
            settings.label_noise,
            settings.seed if settings.draws_images else None,
        )
        return self._made(drawing)

    def sha256(self, settings: Settings) -> str:
        """The digest of what the images of runs are drawn from.

        What is drawn from it follows from the settings, and wrong labels are no other data.
        """
        loaded = self._loaded
        if not settings.has_validation:
            loaded = loaded.first(settings.train_images)
        return loaded.sha256()

    def _make(self, drawing: _Drawing) -> Dataset:
        dataset, seed = self._loaded, drawing.seed or 0
        if drawing.split_seed:
            dataset = split_three_ways(dataset, seed)
        elif drawing.validation_images is not None:
            dataset = split_off_validation(dataset, drawing.validation_images, seed)
        dataset = dataset.first(drawing.train_images)
        return with_wrong_labels(dataset, drawing.label_noise, seed)
