"""Ascents along the gradient itself."""

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._ascents._scale import PAPER_DELTA, over_norm, rho_times, scale_to_norm
from zsharp_jax._checks import checked_share, scheduled
from zsharp_jax._norm import tree_norm
from zsharp_jax._precision import at_least_float32


def sam(rho: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Sharpness-Aware Minimization: a perturbation of length rho along the gradient.

    Args:
        rho: The length of the perturbation, at least 0, or a schedule, which gets the
            number of steps taken so far.

    Returns:
        A transformation from the gradient at w to the perturbation rho g / (||g|| + 1e-8), in the
        dtype of the gradient.

    Raises:
        ValueError: If `rho` is negative or not finite.
        TypeError: If a number is given as text.

    Example:
        >>> ascent = sam(rho=0.05)
        >>> gradient = jnp.array([0.0, 2.0])
        >>> perturbation, _ = ascent.update(gradient, ascent.init(gradient))
        >>> print(perturbation)
        [0.   0.05]

    References:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR
        2021.
        Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering, eq. 1.
    """
    return scale_to_norm(rho)


def unified_sam(
    rho: optax.ScalarOrSchedule, mix: optax.ScalarOrSchedule = 0.5
) -> optax.GradientTransformation:
    """Unified SAM: between a perturbation of length rho and one of rho times the gradient.

    The perturbation is rho (1 - mix + mix / (||g|| + 1e-8)) g: `sam` with a mix of 1, and the
    unnormalised ascent with 0, which gets shorter where the gradient does.

    Args:
        rho: The scale of the perturbation, and its length where mix is 1; at least 0, or a
            schedule, which gets the number of steps taken so far.
        mix: How much of the perturbation is normalised, in [0, 1], or such a schedule. A value
            of the schedule below 0 counts as 0, and one above 1 as 1.

    Returns:
        A transformation from the gradient at w to the perturbation, in the dtype of the gradient.

    Raises:
        ValueError: If `rho` is negative or not finite, or `mix` outside [0, 1].
        TypeError: If a number is given as text.

    Example:
        >>> ascent = unified_sam(rho=0.5, mix=0.5)
        >>> gradient = jnp.array([0.0, 2.0])
        >>> perturbation, _ = ascent.update(gradient, ascent.init(gradient))
        >>> print(perturbation)
        [0.   0.75]

    References:
        Oikonomou and Loizou, Sharpness-Aware Minimization: General Analysis and Improved Rates,
        ICLR 2025.
    """
    if not callable(mix):
        checked_share("mix", mix)

    def direction(gradients, ascents):
        share = jnp.clip(scheduled("mix", mix, ascents), 0, 1)
        norm = tree_norm(gradients)

        def one_leaf(gradient):
            wide = at_least_float32(gradient)
            part = jnp.asarray(share, wide.dtype)
            return (1 - part) * wide + part * over_norm(wide, norm, PAPER_DELTA)

        return jax.tree.map(one_leaf, gradients)

    return rho_times(rho, direction)
