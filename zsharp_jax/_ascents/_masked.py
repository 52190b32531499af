"""An ascent of some parameters that leaves the others where they are."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from zsharp_jax._checks import check_is_ascent
from zsharp_jax._per_leaf import bools_of_leaves, check_bools


def masked_ascent(
    ascent: optax.GradientTransformation, mask: Any | Callable[[optax.Params], Any]
) -> optax.GradientTransformation:
    """Perturbs the parameters that a mask chooses, and no others.

    Only those count in the norm. (`optax.masked` would add the raw gradient to the others.)

    Args:
        ascent: The ascent of those chosen, such as `zsharp(0.05)`.
        mask: A tree of bools like the parameters, or the top of one: True for what is perturbed.
            Or a function that returns such a tree. On `init` it gets the parameters, on `update`
            the gradients, so it may use structure, names and shapes alone.

    Returns:
        A transformation from the gradient at w to the perturbation, which is 0 for the others.

    Raises:
        TypeError: If `ascent` is no Optax transformation.
        ValueError: If `mask` holds anything but bools, or, on `init`, does not fit the parameters.

    Example:
        >>> ascent = masked_ascent(sam(rho=1.0), {"frozen": False, "head": True})
        >>> gradients = {"frozen": jnp.array([3.0]), "head": jnp.array([0.0, 4.0])}
        >>> perturbation, _ = ascent.update(gradients, ascent.init(gradients), gradients)
        >>> print(perturbation["frozen"], perturbation["head"])
        [0.] [0. 1.]
    """
    check_is_ascent(ascent)
    check_bools("mask", mask)

    def labels(params):
        chosen = bools_of_leaves("mask", mask, params)
        return jax.tree.map(lambda each: "perturbed" if each else "kept", chosen)

    return optax.partition({"perturbed": ascent, "kept": optax.set_to_zero()}, labels)
