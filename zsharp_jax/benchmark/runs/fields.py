"""The fields of a file that may come from anywhere: each is checked before it is used."""

import json
import math
import re
from typing import Any

import numpy as np

FORMAT = 1

Record = dict[str, Any]  # what a run file holds
Value = str | int | float | bool | None  # of a setting

_LARGEST = 1e39  # beyond float32; sums and squares of such numbers are still float64
_MOST_STEPS = 2**40
_WORD = re.compile(r"[\w.+-]{1,80}", re.ASCII)
_TEXT = re.compile(r"[\w.,:+/() -]{0,80}", re.ASCII)


class DamagedError(Exception):
    """A file is no whole run file, said in one line."""


def dictionary(record: dict[str, Any], name: str) -> dict[str, Any]:
    """A field that holds fields."""
    value = record.get(name)
    if not isinstance(value, dict):
        raise DamagedError(f"`{name}` must be an object, got {brief(value)}")
    return value


def word(record: dict[str, Any], name: str) -> str:
    """A field that may stand in a table, a picture and the name of a file."""
    value = record.get(name)
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise DamagedError(f"`{name}` must be a word, got {brief(value)}")
    return value


def integer(record: dict[str, Any], name: str, least: int = 0) -> int:
    """A field that counts something."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MOST_STEPS:
        raise DamagedError(f"`{name}` must be an integer from {least} up, got {brief(value)}")
    return value


def number(value: Any, name: str) -> int | float:
    """A value that was measured in float32 or may be averaged with such."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < _LARGEST:
        raise DamagedError(f"`{name}` must be a finite number of float32, got {brief(value)}")
    return value


def curve(record: dict[str, Any], name: str) -> np.ndarray:
    """A field with a loss, a norm or an accuracy for each epoch."""
    values = record.get(name)
    if not isinstance(values, list):
        raise DamagedError(f"`curves.{name}` must be a list, got {brief(values)}")
    most = 1 if name.endswith("accuracy") else _LARGEST
    for value in values:
        if not 0 <= number(value, f"curves.{name}") <= most:
            raise DamagedError(f"`curves.{name}` must lie in [0, {most:g}], got {brief(value)}")
    return np.array(values, float)


def seconds(record: dict[str, Any], name: str) -> float:
    """A field with a time; NaN where there is none, as in a run that failed in its first epoch."""
    value = record.get(name)
    if value is None:
        return math.nan
    if not number(value, name) > 0:
        raise DamagedError(f"`{name}` must be above 0, got {brief(value)}")
    return float(value)


def setting(settings: dict[str, Any], name: str) -> Value:
    """A setting, whatever it is called."""
    value = settings[name]
    if not _WORD.fullmatch(name):
        raise DamagedError(f"a setting must be named by a word, got {brief(name)}")
    if isinstance(value, str) and not _TEXT.fullmatch(value):
        raise DamagedError(f"`{name}` must be a short text, got {brief(value)}")
    if value is not None and not isinstance(value, str | bool):
        number(value, name)
    return value


def brief(value: Any) -> str:
    """Enough of a value to recognise it, whatever its size."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a huge integer"
    text = json.dumps(value)  # escapes what does not belong on a terminal
    return text if len(text) <= 40 else f"{text[:40]}…"
