"""Steps that are skipped because a pass was not finite, and an end to it."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_STEPS_AHEAD = 2


class Skips(NamedTuple):
    """How many steps have been skipped because a loss, a gradient or its norm was not finite.

    Attributes:
        total: Since `init_state`, an int32 scalar.
        in_a_row: Up to now; 0 if the last step was taken. An int32 scalar.
    """

    total: jax.typing.ArrayLike = np.int32(0)
    in_a_row: jax.typing.ArrayLike = np.int32(0)


def all_finite(tree: Any) -> jax.Array:
    """Whether no entry of a tree is NaN or infinite."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def counted(skips: Skips, is_taken: jax.Array) -> Skips:
    """The counts after one more step."""
    skipped = 1 - is_taken.astype(jnp.int32)
    return Skips(skips.total + skipped, (skips.in_a_row + 1) * skipped)


def stopping(step: Callable[..., Any], most_in_a_row: int) -> Callable[..., Any]:
    """A step that raises once too many in a row have been skipped.

    It looks at the step before the last, which is over by then: a look at the last one would have
    the device wait for the host.
    """
    under_way = collections.deque(maxlen=_STEPS_AHEAD)
    newest = None

    @functools.wraps(step)
    def checked(state, *inputs):
        nonlocal newest
        if state.skips.in_a_row is not newest:  # the state of another run
            under_way.clear()
        if len(under_way) == _STEPS_AHEAD and jax.device_get(under_way[0]) >= most_in_a_row:
            under_way.clear()
            raise FloatingPointError(
                f"a loss, a gradient or its norm was not finite in {most_in_a_row} steps in a row, "
                "the most that `max_consecutive_skips` allows; if the loss function returns "
                "statistics as aux, keep the old ones where `info.skips.in_a_row` is above 0."
            )
        state, info = step(state, *inputs)
        if not isinstance(info.skips.in_a_row, Tracer):
            under_way.append(info.skips.in_a_row)
            newest = state.skips.in_a_row
        return state, info

    return checked
