"""How the filter's time and memory grow with the number of parameters.

    python benchmarks/growth.py --out growth.json --plot growth.png

The parameters are ten square layers. The exponent is the slope of a straight line through the
logarithms of sizes and median seconds: 1 where ten times the parameters take ten times as long.
"""

import argparse
import functools
import io
import math
import os
import pathlib
import statistics

import jax
import numpy as np
import optax
import side_by_side
from filter import QUANTILE, copy, heavy_tailed
from matplotlib.figure import Figure

from zsharp_jax import zscore_filter
from zsharp_jax.benchmark.reporting.looks import look_of

LAYERS = 10
SCOPES = ("layer", "global")
HEADER = ("parameters", "by layer, ms", "ns an entry", "global, ms", "copy (g + 1), ms",
          "MB temporary")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the filter on growing networks.")
    parser.add_argument("--most", type=float, default=8,
                        help="the decimal logarithm of the largest size (default: 8)")  # fmt: skip
    parser.add_argument("--turns", type=int, default=20, help="of each contender (default: 20)")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file of all figures")
    parser.add_argument("--plot", type=pathlib.Path, help="a PNG file")
    options = parser.parse_args()

    results = [measure(10**power, options.turns) for power in np.arange(5, options.most + 0.1, 0.5)]
    slopes = {scope: exponent(results, scope) for scope in SCOPES}
    rows = [row(result) for result in results]
    print(side_by_side.markdown(HEADER, rows))
    print(", ".join(f"exponent {scope}: {slope:.3f}" for scope, slope in slopes.items()))
    if options.out:
        side_by_side.write_json(options.out, {"results": results, "exponents": slopes})
    if options.plot:
        options.plot.write_bytes(plot(results, slopes))


def measure(parameters: float, turns: int) -> dict:
    side = 8 * round(math.sqrt(parameters / LAYERS) / 8)
    gradients = [heavy_tailed((side, side), seed) for seed in range(LAYERS)]
    filters = {scope: compiled_filter(scope, gradients) for scope in SCOPES}
    contenders = {name: functools.partial(each, gradients) for name, each in filters.items()}
    contenders["copy"] = functools.partial(copy, gradients)
    return {
        "parameters": LAYERS * side**2,
        "seconds": side_by_side.time_in_turn(contenders, turns, float("inf")),
        "temporary_bytes": side_by_side.temporary_bytes(filters["layer"]),
    }


def compiled_filter(scope, gradients):
    transformation = zscore_filter(QUANTILE, scope=scope)
    keep = jax.jit(lambda gradients: transformation.update(gradients, optax.EmptyState())[0])
    return keep.lower(gradients).compile()


def exponent(results: list[dict], scope: str) -> float:
    sizes = np.log([result["parameters"] for result in results])
    medians = np.log([statistics.median(result["seconds"][scope]) for result in results])
    return float(np.polyfit(sizes, medians, 1)[0])


def row(result: dict) -> list[str]:
    medians = {name: statistics.median(each) for name, each in result["seconds"].items()}
    return [
        f"{result['parameters']:,}",
        f"{1e3 * medians['layer']:.2f}",
        f"{1e9 * medians['layer'] / result['parameters']:.2f}",
        f"{1e3 * medians['global']:.2f}",
        f"{1e3 * medians['copy']:.2f}",
        f"{result['temporary_bytes'] / 1e6:.2f}",
    ]


def plot(results: list[dict], slopes: dict[str, float]) -> bytes:
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    sizes = [result["parameters"] for result in results]
    labels = {scope: f"scope {scope}, exponent {slope:.2f}" for scope, slope in slopes.items()}
    methods = ("zsharp", "zsharp_global", "copy")
    named = {**labels, "copy": "a copy (g + 1)"}.items()
    for (name, label), look in zip(named, map(look_of, methods), strict=True):
        medians = [1e3 * statistics.median(result["seconds"][name]) for result in results]
        axes.loglog(sizes, medians, label=label, **look.of_line)
    axes.set_title(
        f"zscore_filter, {LAYERS} square layers, {os.cpu_count()} CPU cores", fontsize="medium"
    )
    axes.set_xlabel("parameters")
    axes.set_ylabel("milliseconds (median)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


if __name__ == "__main__":
    main()
