"""The methods that are compared: what each perturbs the weights with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import optax

from zsharp_jax import asam, friendly_sam, sam, zsharp, zsharp_reference

if TYPE_CHECKING:
    from zsharp_jax.benchmark.settings import Settings

# Each makes the ascent of a run; None stands for the bare optimizer, which takes one pass a step.
METHODS: dict[str, Callable[[Settings], optax.GradientTransformation] | None] = {
    "adamw": None,
    "sam": lambda settings: sam(settings.rho),
    "asam": lambda settings: asam(settings.rho),
    "friendly_sam": lambda settings: friendly_sam(settings.rho),
    "zsharp": lambda settings: zsharp(settings.rho, settings.quantile),
    "zsharp_reference": lambda settings: zsharp_reference(settings.rho, settings.quantile),
}
