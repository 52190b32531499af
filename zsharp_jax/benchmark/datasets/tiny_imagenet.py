"""Reads Tiny-ImageNet-200 from its official zip, without unpacking it to disk.

Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015. `wnids.txt` lists the classes; a
label is a line of it. `train/` has a folder of JPEGs per class, and `val/val_annotations.txt` gives
the class of each JPEG in `val/`. Those in `test/` have no labels, so what is tested on is the
validation split. All images are 64 x 64 pixels; the grey ones become RGB.
"""

import contextlib
import pathlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from zsharp_jax.benchmark.datasets.contents import Contents, Split, decode
from zsharp_jax.benchmark.errors import RequestError

FOLDER = "tiny-imagenet-200"
SHAPE = (64, 64, 3)
MOST_CLASSES = 200
MOST_IMAGES = {"train": 100_000, "val": 10_000}
MOST_MEMBERS = 200_000  # the official zip has 120,609
MOST_BYTES = 2**20  # of one JPEG or one text; the official JPEGs have a few thousand
MOST_BYTES_IN_ALL = 2**30  # the official zip unpacks to some 240 million

_TRAIN_IMAGE = re.compile(r"train/(n\d{8})/images/\1_\d+\.JPEG")
_VAL_IMAGE = re.compile(r"val/images/(val_\d+\.JPEG)")


class Jpegs(Sequence[np.ndarray]):
    """The images of a split, each read and decoded when it is asked for."""

    def __init__(self, archive: "_Zip", members: list[zipfile.ZipInfo]) -> None:
        self._archive, self._members = archive, members

    def __len__(self) -> int:
        return len(self._members)

    def jpeg(self, index: int) -> bytes:
        """The file as it lies in the zip."""
        return self._archive.read(self._members[index])

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return decode(self.jpeg(index), SHAPE)
        except ValueError as error:
            name = self._members[index].filename
            raise RequestError(
                f"archive {self._archive.path} holds {name!r}, {error}; wanted 64 x 64 pixels"
            ) from None


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Contents]:
    """Checks the list of files in the zip at `path` and reads the labels; the images come later.

    Args:
        path: The archive `tiny-imagenet-200.zip`.

    Yields:
        Its images and labels, in the order in which they lie in the zip.

    Raises:
        RequestError: If the zip is missing or damaged, or holds anything outside its folder, a
            link, a file twice, more than fits the dataset, or labels that do not fit the images.
    """
    with _told_in_a_line(path):
        file = zipfile.ZipFile(path)
    with file:
        archive = _Zip(path, file)
        classes = archive.classes()
        splits = {"train": _train(archive, classes), "test": _validation(archive, classes)}
        yield Contents(splits, {"label": list(classes)})


@contextlib.contextmanager
def _told_in_a_line(path: pathlib.Path) -> Iterator[None]:
    """Within it, what zipfile says of the archive is said to the user."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise RequestError(f"archive {path} is truncated or damaged: {str(error)[:200]}") from None
    except OSError as error:
        raise RequestError(f"cannot read archive {path}: {error.strerror}") from None
    except RuntimeError as error:  # of what is encrypted or of a later version, and may be whole
        raise RequestError(f"cannot read archive {path}: {str(error)[:200]}") from None


class _Zip:
    """A zip whose members are known to be what they should be."""

    def __init__(self, path: pathlib.Path, file: zipfile.ZipFile) -> None:
        self.path, self._file = path, file
        self.members: dict[str, zipfile.ZipInfo] = {}
        if len(file.infolist()) > MOST_MEMBERS:
            raise RequestError(f"archive {path} holds more than {MOST_MEMBERS} files")
        if sum(member.file_size for member in file.infolist()) > MOST_BYTES_IN_ALL:
            raise RequestError(f"archive {path} unpacks to more than {MOST_BYTES_IN_ALL} bytes")
        for member in file.infolist():
            name = self._checked_name(member)
            if name in self.members:
                raise RequestError(f"archive {path} holds {member.filename[:100]!r} twice")
            self.members[name] = member

    def _checked_name(self, member: zipfile.ZipInfo) -> str:
        """The name of a member within the folder."""
        parts = pathlib.PurePosixPath(member.filename).parts
        is_special = stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)
        is_outside = parts[:1] != (FOLDER,) or ".." in parts or "\\" in member.filename
        if is_outside or is_special:
            raise RequestError(
                f"archive {self.path} holds {member.filename[:100]!r}, "
                f"which is no file in {FOLDER}/"
            )
        return "/".join(parts[1:])

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """A whole member; no more than the size that was checked is ever unpacked."""
        most = 4 * MOST_BYTES if member.filename.endswith(".txt") else MOST_BYTES
        if member.file_size > most:
            raise RequestError(
                f"archive {self.path} holds {member.filename[:100]!r} of {member.file_size} bytes, "
                f"wanted at most {most}"
            )
        # The others take as much memory as the archive says, and fail in their own ways.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RequestError(
                f"archive {self.path} holds {member.filename[:100]!r} packed in the way "
                f"{member.compress_type}, wanted stored or deflated"
            )
        with _told_in_a_line(self.path):
            return self._file.read(member)

    def lines(self, name: str) -> list[list[str]]:
        """The words of each line of a text file."""
        if name not in self.members:
            raise RequestError(f"archive {self.path} lacks {name} in {FOLDER}/")
        text = self.read(self.members[name]).decode(errors="replace")
        return [line.split() for line in text.splitlines() if line.strip()]

    def classes(self) -> dict[str, int]:
        """The label of each class."""
        names = [line[0] for line in self.lines("wnids.txt")]
        classes = {name: label for label, name in enumerate(names)}
        if not 1 <= len(names) <= MOST_CLASSES or len(classes) < len(names):
            raise RequestError(
                f"archive {self.path} lists {len(names)} classes in wnids.txt, "
                f"wanted 1 to {MOST_CLASSES} different ones"
            )
        return classes


def _train(archive: _Zip, classes: dict[str, int]) -> Split:
    members, labels = [], []
    for name, member in archive.members.items():
        if match := _TRAIN_IMAGE.fullmatch(name):
            members.append(member)
            labels.append(_label(archive, classes, match[1], name))
    return _split(archive, "train", members, labels)


def _validation(archive: _Zip, classes: dict[str, int]) -> Split:
    wanted = {}
    for line in archive.lines("val/val_annotations.txt"):
        if len(line) < 2 or line[0] in wanted:
            raise RequestError(
                f"archive {archive.path} has the line {' '.join(line)[:100]!r} in "
                "val_annotations.txt, wanted each image once and its class"
            )
        wanted[line[0]] = _label(archive, classes, line[1], line[0])
    members, labels = [], []
    for name, member in archive.members.items():
        if match := _VAL_IMAGE.fullmatch(name):
            if match[1] not in wanted:
                raise RequestError(f"archive {archive.path} holds {name!r} without a label")
            members.append(member)
            labels.append(wanted.pop(match[1]))
    if wanted:
        raise RequestError(f"archive {archive.path} lacks val/images/{next(iter(wanted))}"[:300])
    return _split(archive, "val", members, labels)


def _label(archive: _Zip, classes: dict[str, int], name: str, where: str) -> int:
    if name not in classes:
        raise RequestError(
            f"archive {archive.path} gives {where[:100]!r} the class {name[:100]!r}, "
            "which is not in wnids.txt"
        )
    return classes[name]


def _split(archive: _Zip, folder: str, members: list[zipfile.ZipInfo], labels: list[int]) -> Split:
    if not 1 <= len(members) <= MOST_IMAGES[folder]:
        raise RequestError(
            f"archive {archive.path} holds {len(members)} images in {folder}/, "
            f"wanted 1 to {MOST_IMAGES[folder]}"
        )
    return Split(Jpegs(archive, members), {"label": np.array(labels, np.int32)})
