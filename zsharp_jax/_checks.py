"""What a Python argument may be; each refusal names the argument, the rule and the value got."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer


def checked_quantile(quantile: float, name: str = "quantile") -> float:
    """Returns `quantile` if it is a Python number in [0, 1), else raises.

    It sets how many entries are kept, so it must be known when the step is traced.
    """
    _refuse_text(name, quantile)
    _refuse_array(name, quantile)
    if not _is_real(quantile) or not 0 <= quantile < 1:
        raise ValueError(f"`{name}` must lie in [0, 1), got {quantile!r}.")
    return float(quantile)


def checked_min_ndim(min_ndim: int) -> int:
    """Returns `min_ndim` if it is a Python integer of at least 0, else raises."""
    _refuse_array("min_ndim", min_ndim)
    return checked_count("min_ndim", min_ndim, least=0)


def checked_count(name: str, value: int, least: int = 1) -> int:
    """Returns `value` if it is a Python integer of at least `least`, else raises."""
    _refuse_text(name, value)
    if not is_integer(value) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
    return int(value)


def checked_real(gradient: jax.Array) -> jax.Array:
    """Returns `gradient` if it is real and floating point, else raises."""
    if not jnp.issubdtype(gradient.dtype, jnp.floating):
        raise TypeError(
            f"a filtered gradient must be real floating point, got dtype {gradient.dtype}."
        )
    return gradient


def checked_argnums(name: str, argnums: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Returns `argnums` as a tuple, or None for None; raises if one is not an integer."""
    if argnums is None:
        return None
    each = tuple(argnums) if isinstance(argnums, Sequence) else (argnums,)
    if not all(map(is_integer, each)):
        raise ValueError(f"`{name}` must be an integer or a sequence of integers, got {argnums!r}.")
    return tuple(map(int, each))


def checked_rho(rho: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    """Returns `rho` if it is a schedule, a traced number or a finite number of at least 0."""
    return rho if callable(rho) else checked_nonnegative("rho", rho)


def checked_nonnegative(name: str, value: Any) -> Any:
    """Returns `value` if it is a finite scalar of at least 0, else raises.

    Of a traced one only shape and dtype are known.
    """
    _refuse_text(name, value)
    _refuse_several(name, value)
    is_traced = isinstance(value, Tracer)
    if not _is_real(value) or not (is_traced or (math.isfinite(value) and value >= 0)):
        raise ValueError(f"`{name}` must be finite and at least 0, got {value!r}.")
    return value


def checked_share(name: str, value: Any) -> Any:
    """Returns `value` if it is a scalar in [0, 1], else raises; see `checked_nonnegative`."""
    _refuse_text(name, value)
    _refuse_several(name, value)
    if not _is_real(value) or not (isinstance(value, Tracer) or 0 <= value <= 1):
        raise ValueError(f"`{name}` must lie in [0, 1], got {value!r}.")
    return value


def checked_unit_fraction(name: str, value: Any) -> int:
    """Returns k if `value` is 1 / k for an integer k of at least 1, else raises."""
    if _is_real(value) and not isinstance(value, jax.Array) and 0 < value <= 1:
        k = round(1 / value)
        if math.isclose(k * value, 1):
            return k
    raise ValueError(f"`{name}` must be 1 or one over an integer, such as 1/4, got {value!r}.")


def checked_choice(name: str, value: str, choices: Collection[str]) -> str:
    """Returns `value` if it is one of `choices`, else raises."""
    if value not in choices:
        known = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be {known}, got {value!r}.")
    return value


def scheduled(name: str, number: optax.ScalarOrSchedule, count: jax.Array) -> Any:
    """A number itself, or what a schedule says at `count`: a real scalar, or this raises."""
    if not callable(number):
        return number
    value: Any = number(count)
    is_finite = isinstance(value, jax.Array) or (_is_real(value) and math.isfinite(value))
    if not _is_real(value) or not is_finite:
        raise ValueError(
            f"the schedule of `{name}` must return a finite real scalar for each count of steps, "
            f"got {value!r}."
        )
    return value


def check_flags(**flags: Any) -> None:
    """Refuses what is neither True nor False, as an argument that has come one place too late."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            got = f"a `{type(value).__name__}`; look at the order of the arguments"
            raise TypeError(f"`{name}` must be True or False, got {got}.")


def check_is_function(name: str, value: Any, wanted: str) -> None:
    """Refuses what cannot be called."""
    if not callable(value):
        raise TypeError(f"`{name}` must be {wanted}, got a `{type(value).__name__}`.")


def check_is_loss(value: Any) -> None:
    """Refuses what cannot be called."""
    wanted = "a function `loss_fn(params, *inputs)`, which comes first of all arguments"
    check_is_function("loss_fn", value, wanted)


def check_is_optimizer(value: Any) -> None:
    """Refuses what has no `init` and `update`."""
    _check_is_transformation("optimizer", "an Optax optimizer such as `optax.sgd(0.1)`", value)


def check_is_ascent(value: Any) -> None:
    """Refuses what has no `init` and `update`."""
    _check_is_transformation("ascent", "an ascent such as `zsharp(rho=0.05)`", value)


def _check_is_transformation(name: str, wanted: str, value: Any) -> None:
    if hasattr(value, "init") and hasattr(value, "update"):
        return
    got = f"{value!r}"
    if callable(value):
        called = getattr(value, "__name__", "it")
        got = f"the function `{called}` itself: if it makes one, call it, `{called}(...)`"
    elif hasattr(value, "tx"):
        got = f"a `{type(value).__name__}`: hand over its `.tx`"
    raise TypeError(f"`{name}` must be {wanted}, got {got}.")


def _refuse_text(name: str, value: Any) -> None:
    if isinstance(value, str):
        raise TypeError(f"`{name}` must be a number, got the string {value!r}.")


def _refuse_several(name: str, value: Any) -> None:
    if np.ndim(value):
        raise ValueError(
            f"`{name}` must be a single number, got an array of shape {np.shape(value)}: for "
            "several, map over them with `jax.vmap`."
        )


def _refuse_array(name: str, value: Any) -> None:
    if isinstance(value, jax.Array):
        raise TypeError(
            f"`{name}` must be a Python number, for it is needed when the step is traced, got an "
            f'array; `optax.inject_hyperparams` makes arrays of numbers: name "{name}" in its '
            "`static_args`."
        )


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    """Whether `value` is one real number and no bool."""
    if isinstance(value, (np.ndarray, jax.Array)):
        real = (jnp.floating, jnp.integer)
        return value.ndim == 0 and any(jnp.issubdtype(value.dtype, kind) for kind in real)
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
