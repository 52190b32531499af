"""`zsharp-bench study`: paired runs, seed by seed, at common lengths of ε, within a budget."""

import math

import pytest
from command import exit_code, records_in

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.reporting.study_files import STUDY_FILES
from zsharp_jax.benchmark.training import interrupts, session
from zsharp_jax.benchmark.training.budget import Budget
from zsharp_jax.benchmark.training.tensors import tensors_of


@pytest.fixture
def asked(monkeypatch):
    """What a study would train."""
    runs = []

    def run(settings, request):
        runs.extend(settings)
        raise RequestError("that is all")

    monkeypatch.setattr(session, "run", run)
    return runs


def test_seeds_come_one_after_the_other_each_with_all_methods_and_radii(asked, tmp_path):
    options = ["--methods", "adamw,sam,zsharp", "--rhos", "0.1", "0.2", "--seeds", "2"]
    options += ["--quantiles", "0", "0.9"]
    assert exit_code("study", *options, "--out", tmp_path) == 2
    of_a_seed = [("adamw", 0.05, 0.95), ("sam", 0.1, 0.95), ("sam", 0.2, 0.95)]
    of_a_seed += [("zsharp", rho, quantile) for quantile in (0.0, 0.9) for rho in (0.1, 0.2)]
    found = [(run.seed, (run.method, run.rho, run.quantile)) for run in asked]
    assert found == [(seed, run) for seed in (0, 1) for run in of_a_seed]


def test_rho_is_such_that_all_methods_have_the_lengths_of_the_grid(asked, tmp_path):
    methods = ["sam", "zsharp_reference", "sam_matched", "zsharp_matched", "sam_layerwise", "asam"]
    options = ["--methods", *methods, "--epsilons", "0.3", "--seeds", "1"]
    assert exit_code("study", *options, "--out", tmp_path) == 2
    filtered, every = tensors_of("resnet8", "digits")
    assert 1 < filtered < every
    matched = 0.3 / math.sqrt(filtered)
    expected = [0.3, matched, matched, matched, 0.3 / math.sqrt(every), 0.3]
    assert [run.rho for run in asked] == pytest.approx(expected)


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--budget", "90"], "such as 90m, 1h30m or 45s, got '90'"),
        (["--budget", "0m"], "`budget` must be a time above 0"),
        (["--epsilons", "0.1", "--rhos", "0.1"], "not allowed with argument --epsilons"),
        (["--epsilons", "-1"], "`epsilons` must be finite and at least 0, got -1"),
        (["--quantiles", "1"], "`quantiles` must lie in [0, 1), got 1.0"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(options, reason, tmp_path, capsys):
    assert exit_code("study", *options, "--out", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and not list(tmp_path.iterdir())


def test_a_budget_that_fits_no_run_says_how_long_one_takes():
    with pytest.raises(RequestError, match=r"got 60 s: sam takes about 75.0 s, 15.0 s of them to"):
        Budget(60.0).check("sam", seconds=75.0, compile_seconds=15.0)
    with interrupts.termination_noted():
        Budget(80.0).check("sam", seconds=75.0, compile_seconds=15.0)
        assert not interrupts.is_terminated()
        spent = Budget(-1.0)
        assert not interrupts.is_terminated()  # until a run has ended
        spent.hold()
        spent.check("sam", seconds=75.0, compile_seconds=15.0)
        assert interrupts.is_terminated()
    assert not interrupts.is_terminated()


def test_runs_of_a_seed_are_paired_and_a_study_that_was_cut_off_goes_on(
    tmp_path, monkeypatch, capsys
):
    options = ["--methods", "adamw", "zsharp_reference", "--epsilons", "0.1", "0.2", "--seeds", "2"]
    options += ["--epochs", "1", "--batch-size", "256", "--split-seed", "--label-noise", "0.4"]
    command = ["study", *options, "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "check", lambda budget, *run: None)
        patch.setattr(Budget, "hold", lambda budget: interrupts.end_at(0.0))
        assert exit_code(*command, "--budget", "1h") == 0
    told = capsys.readouterr()
    assert "1 of 6 runs had ended; to go on: zsharp-bench study" in told.err
    assert "| adamw | 1 |" in (tmp_path / "study.md").read_text()
    assert exit_code(*command, "--resume") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"runs.jsonl", *STUDY_FILES}
    first_losses, norms = {}, {}
    for record in records_in(tmp_path):
        settings = record["settings"]
        assert record["status"] == "finished"
        first_losses.setdefault(settings["seed"], set()).add(round(record["step_losses"][0], 4))
        norms.setdefault(settings["method"], set()).add(
            round(record["final"]["perturbation_norm"], 1)
        )
    # The same weights, images and labels at the first step, whatever the method.
    assert [len(losses) for losses in first_losses.values()] == [1, 1]
    assert first_losses[0] != first_losses[1]
    assert norms == {"adamw": {0.0}, "zsharp_reference": {0.1, 0.2}}
    table = (tmp_path / "study.md").read_text()
    assert "| instead of adamw | zsharp_reference | adamw |" in table
    other_plan = [*command, "--resume", "--batch-size", "128"]
    assert exit_code(*other_plan) == 2
    assert "batch_size was 256 there and is 128 here" in capsys.readouterr().err
