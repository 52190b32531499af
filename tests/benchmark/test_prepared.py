"""What is prepared is read by tensorflow-datasets under the stock name, and read back from it."""

import dataclasses
import re
import shutil
import subprocess
import sys

import archives
import numpy as np
import pytest

pytest.importorskip("array_record")  # of the extra `data`, as are these
pytest.importorskip("importlib_resources")
pytest.importorskip("tensorflow_datasets")

import tensorflow_datasets as tfds

from zsharp_jax.benchmark.datasets import archive, cache, obtain, prepared
from zsharp_jax.benchmark.datasets.builders import BUILDERS
from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.errors import RequestError

STOCK_NAMES = {"cifar10": "cifar10", "cifar100": "cifar100", "tiny_imagenet": "tiny_imagenet_200"}
TEST_SPLITS = {"cifar10": "test", "cifar100": "test", "tiny_imagenet": "validation"}


@dataclasses.dataclass
class Case:
    """A dataset that was prepared from an archive."""

    path: object
    source: object
    data_dir: object
    found: cache.Cache


@pytest.fixture(scope="module", params=STOCK_NAMES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    path, source = archives.write_official(request.param, folder)
    return Case(path, source, folder / "data", obtain.obtain(source, Origin(folder / "data", path)))


def test_the_stock_name_finds_the_same_pixels_and_labels(case):
    for split, name in (("train", "train"), ("test", TEST_SPLITS[case.source.name])):
        rows = tfds.data_source(
            STOCK_NAMES[case.source.name], data_dir=case.data_dir, split=name, download=False
        )
        assert len(rows) == case.source.counts[split]
        places = sorted(range(len(rows)), key=lambda index: rows[index]["id"])
        images, labels = case.found.arrays[f"{split}_images"], case.found.arrays[f"{split}_labels"]
        for place, index in enumerate(places):
            assert rows[index]["id"] == f"{name}_{place:05d}".encode()
            np.testing.assert_array_equal(rows[index]["image"], images[place])
            assert rows[index]["label"] == labels[place]


def test_the_cache_is_that_of_the_archive_alone(case, tmp_path, monkeypatch):
    monkeypatch.setattr(obtain, "EXTRA", ("no_such_package",))
    alone = obtain.obtain(case.source, Origin(tmp_path / "data", case.path))
    assert alone.meta == case.found.meta
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["zsharp_jax"]


def test_name_version_features_and_address_are_the_stock_ones(case, tmp_path):
    ours = BUILDERS[case.source.name](data_dir=case.data_dir)
    if case.source.name == "tiny_imagenet":
        stock = tfds.builder("tiny_imagenet_200", data_dir=tmp_path)
    else:
        stock = tfds.builder(case.source.name, data_dir=tmp_path)
        url = stock._cifar_info.url
        assert url.endswith(f"/{case.source.archive_name}")
    assert (ours.name, ours.version) == (stock.name, stock.version)
    assert ours.info.features.to_json() == stock.info.features.to_json()
    assert ours.info.download_size == case.path.stat().st_size


def test_the_catalogue_agrees_with_that_of_tensorflow_datasets():
    from zsharp_jax.benchmark.datasets import catalog

    for name in ("cifar10", "cifar100"):
        source = BUILDERS[name].source  # as in the catalogue, whatever the tests make of it
        ((url, stock),) = tfds.builder_cls(name).url_infos.items()
        assert source is not catalog.SOURCES[name] and source.url == url
        assert (source.sha256, source.size) == (stock.checksum, stock.size)
        assert source.archive_name == stock.filename


def test_labels_keep_their_names(case):
    features = BUILDERS[case.source.name](data_dir=case.data_dir).info.features
    if case.source.name == "cifar100":
        assert features["coarse_label"].int2str(19) == "coarse_label_19"
    if case.source.name != "tiny_imagenet":  # whose small archive has fewer classes
        assert features["label"].int2str(3) == "label_3"


def test_jpegs_are_stored_untouched(tmp_path):
    path, source = archives.write_official("tiny_imagenet", tmp_path)
    obtain.obtain(source, Origin(tmp_path / "data", path))
    rows = tfds.data_source(
        "tiny_imagenet_200", data_dir=tmp_path / "data", split="train", download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )  # fmt: skip
    stored = {row["image"] for row in rows}
    contents = archives.zip_contents()
    assert stored == {contents[name] for name in contents if "/train/" in name and "JPEG" in name}


def folder_without_cache(case, tmp_path):
    """A data folder that has what tensorflow-datasets has prepared, and nothing else."""
    data_dir, name = tmp_path / "data", STOCK_NAMES[case.source.name]
    data_dir.mkdir()
    (data_dir / name).symlink_to(case.data_dir / name)
    return data_dir


def test_a_prepared_folder_is_used_as_it_is(case, tmp_path):
    data_dir = folder_without_cache(case, tmp_path)
    found = obtain.obtain(case.source, Origin(data_dir))
    assert found.meta["sha256"] == case.found.meta["sha256"] and found.meta["verified"] is True
    assert found.meta["source"].startswith("tensorflow-datasets ")


def test_a_prepared_folder_of_another_archive_is_refused_without_no_verify(case, tmp_path):
    data_dir = folder_without_cache(case, tmp_path)
    source = dataclasses.replace(case.source, sha256="0" * 64)
    with pytest.raises(
        RequestError, match=r"the prepared folder .* was not made from the official"
    ):
        obtain.obtain(source, Origin(data_dir))
    assert obtain.obtain(source, Origin(data_dir, verify=False)).meta["verified"] is False


def forget_archive(data_dir):
    """As if another program had prepared the folder."""
    for path in data_dir.glob("*/*/metadata.json"):
        path.unlink()


def test_a_folder_that_others_have_prepared_must_have_all_images(official, data_dir):
    path, source = official
    found = obtain.obtain(source, Origin(data_dir, path))
    forget_archive(data_dir)
    (found.folder / "meta.json").unlink()
    meta = obtain.obtain(source, Origin(data_dir)).meta
    assert (meta["archive_sha256"], meta["verified"]) == (None, True)
    (found.folder / "meta.json").unlink()
    more = dataclasses.replace(source, counts={"train": 101, "test": 20})
    with pytest.raises(
        RequestError, match=r"the prepared folder .* was not made from the official"
    ):
        obtain.obtain(more, Origin(data_dir))


def test_a_given_archive_passes_a_folder_of_another_one(official, data_dir, tmp_path):
    path, source = official
    other = archives.write_archive(
        tmp_path / "o.tar.gz", archives.whole_contents(records_per_file=3)
    )
    obtain.obtain(source, Origin(data_dir, other, verify=False))
    meta = obtain.obtain(source, Origin(data_dir, path)).meta
    assert (meta["source"], meta["counts"]["train"]) == ("cifar-10-binary.tar.gz", 100)
    rows = tfds.data_source("cifar10", data_dir=data_dir, split="train", download=False)
    assert len(rows) == 15  # what was there is not changed


def damage(data_dir):
    for path in data_dir.glob("cifar10/*/*.array_record*"):
        path.write_bytes(bytes(100))


def test_a_damaged_folder_is_told_and_does_no_harm_beside_an_archive(official, data_dir, tmp_path):
    path, source = official
    found = obtain.obtain(source, Origin(data_dir, path))
    damage(data_dir)
    (found.folder / "meta.json").unlink()
    with pytest.raises(RequestError, match=r"the prepared folder .* is damaged: "):
        obtain.obtain(source, Origin(data_dir))


def test_a_folder_that_needs_tensorflow_is_passed(official, data_dir):
    path, source = official
    obtain.obtain(source, Origin(data_dir, path))
    (info,) = data_dir.glob("cifar10/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert prepared.place(source, data_dir).exists() and prepared.find(source, data_dir) is None


def test_where_nothing_else_is_there_such_a_folder_is_named(official, data_dir, monkeypatch):
    path, source = official
    found = obtain.obtain(source, Origin(data_dir, path))
    (info,) = data_dir.glob("cifar10/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    (found.folder / "meta.json").unlink()
    shutil.rmtree(data_dir / "downloads", ignore_errors=True)

    def no_network(*arguments):
        raise RequestError("cannot fetch it")

    monkeypatch.setattr(obtain.archives, "fetch", no_network)
    told = f"the prepared folder {info.parent} is not whole, or only TensorFlow can read its format"
    with pytest.raises(RequestError, match=f"{re.escape(told)}: cannot fetch it$"):
        obtain.obtain(source, Origin(data_dir))


def test_an_archive_that_is_refused_leaves_no_folder(data_dir, tmp_path):
    contents = archives.zip_contents()
    name = next(name for name in contents if name.endswith("n00000002_3.JPEG"))
    contents[name] = archives.jpeg(np.random.default_rng(0), size=(64, 65))
    path = archives.write_zip(tmp_path / "a.zip", contents)
    _, source = archives.write_official("tiny_imagenet", tmp_path)
    with pytest.raises(RequestError, match=r"n00000002_3.JPEG', an image of 64 x 65 pixels"):
        obtain.obtain(source, Origin(data_dir, path, verify=False))
    assert not list(data_dir.glob("tiny_imagenet_200/*"))
    assert {path.name for path in (data_dir / "zsharp_jax").iterdir()} == {".tiny_imagenet.lock"}


NO_TENSORFLOW = """
import pathlib, sys
from zsharp_jax.benchmark.datasets import catalog, obtain
origin = obtain.Origin(pathlib.Path({data_dir!r}), verify=False)
print(obtain.obtain(catalog.SOURCES["cifar10"], origin).meta["counts"])
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""


def test_tensorflow_is_never_imported(official, data_dir):
    path, source = official
    folder = archive.manual_folder(data_dir)
    folder.mkdir(parents=True)
    path.rename(folder / source.archive_name)
    code = NO_TENSORFLOW.format(data_dir=str(data_dir))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{'train': 100, 'test': 20}", done.stderr
    assert done.returncode == 0, done.stderr
    assert (data_dir / "cifar10").exists()
