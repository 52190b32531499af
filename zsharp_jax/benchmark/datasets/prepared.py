"""Folders that tensorflow-datasets has prepared: reading them, and making them.

A folder that is there is used as it is and never changed. One that was made here knows the digest
of the archive it was made from.
"""

import contextlib
import io
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from zsharp_jax.benchmark.datasets.archive import Archive
from zsharp_jax.benchmark.datasets.builders import BUILDERS, FromReader
from zsharp_jax.benchmark.datasets.catalog import Source
from zsharp_jax.benchmark.datasets.contents import Contents, Example, decode
from zsharp_jax.benchmark.errors import RequestError

_READ_AT_ONCE = 512
_ID = re.compile(rb"[a-z]+_(\d+)")  # tells the place in the archive


class Prepared:
    """A folder that TensorFlow is not needed to read.

    Attributes:
        folder: Where it lies.
        name: What it is, to a reader.
        archive_sha256: The digest of the archive it was made from; None where nobody knows.
        counts: How many images it has to train on and to test on.
    """

    def __init__(self, builder: FromReader) -> None:
        self._builder: Any = builder  # tensorflow-datasets is not typed
        self.folder = pathlib.Path(builder.data_path)
        self.name = f"tensorflow-datasets {builder.name} {builder.version}"
        metadata = builder.info.metadata or {}
        self.archive_sha256: str | None = metadata.get("archive_sha256")
        self._splits = {"train": "train", "test": builder.test_split}
        self.counts = {
            split: builder.info.splits[name].num_examples for split, name in self._splits.items()
        }

    def examples(self, split: str) -> Iterator[Example]:
        """All images of `train` or `test` with their label and their place in the archive.

        Raises:
            RequestError: If the folder is damaged.
        """
        shape = self._builder.source.image_shape
        decoders = {"image": tfds.decode.SkipDecoding()}  # else OpenCV may decode, and it differs
        try:
            rows = self._builder.as_data_source(split=self._splits[split], decoders=decoders)
            for first in range(0, len(rows), _READ_AT_ONCE):
                places = list(range(first, min(first + _READ_AT_ONCE, len(rows))))
                for row in rows.__getitems__(places):
                    place = _ID.fullmatch(row["id"])
                    if place is None:
                        raise ValueError(f"an id {row['id']!r}")
                    yield int(place[1]), decode(row["image"], shape), int(row["label"])
        except RequestError:
            raise
        except Exception as error:  # whatever array_record says
            reason = f"{type(error).__name__}: {error}"
            raise RequestError(f"the prepared folder {self.folder} is damaged: {reason}") from None


def place(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
    """Where the folder is, if there is one, be it readable or not."""
    return pathlib.Path(BUILDERS[source.name](data_dir=data_dir).data_path)


def find(source: Source, data_dir: pathlib.Path) -> Prepared | None:
    """The folder under `data_dir`; None where there is none, or one that needs TensorFlow."""
    try:
        builder: Any = BUILDERS[source.name](data_dir=data_dir)
        if not (builder.data_path.exists() and builder.is_prepared()):
            return None
        builder.as_data_source(split="train")
        return Prepared(builder)
    except NotImplementedError:
        # This is how `as_data_source` tells that no format of the folder has random access: only
        # TensorFlow reads tfrecord. For us there is no folder, and the archive is prepared.
        return None
    except Exception as error:  # whatever tensorflow-datasets says
        reason = f"{type(error).__name__}: {error}"
        folder = data_dir / BUILDERS[source.name].name
        raise RequestError(f"the prepared folder in {folder} is damaged: {reason}") from None


def make(
    source: Source,
    data_dir: pathlib.Path,
    contents: Contents,
    archive: Archive,
    advance: Callable[[int], None],
) -> Prepared:
    """Prepares the contents of an archive where no folder is.

    Args:
        source: The dataset.
        data_dir: Where to make the folder.
        contents: What the reader gives.
        archive: Where it comes from.
        advance: Is called with the number of images that are newly taken.

    Returns:
        The new folder.
    """
    builder = BUILDERS[source.name](data_dir=data_dir, file_format="array_record")
    builder.feed(contents, archive, advance)
    config = tfds.download.DownloadConfig(manual_dir=archive.path.parent, try_download_gcs=False)
    tfds.disable_progress_bar()  # for ours
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)
    return Prepared(BUILDERS[source.name](data_dir=data_dir))
