"""Several runs as one program: whatever each of them has of its own gets a leading axis."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


class Runs(NamedTuple):
    """The runs of a program.

    Attributes:
        number: How many there are; None for one whose arrays have no leading axis.
        own_data: Whether each of them has images of its own.
    """

    number: int | None
    own_data: bool

    def over(self, function: Callable[..., Any], *is_own: bool) -> Callable[..., Any]:
        """A function of one run as one of all runs; `is_own` says of each argument whether every
        run has its own."""
        if self.number is None:
            return function
        return jax.vmap(function, tuple(0 if own else None for own in is_own))

    def shapes(self, of_one: T) -> T:
        """The shapes of all runs where those of one are `of_one`."""
        if self.number is None:
            return of_one
        number = self.number
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((number, *x.shape), x.dtype), of_one)

    def stacked(self, function: Callable[[jax.Array], T], of_all: jax.Array) -> T:
        """What `function` makes for each run, one after the other."""
        if self.number is None:
            return function(of_all)
        return _stack([function(of_one) for of_one in _list(of_all)])


_list = jax.jit(list)


@jax.jit
def _stack(parts: list[T]) -> T:
    return jax.tree.map(lambda *each: jnp.stack(each), *parts)
