"""The compiled step trains on what it should, and the evaluation judges what it should.

Each number is recomputed from the model alone, on images that are picked and normalised in NumPy.
"""

import contextlib
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SETTINGS, OneConvolution, silent, tiny_dataset

import zsharp_jax
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.methods import METHODS
from zsharp_jax.benchmark.training import one_run, program, steps
from zsharp_jax.benchmark.training.augmentation import augment
from zsharp_jax.benchmark.training.device_data import on_device
from zsharp_jax.benchmark.training.loop import train
from zsharp_jax.models import MODELS
from zsharp_jax.models.vit import ViT

MODEL = OneConvolution(num_classes=10)
DATASET = tiny_dataset()
RHO = np.float32(0.05)


@pytest.fixture(scope="module")
def compiled():
    return program.compile_program(SETTINGS, DATASET)


def normalised(images):
    train_images = DATASET.train_images.astype(np.float64)
    return ((images - train_images.mean()) / train_images.std()).astype(np.float32)


def mean_loss(logits, labels):
    log_shares = np.asarray(jax.nn.log_softmax(logits))
    return -np.mean(log_shares[np.arange(len(labels)), labels])


def test_a_step_is_told_the_loss_of_its_own_rows_augmented_and_normalised(compiled):
    key = jax.random.key(7)
    carry, order = compiled.start(key), np.asarray(compiled.draw_order(key, np.int32(0)))
    for step in range(3):
        variables = {"params": carry.state.params, "batch_stats": carry.batch_stats}
        augment_key = jax.random.fold_in(jax.random.fold_in(key, 2), step)
        images = DATASET.train_images[order[step]]
        augmented = np.asarray(augment(augment_key, jnp.asarray(images), 1, True))
        assert np.any(augmented != images)
        logits, _ = MODEL.apply(
            variables, normalised(augmented), train=True, mutable=["batch_stats"]
        )
        expected = mean_loss(logits, DATASET.train_labels[order[step]])
        carry, info = compiled.step(carry, compiled.data, key, order, RHO)
        np.testing.assert_allclose(info.loss, expected, rtol=1e-4)


def test_the_evaluation_is_that_of_the_test_images(compiled):
    key = jax.random.key(3)
    carry = compiled.start(key)
    for _ in range(3):
        order = compiled.draw_order(key, np.int32(0))
        carry, _ = compiled.step(carry, compiled.data, key, order, RHO)
    variables = {"params": carry.state.params, "batch_stats": carry.batch_stats}
    logits = np.asarray(MODEL.apply(variables, normalised(DATASET.test_images), train=False))
    right, loss = compiled.evaluate(carry, compiled.data, np.int32(0))
    assert right == np.sum(np.argmax(logits, axis=-1) == DATASET.test_labels)
    np.testing.assert_allclose(loss / 20, mean_loss(logits, DATASET.test_labels), rtol=1e-4)


def test_an_epoch_takes_each_image_once_in_an_order_of_its_own(compiled):
    orders = [
        np.asarray(compiled.draw_order(jax.random.key(seed), np.int32(epoch)))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    for order in orders:
        assert order.shape == (3, 16) and len(np.unique(order)) == 48 and order.max() < 50
    assert len({order.tobytes() for order in orders}) == 4


def test_the_plain_step_is_the_bare_optimizer():
    def loss_fn(w):
        return jnp.sum((w - 1) ** 2), "aux"

    optimizer = optax.adamw(0.1)
    w = jnp.array([3.0, -2.0])
    opt_state = optimizer.init(w)
    state = zsharp_jax.init_state(w, optimizer, optax.identity())
    state, info = steps.plain_step(loss_fn, optimizer)(state)
    updates, _ = optimizer.update(2 * (w - 1), opt_state, w)
    np.testing.assert_allclose(state.params, w + updates, rtol=1e-6)
    assert info.loss == info.sharp_loss == 13 and info.perturbation_norm == 0
    assert info.aux == "aux" and state.step == 1


def test_batch_statistics_are_those_of_one_clean_pass_per_step(compiled):
    """A step with a huge perturbation leaves the statistics that one with a small one leaves."""
    key, moved, losses = jax.random.key(0), [], []
    for rho in (0.05, 5.0):
        order = compiled.draw_order(key, np.int32(0))
        carry, info = compiled.step(compiled.start(key), compiled.data, key, order, np.float32(rho))
        moved.append(jax.device_get(carry.batch_stats))
        losses.append(info.sharp_loss)
        np.testing.assert_allclose(info.perturbation_norm, rho, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *moved)
    assert losses[1] > 2 * losses[0]


def test_seconds_leave_out_the_evaluation(compiled):
    def slow_evaluate(*inputs):
        time.sleep(1.0)
        return compiled.evaluate(*inputs)

    slow = dataclasses.replace(compiled, evaluate=slow_evaluate)
    outcome = train(slow, dataclasses.replace(SETTINGS, epochs=1), silent)
    assert outcome.curves["seconds"][0] < 1.0


def test_the_test_set_is_evaluated_whole_and_padding_does_not_count(compiled, monkeypatch):
    whole = train(compiled, SETTINGS, silent)
    monkeypatch.setattr(program, "_MOST_TEST_IMAGES", 7)  # 20 = 7 + 7 + 6
    in_parts = train(program.compile_program(SETTINGS, DATASET), SETTINGS, silent)
    for curve, rtol in (("test_accuracy", 1e-6), ("test_loss", 1e-4)):
        np.testing.assert_allclose(in_parts.curves[curve], whole.curves[curve], rtol=rtol)


def test_training_convolves_small_images_by_products(monkeypatch):
    entered = []
    monkeypatch.setattr(
        one_run, "quick_when_small", lambda: contextlib.nullcontext(entered.append(True))
    )
    program.compile_program(dataclasses.replace(SETTINGS, method="adamw"), DATASET)
    assert entered


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.fast_for("*_quarter", "*_one_pass", "looksam", "zsharp", "adamw")
def test_every_method_takes_a_step_with_statistics(method):
    settings = dataclasses.replace(SETTINGS, method=method)
    run, initialise = program._one_run(settings, DATASET, is_mapped=False)
    carry = jax.eval_shape(run.begin, initialise.out_info)
    key, order = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((3, 16), "int32")
    after, info = jax.eval_shape(run.step, carry, on_device(DATASET), key, order, RHO)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)
    assert info.loss.shape == info.perturbation_norm.shape == ()


def test_a_model_without_statistics_trains(monkeypatch):
    small = functools.partial(ViT, layers=1, width=8, heads=2, mlp_width=8)
    monkeypatch.setitem(MODELS, "vit_7_8_8_384", small)
    settings = dataclasses.replace(SETTINGS, model="vit_7_8_8_384", method="adamw", batch_size=2)
    compiled = program.compile_program(settings, DATASET)
    key = jax.random.key(0)
    order = compiled.draw_order(key, np.int32(0))
    carry, info = compiled.step(compiled.start(key), compiled.data, key, order, RHO)
    assert carry.batch_stats == {} and np.isfinite(info.loss)


def test_a_model_that_the_images_do_not_fit_is_refused():
    settings = dataclasses.replace(SETTINGS, model="vgg16_bn")
    with pytest.raises(RequestError, match=r"vgg16_bn does not fit digits: .* at least 32, .* 8"):
        program.compile_program(settings, DATASET)
