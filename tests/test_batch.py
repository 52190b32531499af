"""A batch in micro-batches gives the step of the whole; in groups, the mean of their steps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, moving_statistics_loss, network_loss, network_params

from zsharp_jax import (
    asam,
    friendly_sam,
    init_state,
    mean_value_and_grad,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    zsharp,
)

ASCENTS = {"sam": sam(0.1), "asam": asam(0.1), "zsharp": zsharp(0.1, 0.8)}
STATISTICS = jnp.array(2.0)


def sharp_gradients(ascent, batch=BATCH, **options):
    params = network_params()
    ascend = jax.jit(sharp_value_and_grad(network_loss, ascent, **options))
    return ascend(params, ascent.init(params), *batch)


def blocks(groups):
    return [[np.split(array, groups)[i] for array in BATCH] for i in range(groups)]


def assert_close(found, expected):
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("microbatches", [2, 16, 64])
def test_the_gradient_in_microbatches_is_that_of_the_batch(microbatches):
    in_turn = jax.jit(mean_value_and_grad(network_loss, microbatches=microbatches))
    params = network_params()
    assert_close(in_turn(params, *BATCH), jax.value_and_grad(network_loss)(params, *BATCH))


@pytest.mark.parametrize("ascent", ASCENTS.values(), ids=ASCENTS)
def test_a_step_in_microbatches_is_the_step_of_the_batch(ascent):
    results = []
    for microbatches in (1, 4):
        optimizer = optax.adamw(1e-2)
        step = sam_step(network_loss, optimizer, ascent, microbatches=microbatches)
        state = init_state(network_params(), optimizer, ascent)
        for _ in range(3):
            state, info = step(state, *BATCH)
        results.append((state, info))
    assert_close(*results)


def test_microbatches_are_taken_one_after_the_other():
    """The memory of one is needed, not that of all."""

    def loss_fn(w, inputs):
        for _ in range(4):
            inputs = jnp.tanh(inputs @ w)
        return jnp.mean(inputs**2)

    def bytes_of(microbatches):
        step = jax.jit(mean_value_and_grad(loss_fn, microbatches=microbatches))
        compiled = step.lower(jnp.eye(16), jnp.ones((4096, 16))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # The batch is laid out anew for them, which is one of the five activations it is about.
    assert bytes_of(16) < 0.6 * bytes_of(1)


def test_statistics_are_averaged_and_counters_are_not():
    def loss_fn(w, counter, key, inputs):
        return jnp.mean(inputs * w), (jnp.mean(inputs), counter + 1, jax.random.split(key)[0])

    in_turn = mean_value_and_grad(loss_fn, True, microbatches=2, batch_argnums=3)
    key, inputs = jax.random.key(0), jnp.arange(8.0)
    for evaluate in (in_turn, jax.jit(in_turn)):
        (loss, (mean, counter, new_key)), _ = evaluate(jnp.array(1.0), jnp.array(3), key, inputs)
        assert (loss, mean, counter) == (3.5, 3.5, 4)
        chex.assert_trees_all_equal(new_key, jax.random.split(key)[0])


def test_aux_may_hold_python_numbers():
    def loss_fn(w, inputs):
        return jnp.mean(inputs * w), {"number": 3, "half": 0.5}

    inputs, w = jnp.arange(8.0), jnp.array(1.0)
    for options in ({"microbatches": 2}, {"groups": 2}, {"plain_if_zero": True}):
        ascend = sharp_value_and_grad(loss_fn, sam(0.1), has_aux=True, **options)
        (value, _), _, info = jax.jit(ascend)(w, sam(0.1).init(w), inputs)
        assert value[1] == info.aux == {"number": 3, "half": 0.5}


@pytest.mark.parametrize("options", [{"microbatches": 4}, {"groups": 2, "microbatches": 2}])
def test_a_mean_over_tokens_divides_by_the_number_of_the_whole_batch(options):
    """Rows differ in how many tokens they have, so the mean of the parts' means is another one."""
    inputs, targets = BATCH
    mask = np.arange(3)[None] < 1 + np.arange(64)[:, None] % 2 * 2

    def token_sum(params, inputs, targets, mask):
        hidden = jnp.tanh(inputs @ params["hidden"]["kernel"])
        return jnp.sum((hidden @ params["head"]["kernel"] - targets) ** 2 * mask)

    def token_mean(params, inputs, targets, mask):
        return token_sum(params, inputs, targets, mask) / jnp.sum(mask)

    def of_parts(params, inputs, targets, mask, total):
        return token_sum(params, inputs, targets, mask) * 4 / total

    params, ascent, batch = network_params(), sam(0.0), (inputs, targets, mask)
    expected = jax.value_and_grad(token_mean)(params, *batch)
    ascend = sharp_value_and_grad(of_parts, ascent, batch_argnums=(1, 2, 3), **options)
    found, _, _ = jax.jit(ascend)(params, ascend.init(params), *batch, mask.sum())
    assert_close(found, expected)
    natural = sharp_value_and_grad(token_mean, ascent, **options)
    naive, _, _ = jax.jit(natural)(params, ascend.init(params), *batch)
    assert abs(naive[0] - expected[0]) > 1e-3 * expected[0]


def test_only_what_holds_the_batch_is_split():
    options = {"microbatches": 4, "batch_argnums": (2, 3)}
    optimizer, ascent = optax.sgd(0.1), zsharp(0.1)
    state = init_state(network_params(), optimizer, ascent)
    whole, expected = sam_step(moving_statistics_loss, optimizer, ascent, has_aux=True)(
        init_state(network_params(), optimizer, ascent), STATISTICS, *BATCH
    )
    step = sam_step(moving_statistics_loss, optimizer, ascent, has_aux=True, **options)
    state, info = step(state, STATISTICS, *BATCH)
    assert_close((state, info), (whole, expected))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_gradients_are_added_up_in_float32(dtype):
    def loss_fn(w, inputs):
        return jnp.sum(w * jnp.mean(inputs)).astype(jnp.float32)

    inputs = jnp.asarray(np.repeat([1.0, 2.0**-10], [1, 1023]), dtype)  # mean 2^-9 - 2^-20
    w = jnp.zeros(1, dtype)
    _, gradient = jax.jit(mean_value_and_grad(loss_fn, microbatches=1024))(w, inputs)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, (1 + 1023 * 2.0**-10) / 1024, rtol=2.0**-8)


@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("ascent", ASCENTS.values(), ids=ASCENTS)
@pytest.mark.fast_for("zsharp-8", "asam-2")
def test_each_group_is_perturbed_by_its_own_gradient(ascent, groups):
    (loss, gradients), _, info = sharp_gradients(ascent, groups=groups)
    alone = [sharp_gradients(ascent, block) for block in blocks(groups)]
    expected = jax.tree.map(lambda *each: sum(each) / groups, *alone)
    assert_close(((loss, gradients), info), (expected[0], expected[2]))

    (_, together), _, _ = sharp_gradients(ascent)
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), gradients, together)
    assert max(jax.tree.leaves(differences)) > 1e-3


def test_groups_in_microbatches():
    assert_close(
        sharp_gradients(zsharp(0.1, 0.8), groups=4, microbatches=4),
        sharp_gradients(zsharp(0.1, 0.8), groups=4),
    )


def test_the_running_mean_of_groups_is_that_of_the_batch():
    (_, _), (grouped, _), _ = sharp_gradients(friendly_sam(0.1), groups=4)
    (_, _), (together, _), _ = sharp_gradients(friendly_sam(0.1))
    assert_close(grouped, together)


def test_statistics_of_groups_are_local_or_synced_as_the_model_asks():
    def variance(inputs, axis_name):
        mean, square = jnp.mean(inputs), jnp.mean(inputs**2)
        if axis_name:
            mean, square = jax.lax.pmean((mean, square), axis_name)
        return square - mean**2

    inputs, ascent = jnp.arange(8.0), sam(0.1)
    for axis_name, expected in ((None, 0.25), ("groups", np.var(np.arange(8)))):
        ascend = sharp_value_and_grad(
            lambda w, x, name=axis_name: (jnp.mean(w * x), variance(x, name)),
            ascent,
            has_aux=True,
            groups=4,
        )
        w = jnp.array(1.0)
        (_, _), _, info = ascend(w, ascent.init(w), inputs)
        np.testing.assert_allclose(info.aux, expected, rtol=1e-6)


def test_a_plain_step_of_groups_saves_the_second_pass():
    ascent = sam(periodic_rho(0.1, every=2, start=1))
    ascend = sharp_value_and_grad(network_loss, ascent, groups=4, plain_if_zero=True)
    always = sharp_value_and_grad(network_loss, ascent, groups=4)
    params = network_params()

    def conditions(ascend):  # norms have some too, for what differs between platforms
        jaxpr = jax.make_jaxpr(ascend)(params, ascent.init(params), *BATCH)
        return str(jaxpr).count(" cond[")

    assert conditions(ascend) == conditions(always) + 1
    (_, gradients), state, info = jax.jit(ascend)(params, ascent.init(params), *BATCH)
    assert_close(gradients, jax.grad(network_loss)(params, *BATCH))
    (_, gradients), _, info = jax.jit(ascend)(params, state, *BATCH)
    (_, expected), _, _ = sharp_gradients(sam(0.1), groups=4)
    assert_close(gradients, expected)
    np.testing.assert_allclose(info.perturbation_norm, 0.1, rtol=1e-5)


def test_a_gradient_function_in_microbatches_serves_sharpness_aware():
    in_turn = mean_value_and_grad(network_loss, microbatches=4)
    tx, params = sharpness_aware(optax.sgd(0.1), zsharp(0.1)), network_params()

    def grad_fn(params):
        return in_turn(params, *BATCH)[1]

    updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
    optimizer, ascent = optax.sgd(0.1), zsharp(0.1)
    expected, _ = sam_step(network_loss, optimizer, ascent)(
        init_state(params, optimizer, ascent), *BATCH
    )
    assert_close(optax.apply_updates(params, updates), expected.params)


@pytest.mark.parametrize("name", ["groups", "microbatches"])
def test_a_bad_split_is_refused(name):
    for value in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer of at least 1, got"):
            sharp_value_and_grad(network_loss, sam(0.1), **{name: value})
    with pytest.raises(TypeError, match=f"`{name}` must be a number, got the string '2'"):
        sharp_value_and_grad(network_loss, sam(0.1), **{name: "2"})
    with pytest.raises(
        ValueError, match=f"`{name}` must divide the batch, got 64 examples .* 5 equal"
    ):
        sharp_gradients(sam(0.1), **{name: 5})


@pytest.mark.parametrize("name", ["groups", "microbatches"])
def test_inputs_that_hold_no_batch_are_refused_with_a_way_out(name):
    ascent, params = sam(0.1), network_params()

    def ascend(statistics, **options):
        ascend = sharp_value_and_grad(moving_statistics_loss, ascent, True, **options)
        return ascend(params, ascent.init(params), statistics, *BATCH)

    for statistics in (STATISTICS, jnp.ones(8)):
        with pytest.raises(ValueError, match="name those that do in `batch_argnums`"):
            ascend(statistics, **{name: 2})
    for argnums in (0, 4, (1, 5)):
        for parts in (1, 2):
            with pytest.raises(ValueError, match=r"`batch_argnums` must name arguments .* 1 to 3"):
                ascend(STATISTICS, **{name: parts, "batch_argnums": argnums})
    with pytest.raises(ValueError, match="`batch_argnums` must be an integer or a sequence"):
        ascend(STATISTICS, **{name: 2, "batch_argnums": "images"})
