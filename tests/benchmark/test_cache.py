"""A cache gives back what was written, or says in one line why it cannot."""

import errno
import json
import subprocess
import sys
import threading

import archives
import numpy as np
import pytest

from zsharp_jax.benchmark.datasets import cache, cifar
from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.benchmark.datasets.contents import Contents, Split
from zsharp_jax.benchmark.errors import RequestError

SOURCE = SOURCES["cifar10"]
PROVENANCE = cache.Provenance("a.tar.gz", "ab" * 32, verified=False)


def contents_of(count=6, **changes):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    split = Split(images, {"label": np.arange(count, dtype=np.int32)})
    return Contents({"train": split, "test": split, **changes}, {})


def write(folder, contents):
    with cache.alone(folder):
        return cache.write(folder, SOURCE, contents, PROVENANCE, lambda count: None)


@pytest.fixture
def folder(tmp_path):
    return cache.folder_of(SOURCE, tmp_path)


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left.*train_images\.npy"):
        write(folder, contents_of())
    assert not list(folder.parent.glob("*.npy")) and not folder.exists()


def test_what_was_written_is_read_memory_mapped(folder):
    contents = contents_of()
    write(folder, contents)
    found = cache.read(folder, SOURCE)
    assert list(found.arrays) == list(cache.ARRAYS)
    assert all(isinstance(array, np.memmap) for array in found.arrays.values())
    np.testing.assert_array_equal(found.arrays["train_images"], contents.splits["train"].images)
    np.testing.assert_array_equal(found.arrays["test_labels"], np.arange(6))
    assert found.meta["format"] == cache.FORMAT and found.meta["counts"] == {"train": 6, "test": 6}
    assert found.meta["archive_sha256"] == "ab" * 32 and found.meta["verified"] is False


def test_images_may_come_in_any_order(folder):
    class Shuffled(Contents):
        def examples(self, split):
            return reversed(list(super().examples(split)))

    arrays = write(folder, Shuffled(*contents_of())).arrays
    expected = contents_of().splits["train"].images
    np.testing.assert_array_equal(arrays["train_images"], expected)
    np.testing.assert_array_equal(arrays["train_labels"], np.arange(6))


class Examples(Contents):
    """Gives the examples of `train` that it is told."""

    given = ()

    def examples(self, split):
        return self.given if split == "train" else super().examples(split)


IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "examples, message",
    [
        ([(n, IMAGE, 0) for n in range(5)], "train lacks 1 of its 6 images"),
        ([(n % 5, IMAGE, 0) for n in range(6)], "train image 0 of 6 is there twice"),
        ([(6, IMAGE, 0)], "train image 6 of 6 is there twice or one too many"),
        ([(0, IMAGE, 10)], "train image 0 has the label 10, wanted 0 to 9"),
        ([(0, IMAGE, -1)], "train image 0 has the label -1, wanted 0 to 9"),
        ([(0, IMAGE[:31], 0)], "train image 0 is uint8 of shape"),
        ([(0, IMAGE.astype(float), 0)], "train image 0 is float64 of shape"),
    ],
)
def test_what_does_not_fit_the_dataset_is_refused_and_nothing_is_left(folder, examples, message):
    contents = Examples(*contents_of())
    contents.given = examples
    with pytest.raises(RequestError, match=message):
        write(folder, contents)
    assert [path.name for path in folder.parent.iterdir()] == [".cifar10.lock"]


def change_meta(folder, **changes):
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(folder):
    np.save(folder / "train_labels.npy", np.array([print] * 6, object), allow_pickle=True)


def truncated(folder):
    path = folder / "test_images.npy"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: change_meta(folder, format=2), "is of format 2, wanted 1"),
        (lambda folder: change_meta(folder, dataset="cifar100"), "damaged: meta.json does not"),
        (lambda folder: change_meta(folder, sha256="ab"), "damaged: meta.json has no digest"),
        (lambda folder: change_meta(folder, counts={"train": 5, "test": 6}), "train_images.npy is"),
        (lambda folder: change_meta(folder, counts=None), "is damaged"),
        (lambda folder: (folder / "meta.json").write_text("[1]"), "is damaged"),
        (lambda folder: (folder / "meta.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "meta.json").unlink(), "lacks a file"),
        (lambda folder: (folder / "test_labels.npy").unlink(), "lacks a file"),
        (lambda folder: (folder / "test_labels.npy").write_bytes(b""), "is damaged"),
        (lambda folder: np.save(folder / "test_labels.npy", np.zeros(6)), "test_labels.npy is not"),
        (truncated, "is damaged"),
        (pickled, "is damaged"),
    ],
)
def test_a_cache_that_cannot_be_used_says_why(folder, damage, message):
    write(folder, contents_of())
    damage(folder)
    with pytest.raises(cache.UnusableError, match=message):
        cache.read(folder, SOURCE)
    write(folder, contents_of())  # in its place
    cache.read(folder, SOURCE)


def test_no_cache_is_no_cache(folder):
    with pytest.raises(cache.UnusableError, match="there is no cache"):
        cache.read(folder, SOURCE)


KILLED = """
import os, pathlib, sys
sys.path.insert(0, {tests!r})
import test_cache
from zsharp_jax.benchmark.datasets import cache
class Killed(test_cache.Contents):
    def examples(self, split):
        for place, image, label in super().examples(split):
            if split == "test" and place == 3:
                os._exit(9)
            yield place, image, label
test_cache.write(pathlib.Path({folder!r}), Killed(*test_cache.contents_of()))
"""


def test_half_a_cache_is_never_seen_and_cleared_away(folder, request):
    code = KILLED.format(tests=str(request.path.parent), folder=str(folder))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(list(folder.parent.glob(".cifar10.making.*"))) == 1
    with pytest.raises(cache.UnusableError, match="there is no cache"):
        cache.read(folder, SOURCE)
    write(folder, contents_of())
    assert {path.name for path in folder.parent.iterdir()} == {"cifar10", ".cifar10.lock"}


def test_an_old_cache_stays_until_the_new_one_is_whole(folder):
    before = write(folder, contents_of(5)).meta
    contents = Examples(*contents_of())
    contents.given = [(0, IMAGE, 10)]
    with pytest.raises(RequestError):
        write(folder, contents)
    assert cache.read(folder, SOURCE).meta == before


def test_only_one_at_a_time_makes_a_cache(folder):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with cache.alone(folder):
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(10)
    second = threading.Thread(target=lambda: write(folder, contents_of()))
    second.start()
    second.join(0.2)
    assert second.is_alive() and not folder.exists()
    leave.set()
    second.join(10)
    holder.join(10)
    cache.read(folder, SOURCE)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    folder = cache.folder_of(SOURCE, tmp_path / "file")
    with (
        pytest.raises(RequestError, match=r"cannot write to --data-dir, .*Not a directory"),
        cache.alone(folder),
    ):
        pass


def test_numpy_alone_reads_a_cache(tmp_path):
    """On a machine that has neither tensorflow-datasets nor Pillow."""
    path = archives.write_archive(tmp_path / "a.tar.gz", archives.whole_contents())
    folder = cache.folder_of(SOURCE, tmp_path)
    with cifar.opened(path, cifar.CIFAR10) as contents:
        sha256 = write(folder, contents).meta["sha256"]
    code = (
        "import sys\n"
        "for name in ('tensorflow_datasets', 'array_record', 'PIL', 'tensorflow'):\n"
        "    sys.modules[name] = None\n"
        "from zsharp_jax.benchmark.datasets import cache\n"
        "from zsharp_jax.benchmark.datasets.catalog import SOURCES\n"
        "import pathlib\n"
        f"found = cache.read(pathlib.Path({str(folder)!r}), SOURCES['cifar10'])\n"
        "print(found.meta['sha256'], found.arrays['train_images'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{sha256} (100, 32, 32, 3)"
