"""The two recipes: their learning rates, and what weight decay means in each."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SETTINGS

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.settings import RECIPES, Settings, recipe_values
from zsharp_jax.benchmark.training.optimizers import learning_rate, make_optimizer

REFERENCE = dataclasses.replace(SETTINGS, **recipe_values("reference", "zsharp"))


def rates(settings, epochs):
    schedule = learning_rate(settings, steps_per_epoch=3)
    first, last = (
        [float(schedule(jnp.int32(3 * epoch + step))) for epoch in epochs] for step in (0, 2)
    )
    assert first == last
    return first


def test_the_papers_rate_falls_every_ten_epochs():
    expected = [1e-3, 1e-3, 0.75e-3, 0.75e-3, 0.5625e-3]
    np.testing.assert_allclose(rates(SETTINGS, (0, 9, 10, 19, 20)), expected, rtol=1e-6)


def test_the_authors_rate_rises_for_five_epochs_and_then_falls_every_thirty():
    expected = [0, 2e-4, 8e-4, 1e-3, 1e-3, 0.75e-3, 0.75e-3, 0.5625e-3]
    found = rates(REFERENCE, (0, 1, 4, 5, 34, 35, 64, 65))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_the_authors_weight_decay_is_part_of_the_gradient():
    settings = dataclasses.replace(REFERENCE, warmup_epochs=0, weight_decay=0.5)
    weights, gradient = jnp.array([2.0, -4.0]), jnp.array([0.1, 0.2])
    optimizer, adam = make_optimizer(settings, 3), optax.adam(1e-3)
    found, _ = optimizer.update(gradient, optimizer.init(weights), weights)
    expected, _ = adam.update(gradient + 0.5 * weights, adam.init(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_papers_weight_decay_is_adamws():
    settings = dataclasses.replace(SETTINGS, weight_decay=0.5)
    weights, gradient = jnp.array([2.0, -4.0]), jnp.array([0.1, 0.2])
    optimizer, adamw = make_optimizer(settings, 3), optax.adamw(1e-3, weight_decay=0.5)
    found, _ = optimizer.update(gradient, optimizer.init(weights), weights)
    expected, _ = adamw.update(gradient, adamw.init(weights), weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_asam_has_a_rho_of_its_own_in_the_authors_code_alone():
    rho = {name: recipe_values(name, "asam")["rho"] for name in RECIPES}
    assert rho == {"paper": 0.05, "reference": 0.5}
    assert {recipe_values(name, "sam")["rho"] for name in RECIPES} == {0.05}


def test_settings_left_alone_are_the_papers():
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    paper = recipe_values("paper", "zsharp")
    assert {name: fields[name] for name in paper} == paper


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd', known: adam_l2, adamw"),
        ({"dtype": "float16"}, "unknown dtype 'float16', known: bfloat16, float32"),
        ({"recipe": "papre"}, "unknown recipe 'papre', known: paper, reference"),
        ({"warmup_epochs": -1}, "`warmup_epochs` must be at least 0, got -1"),
        ({"weight_decay": -1.0}, "`weight_decay` must be finite and at least 0, got -1.0"),
        ({"decay_rate": float("nan")}, "`decay_rate` must be finite and at least 0, got nan"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(RequestError) as refused:
        dataclasses.replace(SETTINGS, **change)
    assert message in str(refused.value)
