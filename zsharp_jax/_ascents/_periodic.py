"""A rho that is 0 at times, for plain steps in between."""

import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_count, checked_rho, scheduled


def periodic_rho(
    rho: optax.ScalarOrSchedule, every: int = 1, *, start: int = 0, stop: int | None = None
) -> optax.Schedule:
    """A schedule that is `rho` in one of `every` steps and 0 in the others, which are plain steps.

    With `plain_if_zero=True` those cost one pass instead of two.

    Args:
        rho: A number of at least 0, or a schedule, which gets the number of steps taken.
        every: Steps `start`, `start + every`, `start + 2 * every` ... are sharp.
        start: The first sharp step.
        stop: The first step after the last sharp one; None for no end.

    Returns:
        A schedule for the `rho` of any ascent. The count is in the ascent's state, so it goes on
        where it was when that is restored.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If a number is given as text.

    Example:
        >>> ascent = zsharp(periodic_rho(0.05, every=2, start=1000))
        >>> optimizer = optax.sgd(0.1)
        >>> step = sam_step(lambda w: jnp.sum(w**2), optimizer, ascent, plain_if_zero=True)
        >>> state, info = step(init_state(jnp.ones((2, 2)), optimizer, ascent))
        >>> print(info.perturbation_norm)
        0.0
    """
    rho = checked_rho(rho)
    checked_count("every", every)
    checked_count("start", start, least=0)
    if stop is not None:
        checked_count("stop", stop, least=start)

    def schedule(count):
        is_sharp = (count >= start) & ((count - start) % every == 0)
        if stop is not None:
            is_sharp &= count < stop
        return jnp.where(is_sharp, scheduled("rho", rho, count), 0.0)

    return schedule
