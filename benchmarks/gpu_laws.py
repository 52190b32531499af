"""What a GPU can break: the library's laws, each checked on the device that is there.

A law returns figures to be written down, or raises an `AssertionError` that says what is wrong.
"""

import pathlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax

from zsharp_jax import SamState, init_state, sam_step, zscore_filter, zsharp

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import golden_run  # pyright: ignore[reportMissingImports]
import oracles  # pyright: ignore[reportMissingImports]

QUANTILE = 0.95
RHO = 0.05
LEARNING_RATE = 0.1
SHAPES = ((3,), (17, 33), (3, 3, 16, 16))
NARROW = (jnp.bfloat16, jnp.float16)
TOLERANCES = {"loss": 1e-3, "sharp_loss": 1e-2, "gradient_norm": 1e-2, "sharp_gradient": 5e-2}


def mask_is_numpys(largest: int) -> dict[str, Any]:
    """Random, tied and constant tensors of several shapes and dtypes, up to `largest` entries."""
    rng = np.random.default_rng(0)
    random = [rng.standard_normal(shape, np.float32) for shape in (*SHAPES, (largest,))]
    # Sums of whole numbers are exact in float32, so that ties are ties everywhere.
    tied = [rng.integers(-2, 3, shape).astype(np.float32) for shape in SHAPES[:2]]
    constant = [np.full((7, 11), 0.1, np.float32), np.zeros((5, 5), np.float32)]
    narrow = [each.astype(dtype) for each in (random[-2], tied[-1]) for dtype in NARROW]
    gradients = [*random, *tied, *constant, *narrow]

    kept = jax.jit(zscore_filter(QUANTILE, min_ndim=1).update)(gradients, optax.EmptyState())[0]
    for gradient, ours in zip(gradients, map(np.asarray, kept), strict=True):
        assert np.all((ours == 0) | (ours == gradient)), "a kept entry has changed"
        _check_mask(gradient, ours != 0, f"{gradient.dtype} of shape {gradient.shape}")
    return {"tensors": len(gradients), "largest": largest}


def _check_mask(gradient: np.ndarray, kept: np.ndarray, which: str) -> None:
    expected = oracles.keep_mask(gradient, QUANTILE) & (gradient != 0)
    differing = np.flatnonzero(kept != expected)
    if not len(differing):
        return
    # Float32 and float64 may differ about entries that lie at the threshold, and only there.
    deviation = np.abs(np.float64(gradient) - np.float64(gradient).mean())
    threshold = np.quantile(deviation, QUANTILE)
    distance = np.max(np.abs(deviation.flat[differing] - threshold)) / threshold
    assert distance < 1e-5, f"{which}: a mask differs {distance:.1e} off the threshold"
    difference = abs(int(kept.sum()) - int(expected.sum()))
    assert difference <= 1, f"{which}: {difference} entries too many or too few"


def golden_numbers(methods: Sequence[str]) -> dict[str, Any]:
    """Twenty steps of the authors' code in float64, to 1e-6."""
    with jax.enable_x64(True):
        optimizer = golden_run.optimizer()
        for method in methods:
            ascent = golden_run.ASCENTS[method]
            state = init_state(golden_run.tree("initial"), optimizer, ascent)
            step = sam_step(golden_run.loss_fn, optimizer, ascent)
            for clean_loss in golden_run.GOLDEN[f"{method}/clean_loss"]:
                state, info = step(state)
                np.testing.assert_allclose(info.loss, clean_loss, atol=1e-6)
            golden_run.assert_close(state.params, f"{method}/final")
    return {"methods": list(methods), "steps": golden_run.STEPS}


def memory_is_taken_over_and_nothing_compiled_again() -> dict[str, Any]:
    """A step takes over the memory of its state; the second and third call compile nothing."""
    compiled, here = [], threading.get_ident()

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        del duration_secs, about
        if "backend_compile" in event and threading.get_ident() == here:
            compiled.append(event)

    def loss_fn(w, inputs):
        return jnp.mean((inputs @ w) ** 2)

    optimizer, ascent = optax.adamw(1e-2), zsharp(RHO)
    state, step = (
        init_state(jnp.ones((64, 64)), optimizer, ascent),
        sam_step(loss_fn, optimizer, ascent),
    )
    inputs = jnp.ones((8, 64))
    first, _ = step(state, inputs)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state)), "the old state is still there"
    jax.monitoring.register_event_duration_secs_listener(listen)
    second, _ = step(first, inputs)
    jax.block_until_ready(step(second, inputs))
    assert not compiled, f"{len(compiled)} programs were compiled after the first step"
    return {"compilations": 0}


def law_step(network: str, batch_size: int, platform: str) -> tuple[Callable[..., Any], Any]:
    """A compiled step in float32, whose update is the sharp gradient, and what it starts from."""
    device = jax.local_devices(backend=platform)[0]
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        training = networks.training_arrays(network, jnp.float32, batch_size)
        optimizer, ascent = optax.sgd(LEARNING_RATE), zsharp(RHO, QUANTILE)
        arguments = (init_state(training.params, optimizer, ascent), *training.inputs)
        step = sam_step(training.loss_fn, optimizer, ascent, has_aux=True)
        return jax.jit(step).lower(*arguments).compile(), arguments


def step_is_that_of_a_cpu(found: tuple[SamState, Any], expected: tuple[SamState, Any],
                          start: SamState) -> dict[str, float]:  # fmt: skip
    """Compares losses, norm and sharp gradient of a step in float32 with those of a CPU."""
    (state, info), (cpu_state, cpu_info) = jax.tree.map(np.asarray, (found[:2], expected[:2]))
    moved = [_flat(each.params) - _flat(start.params) for each in (state, cpu_state)]
    differences = {
        name: float(abs(getattr(info, name) / getattr(cpu_info, name) - 1))
        for name in TOLERANCES
        if name != "sharp_gradient"
    }
    between = np.linalg.norm(moved[0] - moved[1]) / np.linalg.norm(moved[1])
    differences["sharp_gradient"] = float(between)
    for name, difference in differences.items():
        assert difference <= TOLERANCES[name], f"{name} is {difference:.1e} off that of a CPU"
    length = float(info.perturbation_norm)
    assert abs(length / RHO - 1) < 1e-5, f"the perturbation has a length of {length}, not {RHO}"
    return differences


def _flat(params: Any) -> np.ndarray:
    return np.concatenate([np.float64(leaf).ravel() for leaf in jax.tree.leaves(params)])
