"""The forms in which pictures are written; apart, so that commands start without matplotlib."""

from typing import Literal, get_args

Kind = Literal["png", "svg", "pdf"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def picture_files(name: str) -> tuple[str, ...]:
    """The files of a picture, one of each kind."""
    return tuple(f"{name}.{kind}" for kind in KINDS)
