"""What the filter costs beside other ways to the same percentile, on the tensors of real networks.

    python benchmarks/filter.py --out filter.json

All of them are timed in turn in one process, warm; a Markdown table of medians and ratios is
printed. Gradients are random: normal, scaled entry by entry by an exponential, so heavy in their
tails. PyTorch is timed if it is installed.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax import zscore_filter
from zsharp_jax.models import MODELS

NETWORKS = ("resnet20", "resnet56", "resnet110", "vgg16_bn", "vit_7_8_8_384", "vit_7_8_12_768")
QUANTILE = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the filter beside other ways.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--repeats", type=int, default=20, help="timings of each (default 20)")
    parser.add_argument("--slow-repeats", type=int, default=3, help="of what sorts (default 3)")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file of all timings")
    arguments = parser.parse_args()

    results = {}
    for network in arguments.networks:
        results[network] = measure(gradients_of(network), arguments)
        print(table(network, results[network]), flush=True)
    if arguments.out:
        about = {"jax": jax.__version__, "device": str(jax.devices()[0]), "cpu": platform.machine()}
        arguments.out.write_text(json.dumps({"about": about, "seconds": results}, indent=1))


def gradients_of(network: str) -> list[jax.Array]:
    """Random gradients for the filtered tensors of a network for 10 classes and 32 pixels."""
    model = MODELS[network](num_classes=10)
    init = lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)  # noqa: E731
    leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))["params"])
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(size=leaf.shape) * rng.exponential(size=leaf.shape), jnp.float32)
        for leaf in leaves
        if leaf.ndim > 1
    ]


def measure(gradients: list[jax.Array], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each contender, which all keep the same number of entries."""
    contenders = {
        "copy (g + 1)": (jax.jit(lambda gs: [g + 1 for g in gs]), arguments.repeats),
        "layer": (compiled_filter("layer"), arguments.repeats),
        "global": (compiled_filter("global"), arguments.repeats),
        "jnp.quantile": (per_tensor(jnp_quantile), arguments.slow_repeats),
        "jnp.sort": (per_tensor(jnp_sort), arguments.slow_repeats),
        "lax.top_k": (per_tensor(lax_top_k), arguments.slow_repeats),
        "numpy.partition": (numpy_partition, arguments.slow_repeats),
    }
    if importlib.util.find_spec("torch") is not None:
        contenders["torch.kthvalue"] = (torch_kthvalue(), arguments.slow_repeats)

    seconds = {name: [] for name in contenders}
    kept = {name: count(run(gradients)) for name, (run, _) in contenders.items()}  # and warm up
    for turn in range(arguments.repeats):
        for name, (run, repeats) in contenders.items():
            if turn < repeats:
                seconds[name].append(seconds_of(run, gradients))
    same = {kept[name] for name in kept if name not in ("copy (g + 1)", "global")}
    if len(same) != 1:
        raise RuntimeError(f"the contenders must keep equally many entries, got {kept}")
    return seconds


def seconds_of(run: Callable, gradients: list[jax.Array]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(run(gradients))
    return time.perf_counter() - started


def count(kept: list) -> int:
    return sum(int(np.count_nonzero(np.asarray(each))) for each in kept)


def table(network: str, seconds: dict[str, list[float]]) -> str:
    ours = statistics.median(seconds["layer"])
    rows = [
        f"| {network}: {name} | {1e3 * statistics.median(each):.1f} | {1e3 * min(each):.1f} to "
        f"{1e3 * max(each):.1f} | {statistics.median(each) / ours:.2f} |"
        for name, each in seconds.items()
    ]
    return "\n".join(
        ["| | median ms | spread | over ours |", "| --- | ---: | ---: | ---: |", *rows]
    )


def compiled_filter(scope: Literal["layer", "global"]) -> Callable:
    transformation = zscore_filter(QUANTILE, scope=scope)
    return jax.jit(lambda gradients: transformation.update(gradients, optax.EmptyState())[0])


def per_tensor(threshold: Callable[[jax.Array], jax.Array]) -> Callable:
    def keep(gradient):
        deviation = jnp.abs(gradient - jnp.mean(gradient))
        return jnp.where(deviation > threshold(deviation), gradient, 0)

    return jax.jit(lambda gradients: [keep(gradient) for gradient in gradients])


def rank(size: int) -> int:
    return math.floor(QUANTILE * (size - 1))


def jnp_quantile(deviation: jax.Array) -> jax.Array:
    return jnp.quantile(deviation, QUANTILE)


def jnp_sort(deviation: jax.Array) -> jax.Array:
    return jnp.sort(deviation.ravel())[rank(deviation.size)]


def lax_top_k(deviation: jax.Array) -> jax.Array:
    return jax.lax.top_k(deviation.ravel(), deviation.size - rank(deviation.size))[0][-1]


def numpy_partition(gradients: list[jax.Array]) -> list[np.ndarray]:
    kept = []
    for gradient in map(np.asarray, gradients):
        deviation = np.abs(gradient - gradient.mean())
        at = rank(gradient.size)
        threshold = np.partition(deviation, at, axis=None)[at]
        kept.append(np.where(deviation > threshold, gradient, 0))
    return kept


def torch_kthvalue() -> Callable:
    import torch  # pyright: ignore[reportMissingImports]

    def keep(gradient):
        deviation = (gradient - gradient.mean()).abs()
        threshold = torch.kthvalue(deviation.flatten(), rank(gradient.numel()) + 1).values
        return torch.where(deviation > threshold, gradient, 0)

    # Tensors share the memory of the arrays: nothing is copied while the clock runs.
    return lambda gradients: [keep(torch.from_dlpack(gradient)) for gradient in gradients]


if __name__ == "__main__":
    main()
