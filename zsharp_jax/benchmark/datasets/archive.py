"""Where an archive lies, and whether it is the official one."""

import dataclasses
import hashlib
import pathlib

from zsharp_jax.benchmark.datasets import download
from zsharp_jax.benchmark.datasets.catalog import Source
from zsharp_jax.benchmark.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive on disk.

    Attributes:
        path: Where it lies.
        sha256: Its digest.
        is_official: Whether that is the digest of the official archive.
    """

    path: pathlib.Path
    sha256: str
    is_official: bool


def manual_folder(data_dir: pathlib.Path) -> pathlib.Path:
    """Where archives are looked for that came by other means; the same as tensorflow-datasets'."""
    return data_dir / "downloads" / "manual"


def examine(path: pathlib.Path, source: Source, verify: bool) -> Archive:
    """Takes the digest of an archive.

    Args:
        path: The archive.
        source: What it should be.
        verify: Whether it must be the official one.

    Returns:
        The archive.

    Raises:
        RequestError: If it is missing, or not the official one although `verify` asks for it.
    """
    try:
        if not path.is_file():
            raise RequestError(f"there is no archive {path}; the official one is at {source.url}")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"cannot read archive {path}: {error.strerror}") from None
    if verify and sha256 != source.sha256:
        raise RequestError(
            f"archive {path} is not the official one: its sha256 is {sha256}, "
            f"wanted {source.sha256}; if it was made anew on purpose, pass --no-verify"
        )
    return Archive(path, sha256, sha256 == source.sha256)


def find(source: Source, data_dir: pathlib.Path, verify: bool) -> Archive | None:
    """The archive in the manual folder; None where there is none."""
    path = manual_folder(data_dir) / source.archive_name
    return examine(path, source, verify) if path.exists() else None


def fetch(source: Source, data_dir: pathlib.Path, verify: bool, timeout: float) -> Archive:
    """Downloads the archive into the manual folder.

    Raises:
        RequestError: If that fails, in words that say how to go on without a network.
    """
    folder = manual_folder(data_dir)
    with download.downloaded(source.url, source.size, folder, timeout) as part:
        try:
            examine(part, source, verify)
        except RequestError:
            raise RequestError(
                f"what {source.url} gives is not the official archive: its sha256 differs"
            ) from None
        path = part.replace(folder / source.archive_name)
    return examine(path, source, verify)
