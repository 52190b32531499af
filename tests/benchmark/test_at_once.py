"""Runs that are trained at once come to the numbers of each alone, and fail each by itself."""

import dataclasses
import json
import math
import signal
import threading

import jax
import numpy as np
import pytest
from command import exit_code, records_in
from tiny import SETTINGS, assert_same_but_for_rounding, silent, tiny_dataset

from zsharp_jax.benchmark.datasets.splits import with_wrong_labels
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.training import interrupts, program, session, trainer
from zsharp_jax.benchmark.training.at_once import Runs
from zsharp_jax.benchmark.training.budget import Budget
from zsharp_jax.benchmark.training.device_data import on_device, on_device_at_once
from zsharp_jax.benchmark.training.loop import train, train_at_once
from zsharp_jax.benchmark.training.programs import Programs

RUNS = [dataclasses.replace(SETTINGS, seed=seed, rho=rho) for seed in (0, 3) for rho in (0.05, 0.5)]


@pytest.fixture(scope="module")
def alone():
    return program.compile_program(SETTINGS, tiny_dataset())


@pytest.fixture(scope="module")
def at_once():
    with jax.transfer_guard("disallow"):
        return program.compile_program(SETTINGS, tiny_dataset(), len(RUNS))


def test_each_run_comes_to_its_own_numbers(alone, at_once):
    reported, told, kept = [], [], {}
    with jax.transfer_guard("disallow"):
        outcomes = train_at_once(
            at_once,
            RUNS,
            lambda standing: reported.append(standing.steps),
            tell_epoch=lambda outcomes: told.append([each.epochs for each in outcomes]),
            keep=kept.__setitem__,
        )
    carries = []
    for settings, outcome in zip(RUNS, outcomes, strict=True):
        assert_same_but_for_rounding(outcome, train(alone, settings, silent, keep=carries.append))
    assert sorted(set(reported)) == [1, 2, 3, 4, 5, 6]
    assert told == [[1] * 4, [2] * 4]
    assert sorted(kept) == [0, 1, 2, 3]
    for number, carry in enumerate(carries):
        for ours, theirs in zip(*map(jax.tree.leaves, (kept[number], carry)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_run_that_fails_stops_none_of_the_others(at_once):
    def poisoned_step(carry, *inputs):
        is_fifth = int(carry.state.step[0]) == 4
        carry, info = at_once.step(carry, *inputs)
        return carry, info._replace(loss=info.loss.at[2].set(math.nan)) if is_fifth else info

    poisoned = dataclasses.replace(at_once, step=poisoned_step)
    kept = {}
    outcomes = train_at_once(poisoned, RUNS, silent, keep=kept.__setitem__)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 2 + ["failed", "finished"]
    assert outcomes[2].error == "zsharp, rho 0.05, seed 3: the clean loss is nan at step 5"
    assert (outcomes[2].steps, outcomes[2].epochs, outcomes[3].epochs) == (5, 1, 2)
    assert sorted(kept) == [0, 1, 3]


def test_all_may_fail(at_once):
    def poisoned_step(carry, *inputs):
        carry, info = at_once.step(carry, *inputs)
        return carry, info._replace(loss=info.loss * math.inf)

    outcomes = train_at_once(dataclasses.replace(at_once, step=poisoned_step), RUNS, silent)
    assert {(outcome.status, outcome.steps) for outcome in outcomes} == {("failed", 1)}


def test_each_run_has_the_images_of_its_seed():
    settings = dataclasses.replace(SETTINGS, method="adamw", label_noise=0.5)
    runs = [dataclasses.replace(settings, seed=seed) for seed in (0, 1)]
    datasets = [with_wrong_labels(tiny_dataset(), 0.5, settings.seed) for settings in runs]
    compiled = program.compile_program(settings, datasets[0], 2)
    compiled = dataclasses.replace(compiled, data=on_device_at_once(tuple(datasets)))
    alone = program.compile_program(settings, datasets[0])
    outcomes = train_at_once(compiled, runs, silent)
    for run, dataset, outcome in zip(runs, datasets, outcomes, strict=True):
        own = dataclasses.replace(alone, data=on_device(dataset))
        assert_same_but_for_rounding(outcome, train(own, run, silent))


def test_what_one_run_has_stays_as_it_is():
    alone = Runs(None, own_data=True)
    assert alone.over(len, True) is len
    assert alone.shapes("shapes") == "shapes"


def test_sigterm_ends_all_of_them(at_once):
    def report(standing):
        if standing.steps == 2:
            signal.raise_signal(signal.SIGTERM)

    with interrupts.termination_noted(), pytest.raises(interrupts.Terminated) as stopped:
        train_at_once(at_once, RUNS, report)
    where = "zsharp, 4 runs at once: after 3 of 6 steps, which are lost"
    assert str(stopped.value) == where


def test_groups_have_nearly_one_size_and_runs_that_go_on_are_alone():
    def sizes(runs, at_once, *going_on):
        return [len(group) for group in session._groups(runs, at_once, going_on.__contains__)]

    runs = [dataclasses.replace(SETTINGS, seed=seed) for seed in range(6)]
    assert sizes(runs, 1) == [1] * 6
    assert sizes(runs, 4) == [3, 3]
    assert sizes(runs, 9) == [6]
    assert sizes(runs, 4, runs[1]) == [1, 3, 2]
    others = [dataclasses.replace(run, method="sam") for run in runs[:2]]
    assert sizes([*runs, *others], 9) == [6, 2]


def test_a_budget_that_never_fits_a_group_says_how_long_it_takes():
    budget = Budget(60.0)
    with interrupts.termination_noted():
        budget.hold()
        budget.check_group("sam, 8 runs at once", 59.0)
        with pytest.raises(RequestError, match=r"got 60 s: sam, 8 runs at once: about 61.0 s"):
            budget.check_group("sam, 8 runs at once", 61.0)


def test_a_budget_of_a_group_is_judged_by_its_second_epoch(tmp_path, monkeypatch):
    told, judged_after = [], []
    monkeypatch.setattr(trainer.RunProgress, "tell_epoch", lambda *_: told.append(1))
    monkeypatch.setattr(Budget, "check_group", lambda *_: judged_after.append(len(told)))
    runs = ["--methods", "adamw", "--epochs", "3", "--batch-size", "512", "--seeds", "2"]
    assert exit_code("study", *runs, "--at-once", "2", "--budget", "1h", "--out", tmp_path) == 0
    assert judged_after == [2]


ADAMW = ["study", "--methods", "adamw", "--epochs", "1", "--batch-size", "256"]


def test_what_has_finished_counts_after_an_end_within_a_study(tmp_path, monkeypatch, capsys):
    out, more = ["--out", tmp_path], ["--seeds", "5", "--at-once", "3", "--resume"]
    assert exit_code(*ADAMW, "--seeds", "2", *out) == 0

    def end(program, runs, report, **options):
        raise interrupts.Terminated("adamw, 3 runs at once")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_at_once", end)
        assert exit_code(*ADAMW, *more, *out) == 0
    assert "2 of 5 runs had ended" in capsys.readouterr().err
    assert exit_code(*ADAMW, *more, *out, "--keep-weights", "--tensorboard", tmp_path / "t") == 0
    records = records_in(tmp_path)
    assert [record.get("trained_at_once") for record in records] == [3, 3, 3, 2, 2]
    assert len(list((tmp_path / "weights").iterdir())) == len(list((tmp_path / "t").iterdir())) == 5


def test_what_another_process_has_finished_meanwhile_is_not_trained_again(tmp_path, monkeypatch):
    assert exit_code(*ADAMW, "--seeds", "2", "--out", tmp_path / "theirs") == 0
    other = records_in(tmp_path / "theirs")[1]
    trained = []

    def train_beside(program, settings, *arguments, **options):
        trained.append(settings.seed)
        (tmp_path / "ours" / f"{other['name']}.json").write_text(json.dumps(other))
        return train(program, settings, *arguments, **options)

    monkeypatch.setattr(trainer, "train", train_beside)
    assert exit_code(*ADAMW, "--seeds", "2", "--resume", "--out", tmp_path / "ours") == 0
    assert trained == [0]


def test_off_a_cpu_programs_are_compiled_in_threads_once_each(monkeypatch):
    class Images:
        def of(self, settings):
            return tiny_dataset()

    runs = [dataclasses.replace(SETTINGS, method=method) for method in ("sam", "asam", "sam")]
    failing = dataclasses.replace(SETTINGS, method="vasso")
    begun, goes_on, told = [], threading.Event(), []

    def compile_late(settings, dataset, *at_once):
        begun.append(settings.method)
        assert goes_on.wait(timeout=60)
        if settings.method == "vasso":
            raise RequestError("does not fit")
        return program.Program(None, 1, 1, 1, *[None] * 5, compile_seconds=0.0)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with Programs(compile_late, Images(), told.append) as programs:
        programs.begin([[run] for run in (*runs, failing)])
        assert interrupts.compiles()
        goes_on.set()
        found = programs.of(runs[:1])
        assert found.compile_seconds == 0 and found.data.size("test") == 20
        with pytest.raises(RequestError, match="does not fit"):
            programs.of([failing])
        assert sorted(begun) == ["asam", "sam", "vasso"]
    for thread in threading.enumerate():
        if thread.name.startswith(interrupts.COMPILES):
            thread.join(timeout=60)
    assert not interrupts.compiles()
    assert told == ["sam: compiling", "vasso: compiling"]


@pytest.mark.slow
def test_a_study_at_once_is_the_study(tmp_path):
    common = ["study", "--methods", "adamw", "zsharp", "--rhos", "0.05", "0.2", "--seeds", "3"]
    common += ["--epochs", "2", "--label-noise", "0.4", "--split-seed"]
    found = []
    for at_once in (1, 4):
        out = tmp_path / str(at_once)
        assert exit_code(*common, "--at-once", at_once, "--out", out) == 0
        found.append({record["name"]: record for record in records_in(out)})
    alone, at_once = found
    assert alone.keys() == at_once.keys() and len(alone) == 9
    for name, record in alone.items():
        for figure, value in record["final"].items():
            if figure not in ("seconds_per_epoch", "best_epoch"):
                np.testing.assert_allclose(
                    at_once[name]["final"][figure], value, rtol=1e-2, atol=1e-2
                )
    told = sorted(record.get("trained_at_once", 1) for record in at_once.values())
    # Two seeds of adamw, and of zsharp with both radii; then the third seed.
    assert told == [1, 2, 2, 2, 2, 4, 4, 4, 4]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--at-once", "0"], "`at_once` must be at least 1, got 0"),
        (["--at-once", "2", "--checkpoint-every", "1"], "`checkpoint_every` must be left out"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, options, message):
    assert exit_code("compare", "--out", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
