"""No test of the benchmark trains a large network, reaches the network, or sees the prepared
datasets of whoever runs it."""

import dataclasses

import pytest
from tiny import SMALL_RESNET

from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.models import MODELS


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
