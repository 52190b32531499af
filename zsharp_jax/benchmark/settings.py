"""All that decides the numbers of one run: the paper's recipe, every value of it open to change."""

import dataclasses
import hashlib
import json
import math

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
        rho: The length of the perturbation (paper: 0.05 for all methods).
        quantile: Q_p of zsharp and zsharp_reference (paper: 0.95).
        learning_rate: Of AdamW at the start (paper: 1e-3).
        weight_decay: Of AdamW (paper: 5e-5).
        decay_rate: What the learning rate is multiplied with every `decay_epochs` (paper: 0.75).
        decay_epochs: How many epochs the learning rate stays (paper: 10).
    """

    dataset: str
    model: str
    method: str
    seed: int
    epochs: int | None
    batch_size: int
    steps: int | None = None
    rho: float = 0.05
    quantile: float = 0.95
    learning_rate: float = 1e-3
    weight_decay: float = 5e-5
    decay_rate: float = 0.75
    decay_epochs: int = 10

    def __post_init__(self) -> None:
        known("dataset", self.dataset, DEFAULTS)
        known("model", self.model, MODELS)
        known("method", self.method, METHODS)
        if (self.epochs is None) == (self.steps is None):
            raise RequestError("either `epochs` or `steps` must be given, not both")
        for name in ("epochs", "batch_size", "steps", "decay_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"`{name}` must be at least 1, got {value}")
        if not 0 <= self.seed < 2**32:
            raise RequestError(f"`seed` must be at least 0 and below 2**32, got {self.seed}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise RequestError(f"`lr` must be finite and above 0, got {self.learning_rate}")
        try:
            checked_nonnegative("rho", self.rho)
            checked_quantile(self.quantile)
        except ValueError as error:
            raise RequestError(str(error).rstrip(".")) from None

    def run_name(self, data_sha256: str) -> str:
        """Names a run's file: runs that differ in a setting or in their data differ in name."""
        text = json.dumps([dataclasses.asdict(self), data_sha256], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.model}-{self.method}-seed{self.seed}-{digest}"
