"""Runs that are trained at once come to the numbers of each alone, and fail each by itself."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from command import exit_code, records_in
from tiny import SETTINGS, assert_same_but_for_rounding, silent, tiny_dataset

from zsharp_jax.benchmark.datasets.splits import with_wrong_labels
from zsharp_jax.benchmark.training import program
from zsharp_jax.benchmark.training.at_once import Runs
from zsharp_jax.benchmark.training.device_data import on_device, on_device_at_once
from zsharp_jax.benchmark.training.loop import train, train_at_once

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
    assert outcomes[2].error == "zsharp, seed 3: the clean loss is nan at step 5"
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
