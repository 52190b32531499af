"""No test of the benchmark trains a large network, reaches the network, or sees the prepared
datasets of whoever runs it."""

import contextlib
import dataclasses
import os
import pathlib
import re
import resource

import archives
import jax
import pytest
from tiny import SMALL_RESNET

from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.models import MODELS


@pytest.fixture(autouse=True, scope="session")
def _programs_compiled_once(tmp_path_factory):
    """Many tests and the commands that they start train the same small network."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    settings = {
        "jax_compilation_cache_dir": str(shared / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


def peak_kilobytes():
    """The most memory that this process has had, since `forget_peak` where the kernel can tell."""
    status = pathlib.Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak():
    with contextlib.suppress(OSError):  # Linux alone has it
        pathlib.Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture
def memory_stays():
    """Fails a test that takes more than 400 MB at any moment."""
    forget_peak()
    before = peak_kilobytes()
    yield
    assert peak_kilobytes() - before < 400 * 1024


@pytest.fixture
def official(tmp_path):
    """An archive, and the dataset whose official archive it is."""
    return archives.write_official("cifar10", tmp_path)


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture(autouse=True, scope="module")
def _small_resnet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet8", SMALL_RESNET)
        yield


@pytest.fixture(autouse=True)
def _of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    for name, source in SOURCES.items():
        nowhere = dataclasses.replace(source, url=f"http://127.0.0.1:9/{source.archive_name}")
        monkeypatch.setitem(SOURCES, name, nowhere)
