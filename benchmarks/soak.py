"""Whether a long training stays as it is: memory does not grow, and nothing is compiled again.

    python benchmarks/soak.py --steps 20000

Trains a small residual network with ZSharp on random images. After a tenth of the steps it notes
how much memory the process holds, how many arrays JAX does, and how many programs were compiled;
at the end none of them may be more, memory by more than `--megabytes`. Exits with 1 otherwise.
"""

import argparse
import pathlib
import resource
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax import init_state, sam_step, zsharp
from zsharp_jax.models.resnet import ResNet

BATCH = (16, 8, 8, 1)


class Held(NamedTuple):
    """What a process holds."""

    megabytes: float
    arrays: int
    compilations: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains for long and watches memory.")
    parser.add_argument("--steps", type=int, default=20_000, help="(default: %(default)s)")
    parser.add_argument(
        "--megabytes",
        type=float,
        default=20,
        help="that memory may grow by after the first tenth of the steps (default: %(default)s)",
    )
    options = parser.parse_args()

    early, late = soak(options.steps)
    grown = late.megabytes - early.megabytes
    print(
        f"{options.steps} steps: {early.megabytes:.0f} MB after a tenth, {grown:+.1f} MB since, "
        f"{late.arrays - early.arrays:+d} arrays, {late.compilations - early.compilations:+d} "
        "compilations"
    )
    sys.exit(grown > options.megabytes or late[1:] != early[1:])


def soak(steps: int) -> tuple[Held, Held]:
    """What is held after a tenth of the steps, and after all."""
    compiled = []

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        del duration_secs, about
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    model, key = ResNet(blocks=1, widths=(16,), num_classes=10), jax.random.key(0)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros(BATCH), train=False))(key)

    def loss_fn(params, batch_stats, key):
        images_key, labels_key = jax.random.split(key)
        images = jax.random.normal(images_key, BATCH)
        labels = jax.random.randint(labels_key, BATCH[:1], 0, 10)
        logits, moved = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), moved["batch_stats"]

    optimizer, ascent = optax.adamw(1e-3), zsharp(rho=0.05)
    state = init_state(variables["params"], optimizer, ascent)
    step = sam_step(loss_fn, optimizer, ascent, has_aux=True)
    batch_stats, early, losses = variables["batch_stats"], None, 0.0
    fold_in = jax.jit(jax.random.fold_in)
    for number in range(steps):
        state, info = step(state, batch_stats, fold_in(key, number))
        batch_stats, losses = info.aux, losses + float(info.loss)
        if number + 1 == max(1, steps // 10):
            early = held(compiled)
    if early is None or not losses < float("inf"):
        raise RuntimeError(f"the losses of {steps} steps add up to {losses}")
    return early, held(compiled)


def held(compiled: list[str]) -> Held:
    """What the process holds now."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        memory = int(statm.read_text().split()[1]) * resource.getpagesize()
    else:  # not Linux: the most that it ever held, which grows with a leak as well
        unit = 1 if sys.platform == "darwin" else 1024  # bytes
        memory = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Held(memory / 1e6, len(jax.live_arrays()), len(compiled))


if __name__ == "__main__":
    main()
