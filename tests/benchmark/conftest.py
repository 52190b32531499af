"""No test of the benchmark trains a large network, reaches the network, or sees the prepared
datasets of whoever runs it."""

import contextlib
import dataclasses
import pathlib
import re
import resource

import archives
import pytest
from tiny import OneConvolution

from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.benchmark.runs.methods import METHODS
from zsharp_jax.benchmark.training import program, session
from zsharp_jax.benchmark.training.tensors import tensors_of
from zsharp_jax.models import MODELS


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
def _small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet8", OneConvolution)
        tensors_of.cache_clear()
        yield
        tensors_of.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def _commands_share_programs():
    """Commands of a module that train alike take the program that the first of them has traced."""
    programs = {}

    def compile_once(settings, dataset, *at_once):
        alike = settings
        if not METHODS[settings.method].depends_on_length and settings.steps is None:
            alike = dataclasses.replace(settings, epochs=1)
        key = (alike, dataset.sha256(), at_once)
        if key not in programs:
            programs[key] = program.compile_program(settings, dataset, *at_once)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "compile_program", compile_once)
        yield


@pytest.fixture(autouse=True)
def _of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    for name, source in SOURCES.items():
        nowhere = dataclasses.replace(source, url=f"http://127.0.0.1:9/{source.archive_name}")
        monkeypatch.setitem(SOURCES, name, nowhere)
