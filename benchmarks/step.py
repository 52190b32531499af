"""What a whole training step costs: ZSharp beside SAM, AdamW, a sorted percentile and Optax's SAM.

    python benchmarks/step.py --out step.json

Each step is compiled once, as in training: clean pass, ascent, sharp pass, AdamW. It tells ratios
of times, the time to compile, and the memory that the compiled step takes.
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import networks
import optax
import side_by_side
from filter import QUANTILE, by_layer_with, jnp_quantile

from zsharp_jax import init_state, sam, sam_step, scale_to_norm, zsharp
from zsharp_jax.benchmark.training.steps import plain_step

NETWORKS = ("resnet56", "resnet110", "vgg16_bn", "vit_7_8_8_384", "vit_7_8_12_768")
RHO = 0.05
# Those that the figures are about take all turns; the others are far off or for comparison.
MAIN = ("adamw", "plain step of zsharp", "sam, one pass", "two gradients", "sam", "zsharp")
HEADER = ("step", "ms (median)", "quartiles", "turns", "over adamw", "over sam", "s to compile",
          "MB temporary")  # fmt: skip

Step = Callable[..., tuple[Any, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Times whole training steps.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"),
                        help="that the network computes in (default: float32)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, help="default: 32 on a CPU, else 256")
    parser.add_argument("--turns", type=int, default=20, help="of each contender (default: 20)")
    parser.add_argument("--other-turns", type=int, default=5,
                        help=f"of all but {', '.join(MAIN)} (default: 5)")  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file of all figures")
    options = parser.parse_args()
    default = 32 if jax.default_backend() == "cpu" else 256
    batch_size = options.batch_size or default

    results = {}
    for network in options.networks:
        results[network] = measure(network, options.dtype, batch_size, options)
        print(f"\n{network}, {options.dtype}, batch {batch_size}\n")
        print(table(results[network]), flush=True)
        if options.out:
            about = {"dtype": options.dtype, "batch_size": batch_size}
            side_by_side.write_json(options.out, about | {"results": results})
        jax.clear_caches()


def measure(
    network: str, dtype: str, batch_size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of each turn, seconds to compile, bytes, and the bytes of one float32 gradient."""
    training = networks.training_arrays(network, dtype, batch_size)
    running = {}
    for name, (start, step) in contenders(training.loss_fn).items():
        state = start(training.params)
        compiled = CompiledStep(step, state, training.inputs)
        running[name] = Running(compiled, state, training.inputs)
    main = {name: running[name].run for name in MAIN}
    others = {"sam": running["sam"].run} | {
        name: each.run for name, each in running.items() if name not in MAIN
    }
    return {
        "seconds": side_by_side.time_in_turn(main, options.turns, float("inf")),
        "other_seconds": side_by_side.time_in_turn(others, options.other_turns, float("inf")),
        "compile_seconds": {name: each.compiled.compile_seconds for name, each in running.items()},
        "temporary_bytes": {name: each.compiled.temporary_bytes for name, each in running.items()},
        "gradient_bytes": sum(4 * each.size for each in jax.tree.leaves(training.params)),
    }


class CompiledStep:
    """A step that is compiled for the shapes of its state and inputs, or arrays like them."""

    def __init__(self, step: Step, state: Any, inputs: tuple[Any, ...]) -> None:
        started = time.perf_counter()
        self.call = jax.jit(step, donate_argnums=0).lower(state, *inputs).compile()
        self.compile_seconds = time.perf_counter() - started
        self.temporary_bytes = side_by_side.temporary_bytes(self.call)


class Running:
    """A compiled step with the state it has come to, which it takes over at each call."""

    def __init__(self, compiled: CompiledStep, state: Any, inputs: tuple[Any, ...]) -> None:
        self.compiled = compiled
        self._state, self._inputs = state, inputs

    def run(self, steps: int = 1) -> Any:
        told = None
        for _ in range(steps):
            self._state, told = self.compiled.call(self._state, *self._inputs)
        return told


def contenders(loss_fn: Callable[..., Any]) -> dict[str, tuple[Callable[[Any], Any], Step]]:
    """For each contender how its state starts, and its step."""
    optimizer = networks.OPTIMIZER
    sorted_filter = optax.chain(optax.stateless(filter_by_sorting), scale_to_norm(RHO))

    never = optax.constant_schedule(0.0)

    def sharp(ascent, one_pass=False, **options):
        start = functools.partial(init_state, optimizer=optimizer, ascent=ascent, one_pass=one_pass)
        options |= {"has_aux": True, "one_pass": one_pass}
        return start, sam_step(loss_fn, optimizer, ascent, **options)

    bare = functools.partial(init_state, optimizer=optimizer, ascent=optax.identity())
    return {
        "adamw": (bare, plain_step(loss_fn, optimizer)),
        "plain step of zsharp": sharp(zsharp(never, QUANTILE), plain_if_zero=True),
        "sam, one pass": sharp(sam(RHO), one_pass=True),
        "two gradients": (bare, two_gradients(loss_fn, optimizer)),
        "sam": sharp(sam(RHO)),
        "zsharp": sharp(zsharp(RHO, QUANTILE)),
        "zsharp, sorted": sharp(sorted_filter),
        "optax.contrib.sam": optax_sam(loss_fn, optimizer, opaque_mode=False),
        "optax.contrib.sam, opaque": optax_sam(loss_fn, optimizer, opaque_mode=True),
    }


def filter_by_sorting(gradients: Any, params: Any = None) -> Any:
    del params
    keep = by_layer_with(jnp_quantile)
    return jax.tree.map(lambda each: keep([each])[0] if each.ndim > 1 else each, gradients)


def two_gradients(loss_fn: Callable[..., Any], optimizer: optax.GradientTransformation) -> Step:
    """AdamW with two gradient evaluations a step, which is the least that SAM can cost."""
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def step(state, batch_stats, images, labels):
        value, first = value_and_grad(state.params, batch_stats, images, labels)
        # In another order, lest XLA see that both are the same.
        _, second = value_and_grad(state.params, batch_stats, images[::-1], labels[::-1])
        gradients = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state), value

    return step


def optax_sam(
    loss_fn: Callable[..., Any], optimizer: optax.GradientTransformation, opaque_mode: bool
) -> tuple[Callable[[Any], Any], Step]:
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    theirs = optax.contrib.sam(optimizer, adversary, sync_period=2, opaque_mode=opaque_mode)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def start(params):
        own = jax.tree.map(jnp.array, params)
        return own, jax.tree.map(jnp.array, theirs.init(params))

    def step(state, *inputs):
        (params, opt_state), value = state, None
        for _ in range(1 if opaque_mode else 2):
            told, gradients = value_and_grad(params, *inputs)
            value = told if value is None else value  # of the clean pass
            grad_fn = lambda params, _: value_and_grad(params, *inputs)[1]  # noqa: E731
            updates, opt_state = theirs.update(gradients, opt_state, params, grad_fn=grad_fn)
            params = optax.apply_updates(params, updates)
        return (params, opt_state), value

    return start, step


def table(result: dict[str, Any]) -> str:
    rows = []
    for name in result["compile_seconds"]:
        seconds = result["seconds" if name in MAIN else "other_seconds"]
        over_adamw = f"{side_by_side.ratio(seconds, name, 'adamw'):.3f}" if name in MAIN else ""
        rows.append([
            name,
            *side_by_side.spread(seconds[name], 1e3, 0),
            over_adamw,
            f"{side_by_side.ratio(seconds, name, 'sam'):.3f}",
            f"{result['compile_seconds'][name]:.1f}",
            f"{result['temporary_bytes'][name] / 1e6:.1f}",
        ])  # fmt: skip
    over_two = side_by_side.ratio(result["seconds"], "sam", "two gradients")
    memory = result["temporary_bytes"]["zsharp"] - result["temporary_bytes"]["sam"]
    return (
        f"{side_by_side.markdown(HEADER, rows)}\n\nsam over two gradients: {over_two:.3f}; zsharp "
        f"beyond sam in memory: {memory / result['gradient_bytes']:.3f} copies of the gradient"
    )


if __name__ == "__main__":
    main()
