"""What may happen to the bytes of a file on its way: strategies of Hypothesis."""

import os

from hypothesis import strategies

# A few for every day; thousands with FUZZ_EXAMPLES=5000.
ASKED = os.environ.get("FUZZ_EXAMPLES")


def examples(default):
    """How many mutations a test tries."""
    return int(ASKED) if ASKED else default


class Mutated(bytes):
    """Bytes that Hypothesis does not print in full."""

    def __repr__(self):
        return f"<{len(self)} bytes: {bytes(self[:20])!r}...>"


@strategies.composite
def mutated(draw, whole, favourites=(0,)):
    """Bytes with some flipped, cut off, moved, left out or overwritten.

    Args:
        draw: Hypothesis's.
        whole: What they were.
        favourites: Places next to which many changes are made.
    """
    content = bytearray(whole)
    for _ in range(draw(strategies.integers(1, 6))):
        near = draw(strategies.sampled_from(favourites)) + draw(strategies.integers(0, 64))
        at = min(draw(strategies.integers(0, len(content)) | strategies.just(near)), len(content))
        size = draw(strategies.integers(1, 64))
        match draw(strategies.sampled_from(["flip", "cut", "move", "leave out", "overwrite"])):
            case "flip" if at < len(content):
                content[at] ^= 1 << draw(strategies.integers(0, 7))
            case "cut":
                del content[at:]
            case "move":
                source = draw(strategies.integers(0, len(content)))
                content[at:at] = content[source : source + 64 * size]
            case "leave out":
                del content[at : at + size]
            case _:
                content[at : at + size] = draw(
                    strategies.binary(min_size=1, max_size=16)
                    | strategies.sampled_from([b"\xff" * size, bytes(size), b"7" * size])
                )
    return Mutated(content)
