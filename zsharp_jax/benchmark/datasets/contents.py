"""What a reader gives: images and labels, in the order of the archive."""

import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

Example = tuple[int, np.ndarray, int]  # its place in the split, its image, its label


class Images(Protocol):
    """What a cache is made from: the contents of an archive, or a prepared folder."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many images there are to `train` and to `test` on."""
        ...

    def examples(self, split: str) -> Iterator[Example]:
        """All images of `train` or `test`, in any order."""
        ...


class Split(NamedTuple):
    """The images of one split.

    Attributes:
        images: uint8 arrays of shape (height, width, channels), read when they are asked for.
        labels: For each kind of label (`label`, and `coarse_label` of CIFAR-100) int32, (count,).
    """

    images: Sequence[np.ndarray] | np.ndarray
    labels: dict[str, np.ndarray]


class Contents(NamedTuple):
    """All that is read from an archive.

    Attributes:
        splits: `train` and `test`.
        names: For each kind of label the names of its classes, as far as the archive tells.
    """

    splits: dict[str, Split]
    names: dict[str, list[str]]

    @property
    def counts(self) -> dict[str, int]:
        """How many images there are to `train` and to `test` on."""
        return {name: len(split.images) for name, split in self.splits.items()}

    def examples(self, split: str) -> Iterator[Example]:
        """All images of `train` or `test`, in the order of the archive."""
        images, labels = self.splits[split].images, self.splits[split].labels["label"]
        for place, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield place, image, int(label)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """The sha256 of arrays one behind the other."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def decode(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes a PNG or a JPEG to RGB; grey becomes three equal channels.

    Args:
        content: A whole file.
        shape: Height, width and channels that it must have.

    Returns:
        A uint8 array of that shape.

    Raises:
        ValueError: If it is no image, is damaged or of another size; the size is looked at before
            anything is decoded.
    """
    from PIL import Image

    height, width, _ = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if image.size != (width, height):
                    raise ValueError(f"an image of {image.width} x {image.height} pixels")
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        reason = "of absurd size" if "Bomb" in type(error).__name__ else "damaged or none"
        raise ValueError(f"an image that is {reason}") from None
