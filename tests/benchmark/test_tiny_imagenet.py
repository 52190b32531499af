"""A Tiny-ImageNet zip is read as it is laid out, and refused for whatever is wrong with it."""

import io
import stat
import struct
import zipfile

import archives
import numpy as np
import PIL.Image
import pytest

from zsharp_jax.benchmark.datasets import tiny_imagenet as tiny
from zsharp_jax.benchmark.errors import RequestError

FOLDER = tiny.FOLDER
FIRST = f"{FOLDER}/train/n00000003/images/n00000003_0.JPEG"


@pytest.fixture
def contents():
    return archives.zip_contents()


def read(tmp_path, contents, more=()):
    """All images of the zip."""
    path = archives.write_zip(tmp_path / "a.zip", contents, more)
    with tiny.opened(path) as opened:
        return {split: list(opened.examples(split)) for split in ("train", "test")}


def test_images_and_labels_come_in_the_order_of_the_zip(tmp_path, contents):
    examples = read(tmp_path, contents)
    assert [label for _, _, label in examples["train"]] == [0] * 4 + [1] * 4 + [2] * 4
    # The zip has val_4 first; its class is that of the annotations, in the order of wnids.txt.
    assert [label for _, _, label in examples["test"]] == [4 % 3, 3 % 3, 2, 1, 0]
    names = [f"{FOLDER}/val/images/val_{number}.JPEG" for number in (4, 3, 2, 1, 0)]
    for (place, image, _), name in zip(examples["test"], names, strict=True):
        expected = PIL.Image.open(io.BytesIO(contents[name])).convert("RGB")
        np.testing.assert_array_equal(image, np.asarray(expected))
        assert name == names[place]


def test_a_grey_image_becomes_three_equal_channels(tmp_path, contents):
    assert PIL.Image.open(io.BytesIO(contents[FIRST])).mode == "L"
    _, image, _ = read(tmp_path, contents)["train"][0]
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.std() > 0
    np.testing.assert_array_equal(image, np.repeat(image[:, :, :1], 3, axis=2))


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "name",
    ["../evil.JPEG", "/etc/evil", f"{FOLDER}/../evil", "other/evil", f"{FOLDER}/val\\evil"],
)
def test_members_outside_the_folder_are_refused_by_name(tmp_path, contents, name):
    with pytest.raises(RequestError, match=r"evil.*which is no file in"):
        read(tmp_path, contents, [(name, b"x")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_links_are_refused(tmp_path, contents):
    with pytest.raises(RequestError, match=r"val_9.JPEG', which is no file in"):
        read(tmp_path, contents, [(link(f"{FOLDER}/val/images/val_9.JPEG"), "/etc/passwd")])


@pytest.mark.parametrize("name", [FIRST, FIRST.replace("/train/", "/./train/")])
def test_a_file_that_comes_twice_is_refused(tmp_path, contents, name):
    with pytest.raises(RequestError, match=r"n00000003_0.JPEG' twice"):
        read(tmp_path, contents, [(name, contents[FIRST])])


@pytest.mark.parametrize(
    "image, message",
    [
        (archives.jpeg(np.random.default_rng(0), size=(64, 65)), "an image of 64 x 65 pixels; wan"),
        (archives.jpeg(np.random.default_rng(0))[:600], "an image that is damaged or none"),
        (b"", "an image that is damaged or none"),
        (b"GIF89a" + bytes(100), "an image that is damaged or none"),
        (bytes(2**20 + 1), "of 1048577 bytes, wanted at most 1048576"),
    ],
)
def test_what_is_no_image_of_the_right_size_is_refused(tmp_path, contents, image, message):
    with pytest.raises(RequestError, match=f"n00000003_0.JPEG'.*{message}"):
        read(tmp_path, {**contents, FIRST: image})


def test_an_image_that_claims_absurd_sizes_is_refused_undecoded(tmp_path, contents):
    image = contents[FIRST]
    at = image.index(b"\xff\xc0") + 5  # height and width in the frame header
    contents[FIRST] = image[:at] + struct.pack(">HH", 65500, 65500) + image[at + 4 :]
    with pytest.raises(RequestError, match="an image that is of absurd size"):
        read(tmp_path, contents)


def test_a_zip_that_unpacks_to_far_too_much_is_refused(tmp_path, contents, monkeypatch):
    monkeypatch.setattr(tiny, "MOST_BYTES_IN_ALL", 2**20)
    with pytest.raises(RequestError, match="unpacks to more than 1048576 bytes"):
        read(tmp_path, contents, [(f"{FOLDER}/words", bytes(2**20))])
    monkeypatch.setattr(tiny, "MOST_MEMBERS", 10)
    with pytest.raises(RequestError, match="more than 10 files"):
        read(tmp_path, contents)


def test_a_header_that_lies_about_the_size_is_refused(tmp_path, contents):
    """What is unpacked ends at the size that the list of files gave, and the checksum tells."""
    path = archives.write_zip(tmp_path / "a.zip", {**contents, FIRST: bytes(2**20)})
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(FIRST.encode()) - 46
    assert whole[entry : entry + 4] == b"PK\x01\x02"
    whole[entry + 24 : entry + 28] = struct.pack("<I", 100)
    path.write_bytes(whole)
    with tiny.opened(path) as opened, pytest.raises(RequestError, match="Bad CRC-32"):
        list(opened.examples("train"))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_zip_is_refused(tmp_path, contents, share):
    path = archives.write_zip(tmp_path / "a.zip", contents)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RequestError, match="truncated or damaged"), tiny.opened(path):
        pass


def test_a_byte_that_the_checksum_belies_is_refused(tmp_path, contents):
    path = archives.write_zip(tmp_path / "a.zip", contents)
    whole = path.read_bytes()
    at = whole.index(FIRST.encode()) + len(FIRST) + 300
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with tiny.opened(path) as opened, pytest.raises(RequestError, match="truncated or damaged"):
        list(opened.examples("train"))


def test_an_encrypted_image_is_refused(tmp_path, contents):
    path = archives.write_zip(tmp_path / "a.zip", contents)
    whole = bytearray(path.read_bytes())
    whole[whole.index(FIRST.encode()) - 30 + 6] |= 1  # the flag in the header of the file
    whole[whole.rindex(FIRST.encode()) - 46 + 8] |= 1  # and in the list of files
    path.write_bytes(whole)
    with tiny.opened(path) as opened, pytest.raises(RequestError, match="cannot read archive"):
        list(opened.examples("train"))


ANNOTATIONS = f"{FOLDER}/val/val_annotations.txt"


@pytest.mark.parametrize(
    "name, content, message",
    [
        (f"{FOLDER}/wnids.txt", None, "lacks wnids.txt"),
        (f"{FOLDER}/wnids.txt", b"", "lists 0 classes in wnids.txt, wanted 1 to 200"),
        (f"{FOLDER}/wnids.txt", b"a\na\n", "lists 2 classes in wnids.txt, wanted 1 to 200 diff"),
        (f"{FOLDER}/wnids.txt", b"\n".join(b"n%d" % n for n in range(201)), "lists 201 classes"),
        (f"{FOLDER}/wnids.txt", b"n00000001\nn00000002\n", "class 'n00000003', which is not in"),
        (ANNOTATIONS, None, "lacks val/val_annotations.txt"),
        (ANNOTATIONS, b"val_0.JPEG\n", "the line 'val_0.JPEG' in val_annotations.txt"),
        (ANNOTATIONS, b"val_0.JPEG\tn00000009\n", "class 'n00000009', which is not in"),
        (ANNOTATIONS, b"val_0.JPEG\tn00000001\n" * 2, "wanted each image once"),
        (ANNOTATIONS, b"val_0.JPEG\tn00000001\n", "val_4.JPEG' without a label"),
        (f"{FOLDER}/val/images/val_2.JPEG", None, "lacks val/images/val_2.JPEG"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(tmp_path, contents, name, content, message):
    del contents[name]
    if content is not None:
        contents[name] = content
    with pytest.raises(RequestError, match=message):
        read(tmp_path, contents)


def test_a_folder_without_images_is_refused(tmp_path, contents, monkeypatch):
    without = {name: content for name, content in contents.items() if "/train/" not in name}
    with pytest.raises(RequestError, match="holds 0 images in train/, wanted 1 to 100000"):
        read(tmp_path, without)
    monkeypatch.setitem(tiny.MOST_IMAGES, "val", 4)
    with pytest.raises(RequestError, match="holds 5 images in val/, wanted 1 to 4"):
        read(tmp_path, contents)
