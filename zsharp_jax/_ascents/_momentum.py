"""Ascents that look at gradients of earlier steps too."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._ascents._scale import in_float32, next_ascent, scale_to_norm
from zsharp_jax._checks import checked_nonnegative, checked_share
from zsharp_jax._precision import wide_zeros


class SubtractRunningMeanState(NamedTuple):
    """What one ascent of `friendly_sam` hands to the next.

    Attributes:
        ascents: How many ascents have been taken, an int32 scalar.
        running_mean: The exponential moving average m of their gradients, in float32 at least.
    """

    ascents: jax.Array
    running_mean: optax.Updates


class RunningMeanState(NamedTuple):
    """What one ascent of `vasso` hands to the next.

    Attributes:
        ascents: How many ascents have been taken, an int32 scalar.
        direction: The exponential moving average d of their gradients, in float32 at least.
    """

    ascents: jax.Array
    direction: optax.Updates


def friendly_sam(
    rho: optax.ScalarOrSchedule, sigma: float = 1.0, decay: float = 0.9
) -> optax.GradientTransformation:
    """Friendly SAM: the perturbation follows what is new in this batch's gradient.

    With the running mean m_t = decay m_{t-1} + (1 - decay) g, the perturbation is rho d / (||d||
    + 1e-8) along d = g - sigma m_{t-1}. On the first ascent m is g, and nothing is subtracted.

    Args:
        rho: The length of the perturbation, at least 0, or a schedule, which gets the
            number of steps taken so far.
        sigma: How much of the running mean is subtracted, at least 0; 0 is `sam`.
        decay: How much of the running mean is kept at each ascent, in [0, 1].

    Returns:
        A transformation that keeps the running mean, one copy of the gradient in float32 at least.

    Raises:
        ValueError: If `rho` or `sigma` is negative or not finite, or `decay` outside [0, 1].
        TypeError: If a number is given as text.

    Example:
        >>> ascent = friendly_sam(rho=1.0)
        >>> state = ascent.init(jnp.zeros(2))
        >>> first, state = ascent.update(jnp.array([2.0, 0.0]), state)
        >>> second, state = ascent.update(jnp.array([2.0, 1.0]), state)
        >>> print(first, second)
        [1. 0.] [0. 1.]

    References:
        Li et al., Friendly Sharpness-Aware Minimization, CVPR 2024.
    """
    checked_nonnegative("sigma", sigma)
    checked_share("decay", decay)
    return in_float32(optax.chain(_subtract_running_mean(sigma, decay), scale_to_norm(rho)))


def vasso(rho: optax.ScalarOrSchedule, theta: float = 0.9) -> optax.GradientTransformation:
    """VaSSO: the perturbation follows a running mean of the gradients, which varies less.

    With d_t = (1 - theta) d_{t-1} + theta g_t and d_1 = g_1, the perturbation is
    rho d / (||d|| + 1e-8).

    Args:
        rho: The length of the perturbation, at least 0, or a schedule, which gets the
            number of steps taken so far.
        theta: How much of d is this batch's gradient, in [0, 1]; 1 is `sam`.

    Returns:
        A transformation that keeps d, one copy of the gradient in float32 at least.

    Raises:
        ValueError: If `rho` is negative or not finite, or `theta` outside [0, 1].
        TypeError: If a number is given as text.

    Example:
        >>> ascent = vasso(rho=1.0, theta=0.5)
        >>> state = ascent.init(jnp.zeros(2))
        >>> first, state = ascent.update(jnp.array([3.0, 0.0]), state)
        >>> second, state = ascent.update(jnp.array([3.0, 8.0]), state)
        >>> print(first, second)
        [1. 0.] [0.6 0.8]

    References:
        Li and Giannakis, Enhancing Sharpness-Aware Optimization Through Variance Suppression,
        NeurIPS 2023.
    """
    checked_share("theta", theta)
    return in_float32(optax.chain(_running_mean(theta), scale_to_norm(rho)))


def _subtract_running_mean(sigma: float, decay: float) -> optax.GradientTransformation:
    def init_fn(params):
        return SubtractRunningMeanState(jnp.zeros([], jnp.int32), wide_zeros(params))

    def update_fn(updates, state, params=None):
        del params
        is_first = state.ascents == 0

        def news_of(gradient, mean):
            return jnp.where(is_first, gradient, gradient - (sigma * mean).astype(gradient.dtype))

        def moved(gradient, mean):
            return jnp.where(is_first, gradient, _mixed(decay, mean, gradient)).astype(mean.dtype)

        news = jax.tree.map(news_of, updates, state.running_mean)
        running_mean = jax.tree.map(moved, updates, state.running_mean)
        return news, SubtractRunningMeanState(next_ascent(state.ascents), running_mean)

    return optax.GradientTransformation(init_fn, update_fn)


def _running_mean(theta: float) -> optax.GradientTransformation:
    def init_fn(params):
        return RunningMeanState(jnp.zeros([], jnp.int32), wide_zeros(params))

    def update_fn(updates, state, params=None):
        del params
        is_first = state.ascents == 0

        def moved(gradient, mean):
            mixed = _mixed(theta, gradient, mean)
            return jnp.where(is_first, gradient, mixed).astype(mean.dtype)

        direction = jax.tree.map(moved, updates, state.direction)
        return direction, RunningMeanState(next_ascent(state.ascents), direction)

    return optax.GradientTransformation(init_fn, update_fn)


def _mixed(share: float, one: jax.Array, other: jax.Array) -> jax.Array:
    """`share` of one and the rest of the other, in the wider dtype."""
    dtype = max(one.dtype, other.dtype, key=lambda each: each.itemsize)
    part = jnp.asarray(share, dtype)
    return part * one.astype(dtype) + (1 - part) * other.astype(dtype)
