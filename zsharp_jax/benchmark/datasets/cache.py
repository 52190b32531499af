"""The prepared images as plain files: a memory-mapped `.npy` per array, and `meta.json`.

A cache is written under another name and renamed when it is whole, so that nobody ever finds half
of one. It is read with NumPy alone.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from zsharp_jax.benchmark.datasets.catalog import Source
from zsharp_jax.benchmark.datasets.contents import Images, digest
from zsharp_jax.benchmark.errors import RequestError

FORMAT = 1
SPLITS = ("train", "test")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class UnusableError(RequestError):
    """There is no cache, or none that can be used: of another format, or damaged."""


class Provenance(NamedTuple):
    """What a cache was made from.

    Attributes:
        source: Its name.
        archive_sha256: The digest of the archive, as far as it is known.
        verified: Whether that is the official one.
    """

    source: str
    archive_sha256: str | None
    verified: bool


@dataclasses.dataclass(frozen=True)
class Cache:
    """A cache on disk.

    Attributes:
        folder: Where it lies.
        arrays: Images, uint8, and labels, int32, by the names in `ARRAYS`; all memory-mapped.
        meta: What `meta.json` holds: `format`, `dataset`, `counts`, `sha256` of all arrays, the
            fields of `Provenance`, and the `versions` that made it.
    """

    folder: pathlib.Path
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def folder_of(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
    """Where the cache of a dataset lies."""
    return data_dir / "zsharp_jax" / source.name


def read(folder: pathlib.Path, source: Source) -> Cache:
    """Opens a cache without reading its images.

    Raises:
        UnusableError: If there is none, or it is of another format, damaged or of another dataset.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["format"] != FORMAT:
            found = repr(meta["format"])[:40]
            raise UnusableError(f"cache {folder} is of format {found}, wanted {FORMAT}")
        arrays = {name: _mapped(folder / f"{name}.npy") for name in ARRAYS}
        _check(arrays, meta, source)
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists():
            raise UnusableError(f"cache {folder} lacks a file") from None
        raise UnusableError(f"there is no cache {folder}") from None
    except OSError as error:
        raise UnusableError(f"cannot read cache {folder}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
        raise UnusableError(f"cache {folder} is damaged: {str(error)[:200]}") from None
    return Cache(folder, arrays, meta)


def _take_room(path: pathlib.Path) -> None:
    """Takes the room of a file that has holes, where the system can.

    To write into a hole of a full disk ends the process, without an error that could be told.

    Raises:
        OSError: If there is not as much.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            error.filename = str(path)
            raise


def _mapped(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy reads the header as Python, which has many ways to fail
        raise ValueError(f"{path.name}: {error}") from None


def _check(arrays: dict[str, np.ndarray], meta: dict[str, Any], source: Source) -> None:
    if meta["dataset"] != source.name or not isinstance(meta["verified"], bool):
        raise ValueError("meta.json does not fit")
    if len(bytes.fromhex(meta["sha256"])) != 32:
        raise ValueError("meta.json has no digest")
    for split in SPLITS:
        count = meta["counts"][split]
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if (images.dtype, images.shape) != (np.uint8, (count, *source.image_shape)):
            raise ValueError(f"{split}_images.npy is not uint8 of {count} images")
        if (labels.dtype, labels.shape) != (np.int32, (count,)):
            raise ValueError(f"{split}_labels.npy is not int32 of {count} labels")


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process makes this cache, and clears away what a killed one left.

    Raises:
        RequestError: If nothing can be written there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise RequestError(f"cannot write to --data-dir, {folder}: {error.strerror}") from None
    with lock:
        with contextlib.suppress(ImportError):  # Windows
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.parent.glob(f".{folder.name}.making.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def write(
    folder: pathlib.Path,
    source: Source,
    images: Images,
    provenance: Provenance,
    advance: Callable[[int], None],
) -> Cache:
    """Writes a cache in the place of any that is there; within `alone`.

    Args:
        folder: Where to write it.
        source: The dataset.
        images: What to write.
        provenance: What it comes from, for `meta.json`.
        advance: Is called with the number of images that are newly written.

    Returns:
        The cache.

    Raises:
        RequestError: If an image or a label does not fit the dataset.
    """
    prefix = f".{folder.name}.making."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        making, old = pathlib.Path(temporary) / "new", pathlib.Path(temporary) / "old"
        making.mkdir()
        for split in SPLITS:
            _write_split(making, source, split, images, advance)
        meta = {
            "format": FORMAT,
            "dataset": source.name,
            "counts": {split: images.counts[split] for split in SPLITS},
            "sha256": digest(np.load(making / f"{name}.npy", mmap_mode="r") for name in ARRAYS),
            **provenance._asdict(),
            "versions": {
                name: importlib.metadata.version(name) for name in ("zsharp-jax", "numpy")
            },
        }
        (making / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        read(making, source)
        if folder.exists():
            folder.rename(old)
        making.rename(folder)
    return read(folder, source)


def _write_split(
    folder: pathlib.Path,
    source: Source,
    split: str,
    images: Images,
    advance: Callable[[int], None],
) -> None:
    count = images.counts[split]
    path = folder / f"{split}_images.npy"
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *source.image_shape))
    _take_room(path)
    labels = np.full(count, -1, np.int32)
    for place, image, label in images.examples(split):
        if image.dtype != np.uint8 or image.shape != source.image_shape:
            raise RequestError(
                f"{split} image {place} is {image.dtype} of shape {image.shape}, "
                f"wanted uint8 of {source.image_shape}"
            )
        if not 0 <= label < source.num_classes:
            raise RequestError(
                f"{split} image {place} has the label {label}, wanted 0 to {source.num_classes - 1}"
            )
        if not 0 <= place < count or labels[place] >= 0:
            raise RequestError(f"{split} image {place} of {count} is there twice or one too many")
        pixels[place], labels[place] = image, label
        advance(1)
    if np.any(labels < 0):
        raise RequestError(f"{split} lacks {np.sum(labels < 0)} of its {count} images")
    pixels.flush()
    np.save(folder / f"{split}_labels.npy", labels)
