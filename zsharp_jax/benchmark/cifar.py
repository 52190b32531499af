"""Reads CIFAR-10 from its official binary archive, without unpacking it to disk.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. A record is one byte of
label and 3,072 bytes of pixels: 32 x 32 red, then green, then blue.
"""

import gzip
import hashlib
import pathlib
import tarfile
import zlib

import numpy as np

from zsharp_jax.benchmark.errors import RequestError

ARCHIVE = "cifar-10-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
TEST_FILES = ["test_batch.bin"]
RECORD_BYTES = 1 + 32 * 32 * 3
MOST_RECORDS = 10_000  # in one file


def read_archive(path: pathlib.Path, verify: bool = True) -> dict[str, np.ndarray]:
    """Reads images and labels from the archive at `path`.

    Args:
        path: The archive `cifar-10-binary.tar.gz`.
        verify: Whether it must have the official sha256.

    Returns:
        `train_images`, `train_labels`, `test_images` and `test_labels`: images uint8 of shape
        (count, 32, 32, 3), labels int32.

    Raises:
        RequestError: If the archive is missing, truncated, not the official one although `verify`
            asks for it, or holds anything outside its folder or that is no record.
    """
    try:
        if not path.is_file():
            raise RequestError(f"there is no archive {path}; the official one is found at {URL}")
        if verify:
            _check_sha256(path)
        contents = _read_files(path, wanted=TRAIN_FILES + TEST_FILES)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise RequestError(f"archive {path} is truncated or damaged: {error}") from None
    except (ValueError, RecursionError) as error:  # tarfile's, at headers that make no sense
        raise RequestError(f"archive {path} is damaged: {error}") from None
    except OSError as error:
        raise RequestError(f"cannot read archive {path}: {error.strerror}") from None

    train_images, train_labels = _records(path, [contents[name] for name in TRAIN_FILES])
    test_images, test_labels = _records(path, [contents[name] for name in TEST_FILES])
    return {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }


def _check_sha256(path: pathlib.Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise RequestError(
            f"archive {path} is not the official one: its sha256 is {found}, wanted {SHA256}; "
            "if it was made anew on purpose, pass --no-verify"
        )


def _read_files(path: pathlib.Path, wanted: list[str]) -> dict[str, bytes]:
    """The contents of the wanted files; refuses an archive that holds what it should not."""
    contents = {}
    with gzip.open(path) as stream, tarfile.open(fileobj=stream) as archive:
        for member in archive:
            name, parts = member.name[:100], pathlib.PurePosixPath(member.name).parts
            if parts[:1] != (FOLDER,) or ".." in parts or not (member.isfile() or member.isdir()):
                raise RequestError(f"archive {path} holds {name!r}, which is no file in {FOLDER}/")
            if parts[1:] not in [(file,) for file in wanted]:
                continue
            if parts[-1] in contents:
                raise RequestError(f"archive {path} holds {name!r} twice")
            if member.size > MOST_RECORDS * RECORD_BYTES:
                raise RequestError(
                    f"archive {path} holds {name!r} of {member.size} bytes, "
                    f"more than {MOST_RECORDS} records of {RECORD_BYTES}"
                )
            file = archive.extractfile(member)
            contents[parts[-1]] = file.read() if file else b""
        while stream.read(2**20):  # to the checksum, which lies behind the end that tar sees
            pass
    missing = [name for name in wanted if name not in contents]
    if missing:
        raise RequestError(f"archive {path} lacks {', '.join(missing)} in {FOLDER}/")
    return contents


def _records(path: pathlib.Path, contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    for content in contents:
        if not content or len(content) % RECORD_BYTES:
            raise RequestError(
                f"archive {path} holds a file of {len(content)} bytes, "
                f"which is not a number of records of {RECORD_BYTES}"
            )
    records = np.concatenate([np.frombuffer(content, np.uint8) for content in contents])
    records = records.reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int32)
    if labels.max() > 9:
        raise RequestError(f"archive {path} holds a label of {labels.max()}, wanted 0 to 9")
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels
