"""What all reports in Markdown share: tables, numbers in few digits, and text from outside."""

import re
from collections.abc import Iterable, Sequence


def markdown_lines(
    header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> list[str]:
    """The lines of a Markdown table whose first columns hold words, and the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def short(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}" if value else "0"


def plain(value: float) -> str:
    """Three significant digits, and thousands in full."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def escaped(text: str) -> str:
    """Text from outside, so that Markdown shows it as it is and in one line."""
    visible = "".join(c if c.isprintable() else "?" for c in text)
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", visible)


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" + "s" * (number != 1)
