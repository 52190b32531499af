"""All that decides the numbers of one run: a recipe by name, every value of it open to change."""

import dataclasses
import hashlib
import json
import math
from typing import Any

from zsharp_jax._checks import checked_nonnegative, checked_quantile
from zsharp_jax.benchmark.errors import RequestError, known
from zsharp_jax.benchmark.methods import METHODS
from zsharp_jax.models import MODELS


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
        rho: The length of the perturbation.
        rho_of_asam: That of asam, which measures in other units.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    decay_rate: float
    decay_epochs: int
    warmup_epochs: int
    rho: float
    rho_of_asam: float

    def values(self, method: str) -> dict[str, Any]:
        """The fields of `Settings` that it decides."""
        values = dataclasses.asdict(self)
        rho_of_asam = values.pop("rho_of_asam")
        return values | ({"rho": rho_of_asam} if method == "asam" else {})


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
        rho_of_asam=0.05,
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
        rho_of_asam=0.5,
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        dataset: A name in `DEFAULTS`.
        model: A name in `zsharp_jax.models.MODELS`.
        method: A name in `METHODS`.
        seed: Decides the initial weights, the order of the images and their augmentation.
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

    def __post_init__(self) -> None:
        known("dataset", self.dataset, DEFAULTS)
        known("model", self.model, MODELS)
        known("method", self.method, METHODS)
        known("dtype", self.dtype, DTYPES)
        known("recipe", self.recipe, RECIPES)
        known("optimizer", self.optimizer, OPTIMIZERS)
        if (self.epochs is None) == (self.steps is None):
            raise RequestError("either `epochs` or `steps` must be given, not both")
        for name in ("epochs", "batch_size", "steps", "train_images", "decay_epochs"):
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
        try:
            for name in ("rho", "weight_decay", "decay_rate", "eta"):
                checked_nonnegative(name, getattr(self, name) or 0.0)
            checked_quantile(self.quantile)
        except ValueError as error:
            raise RequestError(str(error).rstrip(".")) from None

    def as_dict(self) -> dict[str, Any]:
        """All of it for a file; what later versions added only where it was asked for, so that a
        run of before has the name that it had."""
        values = dataclasses.asdict(self)
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in ("crop_padding", "flip", "eta")
        }

    def run_name(self, data_sha256: str) -> str:
        """Names a run's file: runs that differ in a setting or in their data differ in name."""
        text = json.dumps([self.as_dict(), data_sha256], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.model}-{self.method}-seed{self.seed}-{digest}"
