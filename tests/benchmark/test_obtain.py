"""A dataset comes from the cache, a prepared folder, an archive or the network, in this order."""

import dataclasses
import errno
import functools
import gc
import http.server
import json
import shutil
import socket
import threading
import time

import archives
import numpy as np
import pytest

from zsharp_jax.benchmark.datasets import archive, cache, download, obtain
from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.errors import RequestError

NAMES = ("cifar10", "cifar100", "tiny_imagenet")


@pytest.fixture
def without_tfds(monkeypatch):
    monkeypatch.setattr(obtain, "EXTRA", ("no_such_package",))


pytestmark = pytest.mark.usefixtures("without_tfds")


def arrays_in(path, source):
    """Images and labels as the reader gives them."""
    arrays = {}
    with obtain.READERS[source.name](path) as contents:
        for split in cache.SPLITS:
            _, images, labels = zip(*contents.examples(split), strict=True)
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.stack(images), labels
    return arrays


@pytest.mark.parametrize("name", NAMES)
def test_from_an_archive_to_the_same_pixels_in_a_cache(tmp_path, data_dir, name):
    path, source = archives.write_official(name, tmp_path)
    found = obtain.obtain(source, Origin(data_dir, path))
    for array, expected in arrays_in(path, source).items():
        np.testing.assert_array_equal(found.arrays[array], expected)
    assert found.folder == data_dir / "zsharp_jax" / name
    assert found.meta["verified"] is True and found.meta["source"] == source.archive_name
    assert found.meta["archive_sha256"] == source.sha256 and found.meta["counts"] == source.counts
    path.unlink()
    assert obtain.obtain(source, Origin(data_dir)).meta == found.meta


def test_a_cache_is_made_once(official, data_dir, monkeypatch):
    path, source = official
    obtain.obtain(source, Origin(data_dir, path))
    monkeypatch.setattr(cache, "write", None)
    obtain.obtain(source, Origin(data_dir, path))
    obtain.obtain(source, Origin(data_dir))


def test_another_archive_that_is_given_takes_the_place_of_the_cache(official, data_dir, tmp_path):
    path, source = official
    first = obtain.obtain(source, Origin(data_dir, path)).meta
    other = archives.write_archive(
        tmp_path / "o.tar.gz", archives.whole_contents(records_per_file=3)
    )
    second = obtain.obtain(source, Origin(data_dir, other, verify=False)).meta
    assert second["counts"] == {"train": 15, "test": 3} and second["verified"] is False
    assert obtain.obtain(source, Origin(data_dir, path)).meta == first


def test_without_verify_another_sha256_will_do_and_is_told_later(official, data_dir):
    path, source = official
    source = dataclasses.replace(source, sha256="0" * 64)
    with pytest.raises(RequestError, match=r"is not the official one: its sha256 .*--no-verify"):
        obtain.obtain(source, Origin(data_dir, path))
    assert not data_dir.exists()
    meta = obtain.obtain(source, Origin(data_dir, path, verify=False)).meta
    assert meta["verified"] is False
    with pytest.raises(
        RequestError, match=r"cache .* was not made from the official archive: pass"
    ):
        obtain.obtain(source, Origin(data_dir))
    assert obtain.obtain(source, Origin(data_dir, verify=False)).meta == meta


def test_the_archive_in_the_manual_folder_is_found(official, data_dir):
    path, source = official
    folder = archive.manual_folder(data_dir)
    folder.mkdir(parents=True)
    path.rename(folder / source.archive_name)
    assert obtain.obtain(source, Origin(data_dir)).meta["verified"] is True


def test_a_cache_of_another_format_is_made_anew(official, data_dir):
    path, source = official
    found = obtain.obtain(source, Origin(data_dir, path))
    (found.folder / "meta.json").write_text(json.dumps({**found.meta, "format": 99}))
    with pytest.raises(RequestError, match=r"is of format 99, wanted 1, and cannot be made anew: "):
        obtain.obtain(source, Origin(data_dir))
    assert obtain.obtain(source, Origin(data_dir, path)).meta == found.meta


def test_without_tensorflow_datasets_the_extra_is_named(official, data_dir):
    _, source = official
    with pytest.raises(RequestError) as refused:
        obtain.obtain(source, Origin(data_dir))
    assert str(refused.value) == (
        'tensorflow-datasets is missing: pip install -e ".[data]" in a clone, or pass --archive '
        f"cifar-10-binary.tar.gz, which is found at {source.url}"
    )


def test_a_missing_archive_is_named_with_its_source(official, data_dir, tmp_path):
    _, source = official
    with pytest.raises(RequestError, match=r"no archive .*nowhere; the official one is at http"):
        obtain.obtain(source, Origin(data_dir, tmp_path / "nowhere"))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_must_be_a_time(timeout):
    with pytest.raises(RequestError, match=f"`timeout` must be finite and above 0, got {timeout}"):
        Origin(timeout=timeout)


def test_the_data_folder_is_that_of_tensorflow_datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert Origin().folder() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(Origin().folder()) == "/home/somebody/tensorflow_datasets"


@pytest.fixture
def server(tmp_path):
    """Serves the files in `tmp_path`; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def at(source, server):
    return dataclasses.replace(source, url=f"{server}/{source.archive_name}")


def left_in(data_dir):
    return [path.name for path in archive.manual_folder(data_dir).iterdir()]


@pytest.fixture
def with_network(monkeypatch):
    """As if tensorflow-datasets was there, whose folder alone would be asked for."""
    monkeypatch.setattr(obtain, "has_tensorflow_datasets", lambda: True)
    monkeypatch.setattr(obtain, "_prepared_folder", lambda *arguments: None)
    monkeypatch.setattr(obtain, "_through_tensorflow_datasets", lambda *arguments: arguments[2])


@pytest.mark.usefixtures("with_network")
class TestDownload:
    def test_what_is_downloaded_is_kept_and_read(self, official, data_dir, server, capsys):
        path, source = official
        found = obtain.obtain(at(source, server), Origin(data_dir))
        assert found.meta["verified"] is True
        assert left_in(data_dir) == [source.archive_name]
        kept = archive.manual_folder(data_dir) / source.archive_name
        assert kept.read_bytes() == path.read_bytes()
        assert "downloading cifar-10-binary.tar.gz" in capsys.readouterr().err

    def test_a_full_disk_is_not_taken_for_the_network(
        self, official, data_dir, server, monkeypatch
    ):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(download, "_receive", full)
        with pytest.raises(OSError, match=r"No space left.*cifar-10-binary"):
            obtain.obtain(at(official[1], server), Origin(data_dir))
        assert left_in(data_dir) == []

    def test_another_sha256_is_refused_and_nothing_is_kept(self, official, data_dir, server):
        source = dataclasses.replace(at(official[1], server), sha256="0" * 64)
        with pytest.raises(RequestError, match=r"what http.* gives is not the official archive"):
            obtain.obtain(source, Origin(data_dir))
        assert left_in(data_dir) == []

    def test_no_answer_is_told_with_address_file_and_folder(self, official, data_dir, server):
        path, source = official
        path.unlink()
        for address, reason in (
            (server, "HTTP Error 404: File not found"),
            ("http://127.0.0.1:9", "refused"),
        ):
            with pytest.raises(RequestError) as refused:
                obtain.obtain(at(source, address), Origin(data_dir))
            message = str(refused.value)
            assert message.startswith(f"cannot download {address}/cifar-10-binary.tar.gz: ")
            assert reason in message and message.endswith(
                f"; get cifar-10-binary.tar.gz by other means and put it into "
                f"{archive.manual_folder(data_dir)}"
            )
        assert left_in(data_dir) == []

    @pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # http.client's
    def test_silence_is_given_up_in_seconds(self, official, data_dir):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            started = time.monotonic()
            with pytest.raises(RequestError, match="timed out; get cifar-10"):
                obtain.obtain(at(official[1], address), Origin(data_dir, timeout=0.2))
            assert time.monotonic() - started < 2
        gc.collect()  # while the warning is let pass

    def test_a_connection_that_ends_early_is_told(self, official, data_dir):
        def answer(listening):
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\nhalf")

        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=answer, args=[listening])
            thread.start()
            source = at(official[1], f"http://127.0.0.1:{listening.getsockname()[1]}")
            with pytest.raises(RequestError, match="the connection ended after 4 of 99 bytes"):
                obtain.obtain(source, Origin(data_dir))
            thread.join()
        assert left_in(data_dir) == []

    def test_more_than_any_archive_has_is_not_kept(self, official, data_dir, server, monkeypatch):
        monkeypatch.setattr(download, "MOST_BYTES", 1000)
        with pytest.raises(RequestError, match="more than 1000 bytes"):
            obtain.obtain(at(official[1], server), Origin(data_dir))
        assert left_in(data_dir) == []


def test_the_archive_is_not_needed_any_more(official, data_dir):
    """Nor anything else of the data folder."""
    path, source = official
    obtain.obtain(source, Origin(data_dir, path))
    shutil.rmtree(data_dir / "downloads", ignore_errors=True)
    assert obtain.obtain(source, Origin(data_dir)).arrays["test_images"].shape[0] == 20
