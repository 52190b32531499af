"""From whatever there is to a cache: a prepared folder, an archive, or the network."""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from zsharp_jax.benchmark.datasets import archive as archives
from zsharp_jax.benchmark.datasets import cache, cifar, progress, tiny_imagenet
from zsharp_jax.benchmark.datasets.archive import Archive
from zsharp_jax.benchmark.datasets.cache import Cache, Provenance
from zsharp_jax.benchmark.datasets.catalog import TIMEOUT, Source
from zsharp_jax.benchmark.datasets.contents import Contents, Images
from zsharp_jax.benchmark.errors import RequestError, to_install

if TYPE_CHECKING:
    from zsharp_jax.benchmark.datasets.prepared import Prepared

READERS: dict[str, Callable[[pathlib.Path], contextlib.AbstractContextManager[Contents]]] = {
    "cifar10": functools.partial(cifar.opened, layout=cifar.CIFAR10),
    "cifar100": functools.partial(cifar.opened, layout=cifar.CIFAR100),
    "tiny_imagenet": tiny_imagenet.opened,
}
EXTRA = ("tensorflow_datasets", "importlib_resources", "array_record", "PIL")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a dataset may come from.

    Attributes:
        data_dir: The folder of prepared datasets; None for that of tensorflow-datasets.
        archive: An archive that it must come from; None for whatever is there.
        verify: Whether only the official archive will do.
        timeout: How many seconds to wait for a connection.
    """

    data_dir: pathlib.Path | None = None
    archive: pathlib.Path | None = None
    verify: bool = True
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise RequestError(f"`timeout` must be finite and above 0, got {self.timeout}")

    def folder(self) -> pathlib.Path:
        """The folder of prepared datasets."""
        home = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        return pathlib.Path(self.data_dir or home).expanduser()


def obtain(source: Source, origin: Origin) -> Cache:
    """Opens the cache of a dataset; makes it where there is none that will do.

    An archive that is given is what the images come from: a cache that was made from another one is
    made anew. Without one the cache is taken, or else a folder that tensorflow-datasets has
    prepared, or else the archive in the manual folder, or else what the network gives.

    Args:
        source: The dataset.
        origin: Where it may come from.

    Returns:
        The cache.

    Raises:
        RequestError: If there is nothing to make it from, or that is damaged or not the official
            archive although it must be.
    """
    given = archives.examine(origin.archive, source, origin.verify) if origin.archive else None
    folder = cache.folder_of(source, origin.folder())
    if found := _usable(folder, source, given, origin.verify):
        return found
    with cache.alone(folder):
        if found := _usable(folder, source, given, origin.verify):
            return found  # another process has made it meanwhile
        with _images(source, origin, given) as (images, provenance):
            total = sum(images.counts.values())
            with progress.bar(f"{source.name}: writing the cache", total) as advance:
                return cache.write(folder, source, images, provenance, advance)


def _usable(
    folder: pathlib.Path, source: Source, given: Archive | None, verify: bool
) -> Cache | None:
    """The cache if it will do."""
    try:
        found = cache.read(folder, source)
    except cache.UnusableError:
        return None
    if given is not None:
        return found if found.meta["archive_sha256"] == given.sha256 else None
    _check_official(f"cache {folder}", found.meta["verified"], verify)
    return found


def _check_official(what: str, is_official: bool, verify: bool) -> None:
    if verify and not is_official:
        raise RequestError(
            f"{what} was not made from the official archive: pass --no-verify to use it all the "
            "same, or the official one with --archive"
        )


@contextlib.contextmanager
def _images(
    source: Source, origin: Origin, given: Archive | None
) -> Iterator[tuple[Images, Provenance]]:
    """What a cache is made from."""
    data_dir, folder = origin.folder(), None
    if has_tensorflow_datasets():
        folder = _prepared_folder(source, data_dir, given)
    if folder is not None:
        yield folder, _provenance_of_folder(folder, source, origin.verify)
        return
    archive = given or _find_archive(source, origin)
    provenance = Provenance(archive.path.name, archive.sha256, archive.is_official)
    with READERS[source.name](archive.path) as contents:
        yield _through_tensorflow_datasets(source, data_dir, contents, archive), provenance


def has_tensorflow_datasets() -> bool:
    """Whether all of the extra `data` is installed."""
    return all(importlib.util.find_spec(package) for package in EXTRA)


def _prepared_folder(
    source: Source, data_dir: pathlib.Path, given: Archive | None
) -> "Prepared | None":
    """A folder that tensorflow-datasets has prepared, from no other archive than a given one."""
    from zsharp_jax.benchmark.datasets import prepared

    if given is None:
        return prepared.find(source, data_dir)
    with contextlib.suppress(RequestError):  # a damaged one does no harm beside an archive
        folder = prepared.find(source, data_dir)
        if folder is not None and folder.archive_sha256 == given.sha256:
            return folder
    return None


def _provenance_of_folder(folder: "Prepared", source: Source, verify: bool) -> Provenance:
    """Of a folder that was not made here the counts alone can tell."""
    if folder.archive_sha256 is None:
        is_official = folder.counts == source.counts
    else:
        is_official = folder.archive_sha256 == source.sha256
    _check_official(f"the prepared folder {folder.folder}", is_official, verify)
    return Provenance(folder.name, folder.archive_sha256, is_official)


def _find_archive(source: Source, origin: Origin) -> Archive:
    """The archive in the manual folder, or the one that the network gives."""
    archive = archives.find(source, origin.folder(), origin.verify)
    if archive is not None:
        return archive
    try:
        if not has_tensorflow_datasets():
            raise RequestError(
                f"tensorflow-datasets is missing: {to_install('data')}, or pass "
                f"--archive {source.archive_name}, which is found at {source.url}"
            )
        return archives.fetch(source, origin.folder(), origin.verify, origin.timeout)
    except RequestError as error:
        folder = cache.folder_of(source, origin.folder())
        why = _why_anew(folder, source) + _why_no_folder(source, origin.folder())
        raise RequestError(f"{why}{error}") from None


def _why_anew(folder: pathlib.Path, source: Source) -> str:
    """What is wrong with a cache that is there."""
    try:
        cache.read(folder, source)
    except cache.UnusableError as error:
        return f"{error}, and cannot be made anew: " if folder.exists() else ""
    return ""


def _why_no_folder(source: Source, data_dir: pathlib.Path) -> str:
    """What is wrong with a folder of tensorflow-datasets that is there."""
    if not has_tensorflow_datasets():
        return ""
    from zsharp_jax.benchmark.datasets import prepared

    if not (folder := prepared.place(source, data_dir)).exists():
        return ""
    return f"the prepared folder {folder} is not whole, or only TensorFlow can read its format: "


def _through_tensorflow_datasets(
    source: Source, data_dir: pathlib.Path, contents: Contents, archive: Archive
) -> Images:
    """Prepares a folder for tensorflow-datasets, unless that is missing or a folder is there."""
    if not has_tensorflow_datasets():
        return contents
    from zsharp_jax.benchmark.datasets import prepared

    if prepared.place(source, data_dir).exists():
        return contents
    total = sum(contents.counts.values())
    with progress.bar(f"{source.name}: preparing", total) as advance:
        return prepared.make(source, data_dir, contents, archive, advance)
