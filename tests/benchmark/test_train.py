"""A run: the same seed gives the same numbers, and a failure keeps what it had."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsharp_jax.benchmark import methods, program
from zsharp_jax.benchmark.data import Dataset
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.settings import Settings
from zsharp_jax.benchmark.train import Outcome, planned_steps, train

SETTINGS = Settings(
    dataset="digits", model="resnet8", method="zsharp", seed=0, epochs=2, batch_size=16
)


def tiny_dataset():
    rng = np.random.default_rng(0)
    labels = np.arange(70, dtype=np.int32) % 10
    images = rng.integers(0, 40, (70, 8, 8, 1), dtype=np.uint8)
    images[np.arange(70), labels % 8, labels // 8] = 255
    return Dataset(
        images[:50], labels[:50], images[50:], labels[50:], 10, crop_padding=1, flip=True
    )


def silent(steps, loss, accuracy):
    del steps, loss, accuracy


@pytest.fixture(scope="module")
def compiled():
    return program.compile_program(SETTINGS, tiny_dataset())


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(compiled):
    first, again = (train(compiled, SETTINGS, silent) for _ in range(2))
    other = train(compiled, dataclasses.replace(SETTINGS, seed=1), silent)
    for outcome in (first, again, other):
        assert len(outcome.curves.pop("seconds")) == 2
    assert first == again
    assert first.step_losses[0] != other.step_losses[0]


def test_curves_and_figures(compiled):
    reported = []
    outcome = train(compiled, SETTINGS, lambda *told: reported.append(told))
    assert outcome.status == "finished" and outcome.steps == 6
    assert {name: len(curve) for name, curve in outcome.curves.items()} == dict.fromkeys(
        outcome.curves, 2
    )
    np.testing.assert_allclose(
        outcome.curves["train_loss"][1], np.mean(outcome.step_losses[3:]), 1e-5
    )
    np.testing.assert_allclose(outcome.curves["perturbation_norm"], 0.05, rtol=1e-3)
    assert outcome.curves["sharp_loss"][0] > outcome.curves["train_loss"][0]
    assert reported[-1][0] == 6 and math.isnan(reported[0][2])
    final = outcome.final(steps_per_epoch=3)
    assert final["test_accuracy"] == outcome.curves["test_accuracy"][-1]
    assert final["seconds_per_epoch"] > 0


def test_seconds_per_epoch_of_a_run_that_was_cut_short():
    outcome = Outcome(steps=14)
    outcome.curves = {name: [1.0, 1.0] for name in outcome.curves} | {"seconds": [10.0, 4.0]}
    assert outcome.final(steps_per_epoch=10)["seconds_per_epoch"] == 10.0


def test_steps_stop_within_an_epoch(compiled):
    settings = dataclasses.replace(SETTINGS, steps=4)
    assert planned_steps(settings, 3) == 4
    outcome = train(compiled, settings, silent)
    assert outcome.steps == 4 and len(outcome.step_losses) == 4
    assert len(outcome.curves["train_loss"]) == 2


def test_the_learning_rate_falls_every_ten_epochs():
    schedule = program.learning_rate(SETTINGS, steps_per_epoch=3)
    rates = [float(schedule(step)) for step in (0, 29, 30, 59, 60)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 0.75e-3, 0.75e-3, 0.5625e-3], rtol=1e-6)


def test_the_whole_test_set_is_evaluated_and_padding_does_not_count(compiled, monkeypatch):
    whole = train(compiled, SETTINGS, silent)
    monkeypatch.setattr(program, "_MOST_TEST_IMAGES", 7)  # 20 = 7 + 7 + 6
    in_parts = train(program.compile_program(SETTINGS, tiny_dataset()), SETTINGS, silent)
    np.testing.assert_allclose(
        in_parts.curves["test_accuracy"], whole.curves["test_accuracy"], atol=1e-6
    )
    np.testing.assert_allclose(in_parts.curves["test_loss"], whole.curves["test_loss"], rtol=1e-4)


def test_the_plain_step_is_the_bare_optimizer():
    def loss_fn(w):
        return jnp.sum((w - 1) ** 2), "aux"

    optimizer = optax.adamw(0.1)
    w = jnp.array([3.0, -2.0])
    opt_state = optimizer.init(w)
    state = program.init_state(w, optimizer, optax.identity())
    state, info = program.plain_step(loss_fn, optimizer)(state)
    updates, _ = optimizer.update(2 * (w - 1), opt_state, w)
    np.testing.assert_allclose(state.params, w + updates, rtol=1e-6)
    assert info.loss == info.sharp_loss == 13 and info.perturbation_norm == 0
    assert info.aux == "aux" and state.step == 1


def test_batch_statistics_are_those_of_one_clean_pass_per_step(compiled):
    """A step with a huge perturbation leaves the statistics that one with none leaves."""
    key, moved = jax.random.key(0), []
    for rho in (0.0, 5.0):
        settings = dataclasses.replace(SETTINGS, rho=rho)
        made = program.compile_program(settings, tiny_dataset())
        carry, _ = made.step(made.start(key), made.data, key, made.draw_order(key, 0))
        moved.append(jax.device_get(carry.batch_stats))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *moved)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_it_had(compiled):
    def poisoned_step(carry, *inputs):
        step = int(carry.state.step)
        carry, info = compiled.step(carry, *inputs)
        return carry, info._replace(sharp_loss=jnp.nan) if step == 4 else info

    poisoned = dataclasses.replace(compiled, step=poisoned_step)
    outcome = train(poisoned, SETTINGS, silent)
    assert outcome.status == "failed"
    assert outcome.error == "zsharp, seed 0: the sharp loss is nan at step 5"
    assert len(outcome.step_losses) == 4 and len(outcome.curves["train_loss"]) == 1
    assert outcome.final(3)["test_accuracy"] == outcome.curves["test_accuracy"][0]


def test_every_method_is_trained():
    assert list(methods.METHODS) == [
        "adamw",
        "sam",
        "asam",
        "friendly_sam",
        "zsharp",
        "zsharp_reference",
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "zshrap"}, "unknown method 'zshrap', known: zsharp, "),
        ({"model": "resnet21"}, "unknown model 'resnet21', known: resnet20, "),
        ({"dataset": "cifar"}, "unknown dataset 'cifar', known: cifar10, digits"),
        ({"rho": -1.0}, "`rho` must be finite and at least 0, got -1.0"),
        ({"rho": math.nan}, "`rho` must be finite and at least 0, got nan"),
        ({"quantile": 1.0}, r"`quantile` must lie in \[0, 1\), got 1.0"),
        ({"learning_rate": 0.0}, "`lr` must be finite and above 0, got 0.0"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"batch_size": -3}, "`batch_size` must be at least 1, got -3"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must be at least 0 and below 2\\*\\*32, got -1"),
        ({"seed": 2**32}, "`seed` must be at least 0 and below 2\\*\\*32, got 4294967296"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(RequestError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_settings_that_differ_have_files_that_differ():
    names = {dataclasses.replace(SETTINGS, rho=rho).name for rho in (0.05, 0.1)}
    assert len(names) == 2 and SETTINGS.name in names
    assert SETTINGS.name.startswith("digits-resnet8-zsharp-seed0-")
