"""What a step takes when many runs are trained at once, beside a run alone.

    JAX_DEFAULT_MATMUL_PRECISION=float32 python benchmarks/at_once.py --runs 120

Trains ZSharp with resnet8 on handwritten digits, a part of whose labels is wrong: one run; many as
one program whose convolutions are products of matrices, as in the benchmark; and as many with the
grouped convolutions that `jax.vmap` makes. Prints a Markdown table. Needs the extra `bench`.
"""

import argparse
import contextlib
import dataclasses
import statistics
import time

import jax
import numpy as np
import side_by_side

from zsharp_jax.benchmark.datasets.images import load
from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training import one_run
from zsharp_jax.benchmark.training.device_data import on_device_at_once
from zsharp_jax.benchmark.training.images import RunImages
from zsharp_jax.benchmark.training.program import compile_program

HEADER = ("runs", "convolutions", "ms a step", "ms a step and run", "s to compile")
SETTINGS = Settings(
    dataset="digits", model="resnet8", method="zsharp", seed=0, epochs=40, batch_size=100,
    crop_padding=0, flip=False, label_noise=0.4, split_seed=True,
)  # fmt: skip
RADII = 6  # of each seed


def main() -> None:
    parser = argparse.ArgumentParser(description="Times a step of many runs at once.")
    parser.add_argument("--runs", type=int, default=120, help="default: %(default)s")
    parser.add_argument("--calls", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    images = RunImages(load("digits", Origin()), options.runs)
    rows = [("1", "XLA's", *measure(images, None, options.calls))]
    rows.append((str(options.runs), "products", *measure(images, options.runs, options.calls)))
    one_run.quick_at_once = contextlib.nullcontext
    rows.append((str(options.runs), "grouped", *measure(images, options.runs, options.calls)))
    print(side_by_side.markdown(HEADER, rows))


def measure(images: RunImages, at_once: int | None, calls: int) -> tuple[str, ...]:
    program = compile_program(SETTINGS, images.of(SETTINGS), at_once)
    runs = [dataclasses.replace(SETTINGS, seed=run // RADII) for run in range(at_once or 1)]
    key, rho, data = jax.random.key(0), np.float32(0.1), program.data
    if at_once:
        key = jax.vmap(jax.random.key)(np.array([each.seed for each in runs], np.uint32))
        rho = np.array([0.1 * (1 + run % RADII) for run in range(at_once)], np.float32)
        data = on_device_at_once(tuple(images.of(each) for each in runs))
    order, carry = program.draw_order(key, np.int32(0)), program.start(key)
    seconds = []
    for _ in range(1 + calls):  # the first warms up
        started = time.perf_counter()
        carry, info = program.step(carry, data, key, order, rho)
        jax.block_until_ready(info.loss)
        seconds.append((time.perf_counter() - started) / program.steps_at_once)
    step = 1e3 * statistics.median(seconds[1:])
    of_run = step / (at_once or 1)
    return f"{step:.2f}", f"{of_run:.2f}", f"{program.compile_seconds:.1f}"


if __name__ == "__main__":
    main()
