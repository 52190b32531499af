"""A training of some hundred steps stays as it is; `benchmarks/soak.py` takes 20,000."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_neither_arrays_nor_programs_nor_memory_grow():
    spec = importlib.util.spec_from_file_location("soak", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    early, late = module.soak(steps=400)
    assert early.compilations > 0 and early.arrays > 0
    assert late[1:] == early[1:]
    assert late.megabytes - early.megabytes < 20
