"""A run: the same seed gives the same numbers, and a failure keeps what it had."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SETTINGS, silent, tiny_dataset

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.training import program
from zsharp_jax.benchmark.training.loop import Outcome, train


@pytest.fixture(scope="module")
def compiled():
    with jax.transfer_guard("disallow"):  # of what nobody has asked for
        return program.compile_program(SETTINGS, tiny_dataset())


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(compiled):
    with jax.transfer_guard("disallow"):
        first, again = (train(compiled, SETTINGS, silent) for _ in range(2))
        other = train(compiled, dataclasses.replace(SETTINGS, seed=1), silent)
    for outcome in (first, again, other):
        assert len(outcome.curves.pop("seconds")) == 2
    assert first == again
    assert first.step_losses[0] != other.step_losses[0]


def test_curves_and_figures(compiled):
    reported = []
    outcome = train(compiled, SETTINGS, reported.append)
    assert outcome.status == "finished" and outcome.steps == 6
    assert {name: len(curve) for name, curve in outcome.curves.items()} == dict.fromkeys(
        outcome.curves, 2
    )
    np.testing.assert_allclose(
        outcome.curves["train_loss"][1], np.mean(outcome.step_losses[3:]), 1e-5
    )
    np.testing.assert_allclose(outcome.curves["perturbation_norm"], 0.05, rtol=1e-3)
    assert outcome.curves["sharp_loss"][0] > outcome.curves["train_loss"][0]
    assert [standing.steps for standing in reported] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert [standing.epoch for standing in reported] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert {standing.epochs for standing in reported} == {2}
    last = [standing.loss for standing in reported[4:7]]
    np.testing.assert_allclose(outcome.step_losses[3:], last, rtol=5e-6)  # six digits
    assert all(standing.sharp_loss > standing.loss for standing in reported)
    assert math.isnan(reported[2].accuracy)
    accuracies = [standing.accuracy for standing in reported[3:]]
    first, last = outcome.curves["test_accuracy"]
    assert accuracies == [first, first, first, first, last]
    final = outcome.final(steps_per_epoch=3)
    assert final["test_accuracy"] == outcome.curves["test_accuracy"][-1]
    assert final["seconds_per_epoch"] > 0


def test_seconds_per_epoch_of_a_run_that_was_cut_short():
    outcome = Outcome(steps=14)
    outcome.curves = {name: [1.0, 1.0] for name in outcome.curves} | {"seconds": [10.0, 4.0]}
    assert outcome.final(steps_per_epoch=10)["seconds_per_epoch"] == 10.0


def test_steps_stop_within_an_epoch(compiled):
    settings = dataclasses.replace(SETTINGS, epochs=None, steps=4)
    assert settings.planned_steps(3) == 4
    outcome = train(compiled, settings, silent)
    assert outcome.steps == 4 and len(outcome.step_losses) == 4
    assert len(outcome.curves["train_loss"]) == 2


@pytest.mark.parametrize(
    "field, told",
    [
        ("loss", "clean loss"),
        ("sharp_loss", "sharp loss"),
        ("gradient_norm", "gradient norm"),
        ("perturbation_norm", "perturbation norm"),
    ],
)
def test_what_is_not_finite_ends_the_run_and_keeps_what_it_had(compiled, field, told):
    def poisoned_step(carry, *inputs):
        step = int(carry.state.step)
        carry, info = compiled.step(carry, *inputs)
        return carry, info._replace(**{field: jnp.nan}) if step == 4 else info

    poisoned = dataclasses.replace(compiled, step=poisoned_step)
    outcome = train(poisoned, SETTINGS, silent)
    assert outcome.status == "failed"
    assert outcome.error == f"zsharp, seed 0: the {told} is nan at step 5"
    assert len(outcome.step_losses) == 4 and len(outcome.curves["train_loss"]) == 1
    assert outcome.final(3)["test_accuracy"] == outcome.curves["test_accuracy"][0]


def test_a_test_loss_that_is_not_finite_ends_the_run(compiled):
    poisoned = dataclasses.replace(compiled, evaluate=lambda *_: (jnp.array(0), jnp.inf))
    outcome = train(poisoned, SETTINGS, silent)
    assert outcome.error == "zsharp, seed 0: the test loss is inf at step 3"
    assert len(outcome.step_losses) == 3 and not outcome.curves["train_loss"]


def test_the_clock_of_compiling_holds_all_that_is_compiled(compiled, compilations):
    key, number = jax.random.key(0), np.int32(0)
    before = len(compilations)
    carry, order = compiled.start(key), compiled.draw_order(key, number)
    carry, _ = compiled.step(carry, compiled.data, key, order, np.float32(0.05))
    compiled.evaluate(carry, compiled.data, number)
    assert len(compilations) == before


def test_the_next_method_of_a_model_need_not_compile_its_start(compiled, compilations):
    seen = len(compilations)
    program.compile_program(dataclasses.replace(SETTINGS, method="adamw"), tiny_dataset())
    # The state, the order, the step, the evaluation, and the two trials of the optimizer.
    assert len(compilations) - seen <= 6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "zshrap"}, "unknown method 'zshrap', known: adam"),
        ({"model": "resnet21"}, "unknown model 'resnet21', known: resnet110, resnet20, "),
        ({"dataset": "cifar"}, "unknown dataset 'cifar', known: cifar10, cifar100, "),
        ({"rho": -1.0}, "`rho` must be finite and at least 0, got -1.0"),
        ({"rho": math.nan}, "`rho` must be finite and at least 0, got nan"),
        ({"quantile": 1.0}, r"`quantile` must lie in \[0, 1\), got 1.0"),
        ({"learning_rate": 0.0}, "`lr` must be finite and above 0, got 0.0"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"batch_size": -3}, "`batch_size` must be at least 1, got -3"),
        ({"steps": 3}, "either `epochs` or `steps` must be given, not both"),
        ({"epochs": None}, "either `epochs` or `steps` must be given"),
        ({"epochs": None, "steps": 0}, "`steps` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must be at least 0 and below 2\\*\\*32, got -1"),
        ({"seed": 2**32}, "`seed` must be at least 0 and below 2\\*\\*32, got 4294967296"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(RequestError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_runs_that_differ_in_settings_or_data_have_files_that_differ():
    names = {
        dataclasses.replace(SETTINGS, rho=rho).run_name(data)
        for rho in (0.05, 0.1)
        for data in ("official", "another")
    }
    assert len(names) == 4
    assert all(name.startswith("digits-resnet8-zsharp-seed0-") for name in names)


def test_the_digest_of_the_data_holds_images_and_labels():
    dataset = tiny_dataset()
    moved = dataclasses.replace(dataset, test_labels=dataset.test_labels[::-1])
    assert dataset.sha256() == tiny_dataset().sha256() != moved.sha256()
