"""Times as a user writes them."""

import re

from zsharp_jax.benchmark.errors import RequestError

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


def seconds_of(option: str, text: str) -> float:
    """How many seconds `90m`, `1h30m` or `45s` are.

    Args:
        option: The option that it was given for.
        text: What was given.

    Raises:
        RequestError: If it is no such time, or none at all.

    Example:
        >>> seconds_of("budget", "1h30m")
        5400.0
    """
    found = _DURATION.fullmatch(text)
    parts = [int(part or 0) for part in found.groups()] if found else [0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise RequestError(
            f"`{option}` must be a time above 0, such as 90m, 1h30m or 45s, got {text!r}"
        )
    return float(seconds)
