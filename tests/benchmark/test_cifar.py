"""A CIFAR archive is read as it is laid out, and refused for whatever is wrong with it."""

import gzip
import pathlib
import tarfile

import archives
import numpy as np
import pytest

from zsharp_jax.benchmark.datasets import cifar
from zsharp_jax.benchmark.datasets.cifar import CIFAR10, CIFAR100
from zsharp_jax.benchmark.errors import RequestError

FOLDER = CIFAR10.folder


@pytest.fixture
def contents():
    return archives.whole_contents()


def read_archive(path, layout=CIFAR10):
    with cifar.opened(path, layout) as contents:
        return contents


def read(tmp_path, contents, layout=CIFAR10, **kwargs):
    return read_archive(archives.write_archive(tmp_path / "a.tar.gz", contents, **kwargs), layout)


@pytest.mark.parametrize(
    "layout, file, first", [(CIFAR10, "data_batch_2.bin", 20), (CIFAR100, "train.bin", 0)]
)
def test_labels_and_pixels_are_where_they_belong(tmp_path, layout, file, first):
    contents = archives.whole_contents(layout)
    read_contents = read(tmp_path, contents, layout)
    assert read_contents.counts == {"train": 20 * len(layout.train_files), "test": 20}
    images, labels = read_contents.splits["train"]
    length = len(labels) + 3072
    record = np.frombuffer(contents[f"{layout.folder}/{file}"], np.uint8)[length : 2 * length]
    assert [values[first + 1] for values in labels.values()] == list(record[: len(labels)])
    assert list(labels) == (["label"] if layout is CIFAR10 else ["coarse_label", "label"])
    for row, column, channel in [(0, 0, 0), (3, 5, 1), (31, 30, 2)]:
        pixel = record[len(labels) + 1024 * channel + 32 * row + column]
        assert images[first + 1][row, column, channel] == pixel
    assert read_contents.names["label"][3] == "label_3"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, contents, share):
    path = archives.write_archive(tmp_path / "a.tar.gz", contents)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RequestError, match=r"is truncated or damaged|lacks"):
        read_archive(path)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(RequestError, match="truncated or damaged"):
        read_archive(path)


@pytest.mark.parametrize(
    "name", ["../evil.bin", "/etc/evil", f"{FOLDER}/../../evil.bin", "other/data_batch_1.bin"]
)
def test_members_outside_the_folder_are_refused_by_name(tmp_path, contents, name):
    with pytest.raises(RequestError, match=r"evil|other/data_batch_1"):
        read(tmp_path, {**contents, name: b"x"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_links_are_refused(tmp_path, contents):
    links = [(f"{FOLDER}/data_batch_1.bin", "/etc/passwd")]
    with pytest.raises(RequestError, match=r"data_batch_1.bin', which is no file in"):
        read(tmp_path, contents, links=links)


def test_a_missing_file_is_named(tmp_path, contents):
    del contents[f"{FOLDER}/data_batch_3.bin"]
    with pytest.raises(RequestError, match=r"lacks data_batch_3.bin"):
        read(tmp_path, contents)


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"x" * 3074])
def test_a_file_that_is_no_number_of_records_is_refused(tmp_path, contents, content):
    contents[f"{FOLDER}/test_batch.bin"] = content
    with pytest.raises(RequestError, match="not a number of records of 3073"):
        read(tmp_path, contents)


def test_a_file_of_absurd_size_is_refused_unread(tmp_path, contents):
    contents[f"{FOLDER}/data_batch_1.bin"] = bytes(10_001 * 3073)
    with pytest.raises(RequestError, match="30733073 bytes, wanted at most 30730000"):
        read(tmp_path, contents)


@pytest.mark.parametrize("wanted", [True, False])
def test_an_archive_that_unpacks_to_far_too_much_is_refused(
    tmp_path, contents, monkeypatch, wanted
):
    monkeypatch.setattr(cifar, "MOST_BYTES", 2**20)
    path = archives.write_archive(tmp_path / "a.tar.gz", contents)
    if wanted:
        archives.write_archive(path, {**contents, f"{FOLDER}/readme.html": bytes(2**20)})
    else:  # behind the end of the archive
        path.write_bytes(path.read_bytes() + gzip.compress(bytes(2**20)))
    with pytest.raises(RequestError, match="unpacks to more than 1048576 bytes"):
        read_archive(path)


def test_a_label_beyond_the_classes_is_refused(tmp_path, contents):
    contents[f"{FOLDER}/test_batch.bin"] = bytes([10]) + bytes(3072)
    with pytest.raises(RequestError, match="a label of 10, wanted 0 to 9"):
        read(tmp_path, contents)
    contents = archives.whole_contents(CIFAR100)
    contents[f"{CIFAR100.folder}/test.bin"] = bytes([20, 0]) + bytes(3072)
    with pytest.raises(RequestError, match="a coarse label of 20, wanted 0 to 19"):
        read(tmp_path, contents, CIFAR100)


def test_a_byte_that_the_checksum_belies_is_refused(tmp_path, contents):
    path = archives.write_archive(tmp_path / "a.tar.gz", contents)
    whole = bytearray(path.read_bytes())
    whole[-6] ^= 1  # in the CRC of the gzip trailer
    path.write_bytes(whole)
    with pytest.raises(RequestError, match="truncated or damaged: CRC"):
        read_archive(path)


def test_a_file_of_the_right_name_in_a_folder_below_is_not_taken(tmp_path, contents):
    name = f"{FOLDER}/data_batch_1.bin"
    contents[f"{FOLDER}/below/data_batch_1.bin"] = contents.pop(name)
    with pytest.raises(RequestError, match=r"lacks data_batch_1.bin"):
        read(tmp_path, contents)


def test_a_file_that_comes_twice_is_refused(tmp_path, contents):
    again = {f"{FOLDER}/./data_batch_1.bin": contents[f"{FOLDER}/data_batch_2.bin"]}
    with pytest.raises(RequestError, match=r"data_batch_1.bin' twice"):
        read(tmp_path, contents | again)


def test_a_header_that_makes_no_sense_is_refused(tmp_path, contents):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(f"{FOLDER}/data_batch_1.bin")
        member.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.size": "abc",
            "GNU.sparse.map": "x",
        }
        archive.addfile(member)
    with pytest.raises(RequestError, match="is damaged"):
        read_archive(path)


def test_a_path_that_no_file_can_have_is_refused():
    with pytest.raises(RequestError, match="cannot read archive"):
        read_archive(pathlib.Path("a" * 300))
