"""All that decides the numbers of one run: a recipe by name, every value of it open to change."""

import dataclasses
import hashlib
import json
import math
from typing import Any

from zsharp_jax.benchmark.errors import RequestError, known
from zsharp_jax.benchmark.runs.methods import METHODS
from zsharp_jax.benchmark.runs.networks import NETWORKS


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a dataset is trained with where nothing else is asked for."""

    model: str
    epochs: int
    batch_size: int


DEFAULTS = {
    "digits": Defaults(model="resnet8", epochs=12, batch_size=64),
    # the paper's
    "cifar10": Defaults(model="resnet56", epochs=200, batch_size=256),
    "cifar100": Defaults(model="resnet56", epochs=200, batch_size=256),
    "tiny_imagenet": Defaults(model="resnet56", epochs=200, batch_size=256),
}


# What older run files do not have, and what stands for it there; None does so for all.
_LATER = {
    "crop_padding": None,
    "flip": None,
    "eta": None,
    "label_noise": 0.0,
    "split_seed": False,
    "validation_images": None,
}

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever it is trained on.

    Attributes:
        optimizer: A name in `OPTIMIZERS`.
        learning_rate: What it comes to after the warm-up.
        weight_decay: Of the optimizer.
        decay_rate: What the learning rate is multiplied with every `decay_epochs`.
        decay_epochs: How many epochs the learning rate stays.
        warmup_epochs: Over how many epochs it rises from 0, a step per epoch.
        rho: The length of the perturbation, but for methods that have one of their own.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    decay_rate: float
    decay_epochs: int
    warmup_epochs: int
    rho: float


OPTIMIZERS = ("adamw", "adam_l2")

RECIPES = {
    # What the paper says (section 4).
    "paper": Recipe(
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=5e-5,
        decay_rate=0.75,
        decay_epochs=10,
        warmup_epochs=0,
        rho=0.05,
    ),
    # What the authors' code does: the first epoch of its warm-up has a learning rate of 0.
    "reference": Recipe(
        optimizer="adam_l2",
        learning_rate=1e-3,
        weight_decay=5e-5,
        decay_rate=0.75,
        decay_epochs=30,
        warmup_epochs=5,
        rho=0.05,
    ),
}


def recipe_values(recipe: str, method: str) -> dict[str, Any]:
    """The fields of `Settings` that a recipe decides for a method.

    Raises:
        RequestError: If one of them is not known.
    """
    known("method", method, METHODS)
    values = dataclasses.asdict(RECIPES[known("recipe", recipe, RECIPES)])
    return values | {"rho": METHODS[method].own_rho.get(recipe, values["rho"])}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        dataset: A name in `DEFAULTS`.
        model: A name in `NETWORKS`.
        method: A name in `METHODS`.
        seed: Decides the initial weights, the order of the images and their augmentation; where
            they are drawn, also the split and the wrong labels.
        epochs: How many passes over the training images; None where `steps` says when to stop.
        batch_size: How many images a step takes; the last ones that fill no batch are left out of
            an epoch.
        steps: How many steps; None where `epochs` says when to stop.
        train_images: How many of the training images, the first of them; None for all.
        dtype: What the network computes in: `float32` or `bfloat16`.
        quantile: Q_p of the methods that filter (paper: 0.95).
        recipe: The name in `RECIPES` that the values below came from, where nothing else was said.
        optimizer: See `Recipe`, also for what follows.
        crop_padding: By how many black pixels an image is padded before a random crop; None for the
            dataset's own.
        flip: Whether images are mirrored at random; None for the dataset's own.
        eta: What asam adds to the size of a weight; None for its default.
        label_noise: Which part of the training labels is replaced by another class, in [0, 1).
        split_seed: Whether the seed also decides which images of digits are trained on, validated
            on and tested on.
        validation_images: How many of the training images are held out to validate on, equally
            many of every class, drawn from the seed; None for none.
    """

    dataset: str
    model: str
    method: str
    seed: int
    epochs: int | None
    batch_size: int
    steps: int | None = None
    train_images: int | None = None
    dtype: str = "float32"
    quantile: float = 0.95
    recipe: str = "paper"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 5e-5
    decay_rate: float = 0.75
    decay_epochs: int = 10
    warmup_epochs: int = 0
    rho: float = 0.05
    crop_padding: int | None = None
    flip: bool | None = None
    eta: float | None = None
    label_noise: float = 0.0
    split_seed: bool = False
    validation_images: int | None = None

    def __post_init__(self) -> None:
        known("dataset", self.dataset, DEFAULTS)
        known("model", self.model, NETWORKS)
        known("method", self.method, METHODS)
        known("dtype", self.dtype, DTYPES)
        known("recipe", self.recipe, RECIPES)
        known("optimizer", self.optimizer, OPTIMIZERS)
        if (self.epochs is None) == (self.steps is None):
            raise RequestError("either `epochs` or `steps` must be given, not both")
        whole = ("epochs", "batch_size", "steps", "train_images", "decay_epochs")
        for name in (*whole, "validation_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"`{name}` must be at least 1, got {value}")
        for name in ("warmup_epochs", "crop_padding"):
            if (value := getattr(self, name) or 0) < 0:
                raise RequestError(f"`{name}` must be at least 0, got {value}")
        if not 0 <= self.seed < 2**32:
            raise RequestError(f"`seed` must be at least 0 and below 2**32, got {self.seed}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise RequestError(f"`lr` must be finite and above 0, got {self.learning_rate}")
        if not 0 <= self.label_noise < 1:
            raise RequestError(
                f"`label_noise` must be at least 0 and below 1, got {self.label_noise}; 0.4 "
                "replaces 40 % of the training labels"
            )
        parts = round(1 / METHODS[self.method].step.get("ascent_share", 1))
        if self.batch_size % parts:
            raise RequestError(
                f"`batch_size` must be a multiple of {parts} for {self.method}, which takes the "
                f"perturbation from one in {parts} images of a batch, got {self.batch_size}"
            )
        self._check_split()
        from zsharp_jax._checks import checked_nonnegative, checked_quantile  # imports JAX

        try:
            for name in ("rho", "weight_decay", "decay_rate", "eta"):
                checked_nonnegative(name, getattr(self, name) or 0.0)
            checked_quantile(self.quantile)
        except ValueError as error:
            raise RequestError(str(error).rstrip(".")) from None

    def _check_split(self) -> None:
        if self.split_seed and self.dataset != "digits":
            raise RequestError(
                f"`split_seed` must be left out for {self.dataset}, which has an official test "
                "set; --validation-images N holds out training images"
            )
        if self.split_seed and self.validation_images is not None:
            raise RequestError(
                f"`validation_images` must be left out with `split_seed`, which holds out "
                f"validation images itself, got {self.validation_images}"
            )

    @property
    def has_validation(self) -> bool:
        """Whether images are held out to validate on, so that test images are looked at once."""
        return self.split_seed or self.validation_images is not None

    @property
    def draws_images(self) -> bool:
        """Whether the seed decides which images there are, or what they are labelled as."""
        return self.has_validation or self.label_noise > 0

    def planned_steps(self, steps_per_epoch: int) -> int:
        """How many steps the run takes."""
        return (self.epochs or 0) * steps_per_epoch if self.steps is None else self.steps

    def as_dict(self) -> dict[str, Any]:
        """All of it for a file; what later versions added only where it was asked for, so that a
        run of before has the name that it had."""
        values = dataclasses.asdict(self)
        return {
            name: value
            for name, value in values.items()
            if name not in _LATER or value not in (None, _LATER[name])
        }

    def run_name(self, data_sha256: str) -> str:
        """Names a run's file: runs that differ in a setting or in their data differ in name."""
        text = json.dumps([self.as_dict(), data_sha256], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.model}-{self.method}-seed{self.seed}-{digest}"
