"""Extra arguments (`value`, `clean_gradients`, ...) for optimizers that may not know any."""

import inspect
from typing import Any

import optax


def with_extra_args(transformation: Any) -> optax.GradientTransformationExtraArgs:
    """The same, called with extra arguments; it gets them if its update takes any.

    `optax.with_extra_args_support` asks for the type alone, and so drops those that
    `optax.MultiSteps` would hand on.
    """
    if _takes_any(transformation.update):
        return optax.GradientTransformationExtraArgs(transformation.init, transformation.update)
    return optax.with_extra_args_support(transformation)


def _takes_any(update: Any) -> bool:
    try:
        parameters = inspect.signature(update).parameters.values()
    except (TypeError, ValueError):  # a callable that does not tell
        return False
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
