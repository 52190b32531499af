"""How each method looks, in every picture the same: colour, marker and line.

The eight methods that are compared most have colours that also differ in grey, and to readers who
do not see red and green. The others have the colour of the method they come from, with another
marker and line.
"""

import collections
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from matplotlib import colors


class Look(NamedTuple):
    """What a method is drawn with, in matplotlib's words.

    Attributes:
        colour: Of line, marker and band.
        marker: The shape of its points.
        line: The style of its line.
        fill: Which part of its marker is filled.
    """

    colour: str
    marker: str
    line: str
    fill: str = "full"

    @property
    def of_line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot` and `Axes.errorbar`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.line,
            "fillstyle": self.fill,
            "markersize": 5,
            "linewidth": 1.1,
        }


# From dark to light.
_BLACK, _PURPLE, _RED, _BLUE = "#1c1c1c", "#3f1f6e", "#8c1c13", "#0062ad"
_ORANGE, _PINK, _SKY, _YELLOW = "#d0530a", "#cc79a7", "#56b4e9", "#e6c200"
_GREY = "#7f7f7f"

LOOKS: Mapping[str, Look] = {
    "adamw": Look(_BLACK, "X", "--"),
    "sam": Look(_BLUE, "o", "-"),
    "asam": Look(_PURPLE, "s", "-"),
    "friendly_sam": Look(_PINK, "D", "-"),
    "zsharp": Look(_ORANGE, "^", "-"),
    "zsharp_reference": Look(_RED, "v", "-"),
    "sam_matched": Look(_SKY, "P", "-"),
    "magnitude": Look(_YELLOW, "*", "-"),
    "sam_layerwise": Look(_BLUE, "s", "--"),
    "sam_one_pass": Look(_BLUE, ">", ":"),
    "sam_quarter": Look(_BLUE, "p", "-."),
    "sam_late": Look(_BLUE, "h", ":"),
    "zsharp_matched": Look(_ORANGE, "P", "--"),
    "zsharp_one_pass": Look(_ORANGE, ">", ":"),
    "zsharp_quarter": Look(_ORANGE, "p", "-."),
    "zsharp_late": Look(_ORANGE, "h", ":"),
    "zsharp_global": Look(_RED, "<", "--"),
    "zsharp_gsam": Look(_RED, "d", ":"),
    "zsharp_random": Look(_GREY, "o", "--"),
    "gsam": Look(_SKY, "d", "--"),
    "gnp": Look(_SKY, "<", ":"),
    "looksam": Look(_SKY, "h", "-."),
    "unified_sam": Look(_PURPLE, "d", "--"),
    "vasso": Look(_PINK, "s", "--"),
    "momentum_sam": Look(_PINK, ">", ":"),
}

_MARKERS = "ovs^pD<h>dPX*"
_FILLS = ("full", "none", "left", "top", "right", "bottom")
_MOST_BLENDED = 0.55  # of the darkest and the lightest variant: how much is black or white


def look_of(method: str) -> Look:
    """The look of a method; one that is not in `LOOKS` is grey, its name decides the marker.

    Args:
        method: Its name.

    Example:
        >>> look_of("zsharp").colour == look_of("zsharp_late").colour
        True
    """
    number = zlib.crc32(method.encode())
    return LOOKS.get(method) or Look(_GREY, _MARKERS[number % len(_MARKERS)], ":")


def looks_of(methods: Mapping[str, str]) -> dict[str, Look]:
    """The looks of all that one picture shows.

    Args:
        methods: By label the name of the method. Labels with the same method, such as ZSharp at
            several quantiles, have its marker and line, in shades of its colour from dark to light.
    """
    count = collections.Counter(methods.values())
    variants = {name: _variants(look_of(name), count[name]) for name in count}
    return {label: next(variants[method]) for label, method in methods.items()}


def _variants(look: Look, count: int) -> Iterator[Look]:
    for i in range(count):
        place = 2 * i / (count - 1) - 1 if count > 1 else 0.0  # from -1 to 1
        share, other = abs(place) * _MOST_BLENDED, float(place > 0)
        red, green, blue = (
            (1 - share) * part + share * other for part in colors.to_rgb(look.colour)
        )
        yield look._replace(colour=colors.to_hex((red, green, blue)), fill=_FILLS[i % len(_FILLS)])
