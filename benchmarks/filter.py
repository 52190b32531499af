"""What the filter costs beside other ways to the same percentile.

    python benchmarks/filter.py --out filter.json

On the filtered tensors of real networks, all layers in one call, and on single tensors. Gradients
are random: normal, scaled entry by entry by an exponential, so heavy in their tails. PyTorch is
timed if it is installed.
"""

import argparse
import importlib.util
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import side_by_side

from zsharp_jax import zscore_filter

NETWORKS = ("resnet20", "resnet56", "resnet110", "vgg16_bn", "vit_7_8_8_384", "vit_7_8_12_768")
POWERS = (10, 14, 18, 22, 24, 27)
QUANTILE = 0.95
HEADER = ("filter", "ms (median)", "quartiles", "turns", "over ours")

Filter = Callable[[list[Any]], list[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the filter beside other ways.")
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--powers", nargs="*", type=int, default=POWERS, metavar="N",
                        help="single tensors of 2^N entries (default: %(default)s)")  # fmt: skip
    parser.add_argument("--turns", type=int, default=20, help="of each contender (default: 20)")
    parser.add_argument("--most-seconds", type=float, default=40,
                        help="that a contender may take (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file of all timings")
    options = parser.parse_args()

    cases = {network: gradients_of(network) for network in options.networks}
    cases |= {f"one tensor of 2^{power}": [heavy_tailed((2**power,))] for power in options.powers}
    results = {}
    for case, gradients in cases.items():
        results[case] = measure(gradients, options.turns, options.most_seconds)
        print(f"\n{case}\n\n{table(results[case])}", flush=True)
        if options.out:
            side_by_side.write_json(options.out, {"seconds": results})


def gradients_of(network: str) -> list[jax.Array]:
    """Random gradients for the filtered tensors of a network for 10 classes and 32 pixels."""
    shapes = networks.filtered_shapes(network)
    return [heavy_tailed(leaf.shape, seed) for seed, leaf in enumerate(shapes)]


def heavy_tailed(shape: Sequence[int], seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(shape, np.float32)
    return jnp.asarray(normal * rng.standard_exponential(shape, np.float32))


def measure(gradients: list[jax.Array], turns: int, most_seconds: float) -> dict[str, list[float]]:
    """Seconds of each contender. All that cut each layer for itself keep equally many entries."""
    by_layer = by_layer_contenders() | {"numpy.partition": numpy_partition}
    over_all = {"ours, global": ours("global"), "jnp.quantile, global": jnp_quantile_over_all}
    if importlib.util.find_spec("torch") is not None:
        from with_torch import torch_quantile_over_all

        over_all["torch.quantile, global"] = torch_quantile_over_all
    if len(gradients) == 1:
        over_all = {}

    contenders = {"copy (g + 1)": copy} | by_layer | over_all
    check_counts({name: count(run(gradients)) for name, run in by_layer.items()})
    check_counts({name: count(run(gradients)) for name, run in over_all.items()})
    return side_by_side.time_in_turn(
        {name: lambda run=run: run(gradients) for name, run in contenders.items()},
        turns,
        most_seconds,
    )


def by_layer_contenders() -> dict[str, Filter]:
    """All that cut each layer for itself, where the gradients lie."""
    contenders = {
        "ours, by layer": ours("layer"),
        "jnp.quantile, by layer": by_layer_with(jnp_quantile),
        "jnp.sort": by_layer_with(jnp_sort),
        "jax.lax.top_k": by_layer_with(lax_top_k),
    }
    if importlib.util.find_spec("torch") is not None:
        from with_torch import torch_kthvalue, torch_quantile

        contenders |= {
            "torch.quantile, by layer": torch_quantile,
            "torch.kthvalue": torch_kthvalue,
        }
    return contenders


def count(kept: list[Any]) -> int:
    on_host = [each.cpu() if hasattr(each, "cpu") else each for each in kept]  # PyTorch's
    return sum(int(np.count_nonzero(np.asarray(each))) for each in on_host)


def check_counts(kept: dict[str, int]) -> None:
    """Refuses filters of which one keeps more than another."""
    # A rounding of |z| may move an entry over a threshold that others have interpolated.
    if kept and max(kept.values()) - min(kept.values()) > max(1, 1e-6 * max(kept.values())):
        raise RuntimeError(f"the contenders must keep equally many entries, got {kept}")


def table(seconds: dict[str, list[float]]) -> str:
    rows = []
    for name, each in seconds.items():
        over = "ours, global" if name.endswith("global") else "ours, by layer"
        times = side_by_side.ratio(seconds, name, over)
        digits = 3 if max(each) < 0.01 else 1
        rows.append([name, *side_by_side.spread(each, 1e3, digits), f"{times:.2f}"])
    return side_by_side.markdown(HEADER, rows)


def ours(scope: Any) -> Filter:
    transformation = zscore_filter(QUANTILE, scope=scope, min_ndim=1)
    return jax.jit(lambda gradients: transformation.update(gradients, optax.EmptyState())[0])


@jax.jit
def copy(gradients: list[jax.Array]) -> list[jax.Array]:
    return [each + 1 for each in gradients]


def by_layer_with(threshold: Callable[[jax.Array], jax.Array]) -> Filter:
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


@jax.jit
def jnp_quantile_over_all(gradients: list[jax.Array]) -> list[jax.Array]:
    zscores = [jnp.abs(each - jnp.mean(each)) / jnp.std(each) for each in gradients]
    threshold = jnp.quantile(jnp.concatenate([each.ravel() for each in zscores]), QUANTILE)
    return [
        jnp.where(z > threshold, gradient, 0)
        for z, gradient in zip(zscores, gradients, strict=True)
    ]


def numpy_partition(gradients: list[jax.Array]) -> list[np.ndarray]:
    kept = []
    for gradient in map(np.asarray, gradients):
        deviation = np.abs(gradient - gradient.mean())
        at = rank(gradient.size)
        threshold = np.partition(deviation, at, axis=None)[at]
        kept.append(np.where(deviation > threshold, gradient, 0))
    return kept


if __name__ == "__main__":
    main()
