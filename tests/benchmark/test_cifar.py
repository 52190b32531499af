"""The archive is read as it is laid out, and refused for whatever is wrong with it."""

import hashlib
import pathlib
import tarfile

import archives
import numpy as np
import pytest

from zsharp_jax.benchmark import cifar
from zsharp_jax.benchmark.data import load
from zsharp_jax.benchmark.errors import RequestError


@pytest.fixture
def contents():
    return archives.whole_contents()


def read(tmp_path, contents, **kwargs):
    path = archives.write_archive(tmp_path / "archive.tar.gz", contents, **kwargs)
    return cifar.read_archive(path, verify=False)


def test_labels_and_pixels_are_where_they_belong(tmp_path, contents):
    arrays = read(tmp_path, contents)
    assert arrays["train_images"].shape == (100, 32, 32, 3)
    assert arrays["test_images"].shape == (20, 32, 32, 3)
    record = np.frombuffer(contents[f"{cifar.FOLDER}/data_batch_2.bin"], np.uint8)[:3073]
    assert arrays["train_labels"][20] == record[0]
    image = arrays["train_images"][20]
    for row, column, channel in [(0, 0, 0), (3, 5, 1), (31, 30, 2)]:
        assert image[row, column, channel] == record[1 + 1024 * channel + 32 * row + column]


def test_channel_statistics_are_exact(tmp_path, contents):
    path = archives.write_archive(tmp_path / "archive.tar.gz", contents)
    dataset = load("cifar10", path, verify=False)
    means, stds = dataset.channel_statistics()
    images = dataset.train_images.astype(np.float64)
    np.testing.assert_allclose(means, images.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(stds, images.std(axis=(0, 1, 2)), rtol=1e-6)


def test_a_missing_archive_is_named_with_its_source(tmp_path):
    with pytest.raises(RequestError, match=r"no archive .*nowhere.* found at https://"):
        cifar.read_archive(tmp_path / "nowhere.tar.gz")
    with pytest.raises(RequestError, match=r"cifar10 needs --archive cifar-10-binary.tar.gz"):
        load("cifar10", None, verify=True)


def test_another_sha256_is_refused_and_no_verify_is_named(tmp_path, contents, monkeypatch):
    path = archives.write_archive(tmp_path / "archive.tar.gz", contents)
    with pytest.raises(RequestError, match=r"is not the official one: its sha256 .*--no-verify"):
        cifar.read_archive(path)
    monkeypatch.setattr(cifar, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(cifar.read_archive(path)["train_images"]) == 100


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, contents, share):
    path = archives.write_archive(tmp_path / "archive.tar.gz", contents)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RequestError, match=r"is truncated or damaged|lacks"):
        cifar.read_archive(path, verify=False)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(RequestError, match="truncated or damaged"):
        cifar.read_archive(path, verify=False)


@pytest.mark.parametrize(
    "name", ["../evil.bin", "/etc/evil", f"{cifar.FOLDER}/../../evil.bin", "other/data_batch_1.bin"]
)
def test_members_outside_the_folder_are_refused_by_name(tmp_path, contents, name):
    with pytest.raises(RequestError, match=r"evil|other/data_batch_1"):
        read(tmp_path, {**contents, name: b"x"})
    assert [path.name for path in tmp_path.iterdir()] == ["archive.tar.gz"]


def test_links_are_refused(tmp_path, contents):
    links = [(f"{cifar.FOLDER}/data_batch_1.bin", "/etc/passwd")]
    with pytest.raises(RequestError, match=r"data_batch_1.bin', which is no file in"):
        read(tmp_path, contents, links=links)


def test_a_missing_file_is_named(tmp_path, contents):
    del contents[f"{cifar.FOLDER}/data_batch_3.bin"]
    with pytest.raises(RequestError, match=r"lacks data_batch_3.bin"):
        read(tmp_path, contents)


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"x" * 3074])
def test_a_file_that_is_no_number_of_records_is_refused(tmp_path, contents, content):
    contents[f"{cifar.FOLDER}/test_batch.bin"] = content
    with pytest.raises(RequestError, match="not a number of records of 3073"):
        read(tmp_path, contents)


def test_a_file_of_absurd_size_is_refused_unread(tmp_path, contents, monkeypatch):
    monkeypatch.setattr(cifar, "MOST_RECORDS", 19)
    with pytest.raises(RequestError, match="more than 19 records"):
        read(tmp_path, contents)


def test_a_label_beyond_nine_is_refused(tmp_path, contents):
    contents[f"{cifar.FOLDER}/test_batch.bin"] = bytes([10]) + bytes(3072)
    with pytest.raises(RequestError, match="a label of 10"):
        read(tmp_path, contents)


def test_a_byte_that_the_checksum_belies_is_refused(tmp_path, contents):
    path = archives.write_archive(tmp_path / "archive.tar.gz", contents)
    whole = bytearray(path.read_bytes())
    whole[-6] ^= 1  # in the CRC of the gzip trailer
    path.write_bytes(whole)
    with pytest.raises(RequestError, match="truncated or damaged: CRC"):
        cifar.read_archive(path, verify=False)


def test_a_file_of_the_right_name_in_a_folder_below_is_not_taken(tmp_path, contents):
    name = f"{cifar.FOLDER}/data_batch_1.bin"
    contents[f"{cifar.FOLDER}/below/data_batch_1.bin"] = contents.pop(name)
    with pytest.raises(RequestError, match=r"lacks data_batch_1.bin"):
        read(tmp_path, contents)


def test_a_file_that_comes_twice_is_refused(tmp_path, contents):
    again = {f"{cifar.FOLDER}/./data_batch_1.bin": contents[f"{cifar.FOLDER}/data_batch_2.bin"]}
    with pytest.raises(RequestError, match=r"data_batch_1.bin' twice"):
        read(tmp_path, contents | again)


def test_a_header_that_makes_no_sense_is_refused(tmp_path, contents):
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(f"{cifar.FOLDER}/data_batch_1.bin")
        member.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.size": "abc",
            "GNU.sparse.map": "x",
        }
        archive.addfile(member)
    with pytest.raises(RequestError, match="is damaged"):
        cifar.read_archive(path, verify=False)


def test_a_path_that_no_file_can_have_is_refused():
    with pytest.raises(RequestError, match="cannot read archive"):
        cifar.read_archive(pathlib.Path("a" * 300), verify=False)
