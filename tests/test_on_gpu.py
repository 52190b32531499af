"""`benchmarks/on_gpu.py` works where there is no GPU either, in small."""

import json
import sys

import jax
import on_gpu
import pytest


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the script with options; returns its exit code, its file and what it has printed."""
    path = tmp_path / "found.json"
    cache = jax.config.jax_compilation_cache_dir

    def run_script(*options):
        monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--out", str(path), *options])
        with pytest.raises(SystemExit) as ended:
            on_gpu.main()
        found = json.loads(path.read_text())["parts"] if path.exists() else {}
        return int(ended.value.code), found, capsys.readouterr().out

    yield run_script
    jax.config.update("jax_compilation_cache_dir", cache)


@pytest.mark.slow
def test_it_goes_on_where_it_was_until_every_part_is_found(run, monkeypatch):
    code, found, printed = run("--minutes", "0")
    assert (code, found) == (0, {})
    assert "run the same command again" in printed

    code, found, _ = run("--minutes", "60", "--parts", "laws")
    assert code == 0
    assert [name for name, each in found["laws"].items() if "found" not in each] == []

    code, found, printed = run("--minutes", "60")
    assert code == 0
    assert "not done" not in printed
    assert len(found["laws"]) == 4
    (seconds,) = [each["found"]["seconds"] for each in found["steps"].values()]
    assert set(seconds) == {"two gradients", "sam", "zsharp"}
    assert all(len(turns) == 3 and min(turns) > 0 for turns in seconds.values())
    for each in found["filter"].values():
        assert {"in rows", "in place", "jnp.quantile", "jax.lax.top_k"} <= set(each["found"])

    monkeypatch.setattr(on_gpu.Findings, "_write", None)  # nothing is left to be written
    assert run("--minutes", "60")[0] == 0


def test_a_part_that_fails_is_told_and_tried_again(run, monkeypatch):
    def broken(largest):
        raise AssertionError(f"a mask of {largest} differs")

    monkeypatch.setattr(on_gpu.Work, "_law_of_step", lambda *_: on_gpu.Part("laws", "x", {}, len))
    monkeypatch.setattr(on_gpu.gpu_laws, "golden_numbers", lambda _: {})
    monkeypatch.setattr(on_gpu.gpu_laws, "memory_is_taken_over_and_nothing_compiled_again", dict)
    monkeypatch.setattr(on_gpu.gpu_laws, "mask_is_numpys", broken)
    code, found, printed = run("--parts", "laws")
    assert code == 1
    assert "a mask of 100 differs" in found["laws"]["mask"]["failed"]
    assert "a mask of 100 differs" in printed
    monkeypatch.setattr(on_gpu.gpu_laws, "mask_is_numpys", lambda largest: {"largest": largest})
    assert run("--parts", "laws")[0] == 0
