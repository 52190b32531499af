"""Archives and caches from anywhere: whatever their bytes, they are read or refused in a line.

Run files are treated alike in `test_runs.py`, checkpoints in `test_checkpoints.py`.
"""

import datetime
import gzip
import io
import json
import pathlib
import tarfile
import tempfile

import archives
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from mutations import examples, mutated

from zsharp_jax.benchmark.datasets import cache, cifar, obtain, tiny_imagenet
from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.errors import RequestError

pytestmark = pytest.mark.usefixtures("memory_stays")

MANY = hypothesis.settings(
    deadline=datetime.timedelta(seconds=20),
    max_examples=examples(60),
    suppress_health_check=list(hypothesis.HealthCheck),
)
SMALL = archives.whole_contents(records_per_file=1)


def tar_of(contents):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


TAR = tar_of(SMALL)
HEADERS = [at - 257 for at in range(257, len(TAR), 512) if TAR[at : at + 5] == b"ustar"]
TAR_GZ = gzip.compress(TAR, mtime=0)
IMAGES = archives.zip_contents()
JPEG = next(name for name in IMAGES if name.endswith(".JPEG"))
ZIP = archives.write_zip(io.BytesIO(), IMAGES).getvalue()
ENTRIES = [at for at in range(len(ZIP)) if ZIP[at : at + 2] == b"PK"]


def with_checksums(tar):
    """A tar whose headers are whole again, so that what they say is believed."""
    tar = bytearray(tar)
    for at in range(0, len(tar) - 511, 512):
        if tar[at + 257 : at + 262] == b"ustar":
            tar[at + 148 : at + 156] = b" " * 8
            tar[at + 148 : at + 155] = b"%06o\0" % sum(tar[at : at + 512])
    return bytes(tar)


def read_all(opened):
    """Reads all images; what is refused is refused in words."""
    try:
        with opened as contents:
            for split in ("train", "test"):
                for _, image, label in contents.examples(split):
                    assert image.dtype == np.uint8 and label >= 0
    except RequestError as error:
        assert 10 < len(str(error)) < 1000
        return False
    return True


def read_bytes(reader, content, name):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, name)
        path.write_bytes(content)
        is_read = read_all(reader(path))
        assert [each.name for each in pathlib.Path(folder).iterdir()] == [name]
    return is_read


def read_cifar(content):
    return read_bytes(obtain.READERS["cifar10"], content, "a.tar.gz")


def test_what_is_mutated_below_is_read_when_whole():
    assert read_cifar(TAR_GZ) and read_cifar(gzip.compress(with_checksums(TAR)))
    assert read_bytes(tiny_imagenet.opened, ZIP, "a.zip")


@MANY
@hypothesis.given(mutated(TAR_GZ))
def test_no_mutation_of_a_packed_archive_does_harm(content):
    read_cifar(content)


@MANY
@hypothesis.given(mutated(TAR, favourites=HEADERS))
def test_no_mutation_of_the_headers_within_does_harm(content):
    read_cifar(gzip.compress(with_checksums(content), 1))


FIELDS = {"name": 100, "mode": 8, "uid": 8, "gid": 8, "size": 12, "mtime": 12, "chksum": 8,
          "type": 1, "linkname": 100, "magic": 8, "uname": 32, "gname": 32, "major": 8,
          "minor": 8, "prefix": 155}  # fmt: skip
VALUES = strategies.binary(max_size=12) | strategies.sampled_from(
    [b"../../evil", b"/etc/evil", b"77777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"",
     b"1", b"2", b"5", b"6", b"7", b"L", b"K", b"S", b"x", b"g"]
)  # fmt: skip


@MANY
@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from(HEADERS), strategies.sampled_from([*FIELDS]), VALUES
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_field_of_a_header_does_harm(changes):
    tar, names = bytearray(TAR), list(FIELDS)
    for header, field, value in changes:
        at = header + sum(FIELDS[name] for name in names[: names.index(field)])
        size = FIELDS[field]
        tar[at : at + size] = value[:size].ljust(size, b"\0")
    read_cifar(gzip.compress(with_checksums(tar), 1))


@MANY
@hypothesis.given(mutated(ZIP, favourites=ENTRIES))
def test_no_mutation_of_a_zip_does_harm(content):
    read_bytes(tiny_imagenet.opened, content, "a.zip")


@MANY
@hypothesis.given(mutated(IMAGES[JPEG], favourites=range(0, 600, 32)))
def test_no_mutation_of_an_image_does_harm(content):
    with tempfile.TemporaryDirectory() as folder:
        path = archives.write_zip(pathlib.Path(folder, "a.zip"), {**IMAGES, JPEG: content})
        read_all(tiny_imagenet.opened(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder with a cache in it."""
    folder = tmp_path_factory.mktemp("made")
    archive = archives.write_archive(folder / "a.tar.gz", SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obtain, "has_tensorflow_datasets", lambda: False)
        obtain.obtain(SOURCES["cifar10"], Origin(folder, archive, verify=False))
    return folder


@MANY
@hypothesis.given(strategies.data())
def test_no_mutation_of_a_cache_does_harm(made, data):
    folder = cache.folder_of(SOURCES["cifar10"], made)
    path = folder / data.draw(strategies.sampled_from(sorted(p.name for p in folder.iterdir())))
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(mutated(whole)))
        arrays = cache.read(folder, SOURCES["cifar10"]).arrays
        assert {name: array.shape[0] for name, array in arrays.items()} == {
            "train_images": 5, "train_labels": 5, "test_images": 1, "test_labels": 1
        }  # fmt: skip
    except cache.UnusableError as error:
        assert len(str(error)) < 1000
    finally:
        path.write_bytes(whole)


def test_nothing_in_a_cache_is_unpickled(made):
    """An array of objects would be code that runs when it is loaded."""
    folder = cache.folder_of(SOURCES["cifar10"], made)
    path = folder / "train_labels.npy"
    whole = path.read_bytes()
    try:
        np.save(path, np.array([json.loads, None]), allow_pickle=True)
        with pytest.raises(cache.UnusableError, match=r"is damaged: .*[Oo]bject"):
            cache.read(folder, SOURCES["cifar10"])
    finally:
        path.write_bytes(whole)


def test_nothing_is_unpickled_anywhere():
    package = pathlib.Path(cifar.__file__).parents[2]
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert "pickle.load" not in text and "allow_pickle=True" not in text, path
