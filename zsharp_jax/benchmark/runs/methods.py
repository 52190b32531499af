"""The methods that are compared. A new one needs an entry in `METHODS`, and a look (`looks.py`).

Beside the paper's there are those that take its two claims apart. The authors' code filters each
tensor and brings it to rho by itself, so its perturbation is sqrt(K) times as long as SAM's for K
tensors. The matched methods have SAM's single norm at that length, and the others leave out one
part each.

JAX and Optax are imported when a method is made, so that the names cost nothing to list.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import zsharp_jax as zs

ETA = 0.01  # the default of asam, and the authors'


@dataclasses.dataclass(frozen=True)
class Given:
    """What a method is made from in one run.

    Attributes:
        rho: The length of the perturbation, in the units of the method; may be traced.
        quantile: Q_p.
        tensors: K, how many tensors of the network have two axes or more.
        eta: That of asam.
        steps: How many steps the whole run takes.
    """

    rho: Any
    quantile: float
    tensors: int
    eta: float
    steps: int


class Tensors(NamedTuple):
    """How many tensors of weights a network has.

    Attributes:
        filtered: Those of two axes or more.
        every: All of them.
    """

    filtered: int
    every: int


@dataclasses.dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        about: What it does, in a line.
        ascent: Makes the ascent; None for the bare optimizer.
        links: Makes what stands in front of the optimizer; None for nothing.
        step: More arguments of `sam_step`.
        passes: How many passes over a batch a step takes on average.
        filters: Whether it has a use for Q_p.
        own_rho: Its default rho by recipe, where it differs from that of the other methods.
        depends_on_length: What of it depends on how many steps the run takes, in words that follow
            the name of the method; None for nothing.
        reported_as: The method that the paper calls it; None where that is its own name.
        length: How many times rho the perturbation is long, at a step that has one. Not so of asam
            and unified_sam, whose length depends on weights and gradients.
        has_plain_steps: Whether steps of an epoch may have no perturbation, so that the mean length
            of an epoch is shorter than that of those that have one.
    """

    about: str
    ascent: Callable[[Given], Any] | None = None
    links: Callable[[Given], Any] | None = None
    step: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    passes: float = 2
    filters: bool = False
    own_rho: Mapping[str, float] = dataclasses.field(default_factory=dict)
    depends_on_length: str | None = None
    reported_as: str | None = None
    length: Callable[["Tensors"], float] = lambda tensors: 1.0
    has_plain_steps: bool = False

    @property
    def perturbs(self) -> bool:
        """Whether it has a use for rho."""
        return self.ascent is not None


def _at_random(given: Given) -> Any:
    from zsharp_jax.benchmark.runs.random_mask import keep_at_random

    return _chain(keep_at_random(given.quantile), zs.scale_to_norm(given.rho))


def _chain(*parts: Any) -> Any:
    import optax

    return optax.chain(*parts)


def _momentum() -> Any:
    import optax

    return optax.trace(0.9)


def _late(given: Given) -> Any:
    """Rho in the last fifth of the steps, and 0 before."""
    return zs.periodic_rho(given.rho, start=given.steps - given.steps // 5)


def _long_by_filtered(tensors: Tensors) -> float:
    return math.sqrt(tensors.filtered)


def _matched(given: Given) -> Any:
    """The length that the authors' code comes to."""
    return given.rho * math.sqrt(given.tensors)


_ONE_PASS = {"one_pass": True}
_QUARTER = {"ascent_share": 0.25}
_PLAIN_IF_ZERO = {"plain_if_zero": True}
_BEGINS_LATE = "perturbs in the last fifth of the steps"

METHODS: dict[str, Method] = {
    "adamw": Method("the optimizer alone, without a perturbation", passes=1),
    "sam": Method("SAM: along the gradient", lambda given: zs.sam(given.rho)),
    "asam": Method(
        "Adaptive SAM: longer where weights are large; rho in their units",
        lambda given: zs.asam(given.rho, given.eta),
        own_rho={"reference": 0.5},
    ),
    "friendly_sam": Method(
        "Friendly SAM: along what is new in the gradient", lambda given: zs.friendly_sam(given.rho)
    ),
    "zsharp": Method(
        "ZSharp, the paper's text: entries that stand out",
        lambda given: zs.zsharp(given.rho, given.quantile),
        filters=True,
    ),
    "zsharp_reference": Method(
        "ZSharp, the authors' code: every tensor brought to rho",
        lambda given: zs.zsharp_reference(given.rho, given.quantile),
        filters=True,
        reported_as="zsharp",
        length=_long_by_filtered,
    ),
    "sam_matched": Method(
        "sam with a perturbation as long as that of zsharp_reference",
        lambda given: zs.sam(_matched(given)),
        length=_long_by_filtered,
    ),
    "sam_layerwise": Method(
        "sam with every tensor brought to rho by itself",
        lambda given: zs.scale_to_norm(given.rho, scope="layer"),
        length=lambda tensors: math.sqrt(tensors.every),
    ),
    "zsharp_matched": Method(
        "zsharp with a perturbation as long as that of zsharp_reference",
        lambda given: zs.zsharp(_matched(given), given.quantile),
        filters=True,
        length=_long_by_filtered,
    ),
    "zsharp_global": Method(
        "zsharp with one quantile over all tensors (eq. 3)",
        lambda given: zs.zsharp(given.rho, given.quantile, percentile_scope="global"),
        filters=True,
    ),
    "zsharp_random": Method(
        "zsharp with a random mask that keeps as many entries", _at_random, filters=True
    ),
    "gsam": Method(
        "GSAM: sam that also reduces the gap between the two losses",
        lambda given: zs.sam(given.rho),
        lambda given: zs.surrogate_gap(0.4),
    ),
    "gnp": Method(
        "GNP: sam, and a fifth of the gradient at w mixed in",
        lambda given: zs.sam(given.rho),
        lambda given: zs.mix_gradients(0.8),
    ),
    "looksam": Method(
        "LookSAM: sam at every fifth step, its direction reused in between",
        lambda given: zs.sam(zs.periodic_rho(given.rho, every=5)),
        lambda given: zs.look_back(0.7),
        step=_PLAIN_IF_ZERO,
        passes=1.2,
        has_plain_steps=True,
    ),
    "unified_sam": Method(
        "half way between sam and rho times the gradient",
        lambda given: zs.unified_sam(given.rho),
    ),
    "vasso": Method(
        "VaSSO: sam along a moving average of the gradients", lambda given: zs.vasso(given.rho)
    ),
    "magnitude": Method(
        "zsharp that keeps the largest entries instead",
        lambda given: _chain(zs.magnitude_filter(given.quantile), zs.scale_to_norm(given.rho)),
        filters=True,
    ),
    "sam_one_pass": Method(
        "sam along the gradient of the step before: one pass",
        lambda given: zs.sam(given.rho),
        step=_ONE_PASS,
        passes=1,
    ),
    "zsharp_one_pass": Method(
        "zsharp of the gradient of the step before: one pass",
        lambda given: zs.zsharp(given.rho, given.quantile),
        step=_ONE_PASS,
        passes=1,
        filters=True,
    ),
    "momentum_sam": Method(
        "Momentum-SAM: along the momentum, one pass",
        lambda given: _chain(_momentum(), zs.scale_to_norm(given.rho)),
        step=_ONE_PASS,
        passes=1,
    ),
    "sam_quarter": Method(
        "sam with its ascent on a quarter of the batch",
        lambda given: zs.sam(given.rho),
        step=_QUARTER,
        passes=1.25,
    ),
    "zsharp_quarter": Method(
        "zsharp with its ascent on a quarter of the batch",
        lambda given: zs.zsharp(given.rho, given.quantile),
        step=_QUARTER,
        passes=1.25,
        filters=True,
    ),
    "zsharp_gsam": Method(
        "zsharp with GSAM's link",
        lambda given: zs.zsharp(given.rho, given.quantile),
        lambda given: zs.surrogate_gap(0.4),
        filters=True,
    ),
    "sam_late": Method(
        "sam in the last fifth of the steps, adamw before",
        lambda given: zs.sam(_late(given)),
        step=_PLAIN_IF_ZERO,
        passes=1.2,
        depends_on_length=_BEGINS_LATE,
        has_plain_steps=True,
    ),
    "zsharp_late": Method(
        "zsharp in the last fifth of the steps, adamw before",
        lambda given: zs.zsharp(_late(given), given.quantile),
        step=_PLAIN_IF_ZERO,
        passes=1.2,
        filters=True,
        depends_on_length=_BEGINS_LATE,
        has_plain_steps=True,
    ),
}


def perturbs(method: str) -> bool:
    """Whether a method that a file names has a use for rho; one that is not known may have."""
    return method not in METHODS or METHODS[method].perturbs


def filters(method: str) -> bool:
    """Whether a method that a file names has a use for Q_p."""
    return method in METHODS and METHODS[method].filters


def has_plain_steps(method: str) -> bool:
    """Whether steps of a method that a file names may have no perturbation."""
    return method in METHODS and METHODS[method].has_plain_steps
