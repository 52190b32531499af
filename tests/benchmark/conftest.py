"""No test reaches the network, or the prepared datasets of whoever runs it."""

import dataclasses

import pytest

from zsharp_jax.benchmark.datasets.catalog import SOURCES


@pytest.fixture(autouse=True)
def _of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    for name, source in SOURCES.items():
        nowhere = dataclasses.replace(source, url=f"http://127.0.0.1:9/{source.archive_name}")
        monkeypatch.setitem(SOURCES, name, nowhere)
