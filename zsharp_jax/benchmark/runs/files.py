"""Writes files that are there whole or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterable

from zsharp_jax.benchmark.errors import RequestError


def prepare_folder(folder: pathlib.Path, option: str = "--out") -> None:
    """Makes the folder of an option where it is missing, and makes sure that it can be written to.

    Raises:
        RequestError: If they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        reason = "it is a file, not a folder"
        raise RequestError(f"cannot write to {option} {folder}: {reason}") from None
    except OSError as error:
        raise RequestError(f"cannot write to {option} {folder}: {error.strerror}") from None


def refuse_existing(paths: Iterable[pathlib.Path], way_out: str) -> None:
    """Refuses where something would be overwritten.

    Args:
        paths: What is to be written.
        way_out: How to go on all the same, in words that follow "is there already: ".

    Raises:
        RequestError: If any of them is there, with the first.
    """
    found = [path for path in dict.fromkeys(paths) if path.exists()]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        verb = "are" if more else "is"
        raise RequestError(f"{found[0]}{more} {verb} there already: {way_out}")


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(content)
            file.close()
            # A temporary file is readable by its owner alone; a result is like any other file.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)
            os.replace(file.name, path)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):  # an interrupt right behind the replacing
                os.unlink(file.name)
            if isinstance(error, OSError) and error.errno and not error.filename:  # a full disk
                error.filename = str(path)
            raise
