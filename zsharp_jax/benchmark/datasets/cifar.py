"""Reads CIFAR-10 and CIFAR-100 from their official binary archives, without unpacking them to disk.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. A record is one byte of
label (CIFAR-100: one of the coarse, then one of the fine label) and 3,072 bytes of pixels: 32 x 32
red, then green, then blue.
"""

import contextlib
import dataclasses
import gzip
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from zsharp_jax.benchmark.datasets.contents import Contents, Split
from zsharp_jax.benchmark.errors import RequestError

PIXEL_BYTES = 32 * 32 * 3
MOST_BYTES = 2**29  # of the unpacked archive; the official ones have 185 million
MOST_NAME_BYTES = 2**16


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an archive is laid out.

    Attributes:
        folder: Where all of its files lie.
        train_files: The files of records to train on, in order.
        test_files: Those to test on.
        labels: The labels that begin a record, in order, and how many classes each has.
        name_files: For each label the file that names its classes.
        most_records: How many records a file may have.
    """

    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    labels: dict[str, int]
    name_files: dict[str, str]
    most_records: int

    @property
    def record_bytes(self) -> int:
        """The length of a record."""
        return len(self.labels) + PIXEL_BYTES


CIFAR10 = Layout(
    folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
    labels={"label": 10},
    name_files={"label": "batches.meta.txt"},
    most_records=10_000,
)
CIFAR100 = Layout(
    folder="cifar-100-binary",
    train_files=("train.bin",),
    test_files=("test.bin",),
    labels={"coarse_label": 20, "label": 100},
    name_files={"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
    most_records=50_000,
)


@contextlib.contextmanager
def opened(path: pathlib.Path, layout: Layout) -> Iterator[Contents]:
    """Reads the archive at `path`, whole.

    Args:
        path: An archive `.tar.gz`.
        layout: `CIFAR10` or `CIFAR100`.

    Yields:
        Its images and labels.

    Raises:
        RequestError: If the archive is missing or truncated, or holds anything outside its folder,
            a file twice, a file of absurd size or what is no record.
    """
    try:
        files = _read_files(path, layout)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise RequestError(f"archive {path} is truncated or damaged: {str(error)[:200]}") from None
    except (ValueError, RecursionError) as error:  # tarfile's, at headers that make no sense
        raise RequestError(f"archive {path} is damaged: {str(error)[:200]}") from None
    except OSError as error:
        raise RequestError(f"cannot read archive {path}: {error.strerror}") from None
    names = {
        label: files[name].decode(errors="replace").split()
        for label, name in layout.name_files.items()
        if name in files
    }
    train = _split(path, layout, [files[name] for name in layout.train_files])
    test = _split(path, layout, [files[name] for name in layout.test_files])
    yield Contents({"train": train, "test": test}, names)


class _Bounded:
    """A stream that refuses to give more than `MOST_BYTES`, however much is packed into it."""

    def __init__(self, path: pathlib.Path, stream: gzip.GzipFile) -> None:
        self._path, self._stream, self._left = path, stream, MOST_BYTES

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise RequestError(f"archive {self._path} unpacks to more than {MOST_BYTES} bytes")
        return content


def _read_files(path: pathlib.Path, layout: Layout) -> dict[str, bytes]:
    """The contents of the wanted files; refuses an archive that holds what it should not."""
    needed = layout.train_files + layout.test_files
    most_bytes = dict.fromkeys(needed, layout.most_records * layout.record_bytes)
    most_bytes |= dict.fromkeys(layout.name_files.values(), MOST_NAME_BYTES)
    files = {}
    with gzip.open(path) as unpacked:
        stream: Any = _Bounded(path, unpacked)
        # "r|" reads from the front to the end and seeks nowhere, so that the bound holds.
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = _checked_name(path, layout, member)
                if name not in most_bytes:
                    continue
                if name in files:
                    raise RequestError(f"archive {path} holds {member.name[:100]!r} twice")
                if member.size > most_bytes[name]:
                    raise RequestError(
                        f"archive {path} holds {member.name[:100]!r} of {member.size} bytes, "
                        f"wanted at most {most_bytes[name]}"
                    )
                file = archive.extractfile(member)
                files[name] = file.read() if file else b""
        while stream.read(2**20):  # to the checksum, which lies behind the end that tar sees
            pass
    missing = [name for name in needed if name not in files]
    if missing:
        raise RequestError(f"archive {path} lacks {', '.join(missing)} in {layout.folder}/")
    return files


def _checked_name(path: pathlib.Path, layout: Layout, member: tarfile.TarInfo) -> str:
    """The name of a member within the folder."""
    parts = pathlib.PurePosixPath(member.name).parts
    is_plain = member.isfile() or member.isdir()
    if parts[:1] != (layout.folder,) or ".." in parts or not is_plain:
        raise RequestError(
            f"archive {path} holds {member.name[:100]!r}, which is no file in {layout.folder}/"
        )
    return "/".join(parts[1:])


def _split(path: pathlib.Path, layout: Layout, files: list[bytes]) -> Split:
    """The records of some files, one behind the other."""
    for content in files:
        if not content or len(content) % layout.record_bytes:
            raise RequestError(
                f"archive {path} holds a file of {len(content)} bytes, "
                f"which is not a number of records of {layout.record_bytes}"
            )
    records = np.concatenate([np.frombuffer(content, np.uint8) for content in files])
    records = records.reshape(-1, layout.record_bytes)
    labels = {}
    for column, (name, num_classes) in enumerate(layout.labels.items()):
        labels[name] = records[:, column].astype(np.int32)
        if labels[name].max() >= num_classes:
            raise RequestError(
                f"archive {path} holds a {name.replace('_', ' ')} of {labels[name].max()}, "
                f"wanted 0 to {num_classes - 1}"
            )
    images = records[:, len(labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), labels)
