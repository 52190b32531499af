"""Fetches one file over the network, and gives up in seconds."""

import contextlib
import errno
import http.client
import pathlib
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator

from zsharp_jax.benchmark.datasets import progress
from zsharp_jax.benchmark.errors import RequestError

MOST_BYTES = 2**30
_CHUNK = 2**18
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextlib.contextmanager
def downloaded(url: str, size: int, folder: pathlib.Path, timeout: float) -> Iterator[pathlib.Path]:
    """Downloads a file to a temporary place in `folder`, which is gone after the block.

    Args:
        url: What to fetch.
        size: How many bytes are expected, for the progress bar.
        folder: Where to put it.
        timeout: How many seconds to wait for a connection, and for each further piece.

    Yields:
        Where the whole file lies; who wants to keep it renames it.

    Raises:
        RequestError: If it cannot be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = url.rsplit("/", 1)[1]
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as temporary:
        part = pathlib.Path(temporary) / name
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                _receive(response, part, name, size)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                error.filename = str(part)
                raise
            is_answer = isinstance(error, urllib.error.HTTPError)
            if is_answer:
                error.close()  # it holds the connection
            reason = error if is_answer else getattr(error, "reason", None) or error
            raise RequestError(
                f"cannot download {url}: {reason}; "
                f"get {name} by other means and put it into {folder}"
            ) from None
        yield part


def _receive(response: http.client.HTTPResponse, part: pathlib.Path, name: str, size: int) -> None:
    announced = int(response.headers.get("Content-Length") or 0)
    received = 0
    with (
        part.open("wb") as file,
        progress.bar(f"downloading {name}", announced or size, in_bytes=True) as advance,
    ):
        while chunk := response.read(_CHUNK):
            received += len(chunk)
            if received > MOST_BYTES:
                raise OSError(f"more than {MOST_BYTES} bytes")
            file.write(chunk)
            advance(len(chunk))
    if received < announced:
        raise OSError(f"the connection ended after {received} of {announced} bytes")
