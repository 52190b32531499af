"""`sam_step` on the devices of several hosts, with the same numbers on any number of them.

    python examples/many_hosts.py                               # one process
    python examples/many_hosts.py --coordinator 10.0.0.1:8476 --processes 2 --process 0
    srun python examples/many_hosts.py --cluster                # JAX asks SLURM for the same three

Each host reads its own rows of every batch, and the first one writes. Where a host dies the others
stop; where one gets SIGTERM, as before it is taken away, all stop after the same step, with a
checkpoint. `--resume` goes on from the last checkpoint, on as many hosts as there are then.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import threading
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

try:
    import flax.serialization
    import grain
except ModuleNotFoundError:
    raise SystemExit('Flax or Grain is missing: pip install -e ".[hosts]"') from None

from zsharp_jax import init_state, sam_step, zsharp

BATCH = 64  # rows of all hosts together

terminated = threading.Event()  # by SIGTERM, where this is the only process


class Rows:
    """What is learnt: anything with a length that gives a row for its number will do."""

    def __len__(self):
        return 4096

    def __getitem__(self, index):
        inputs = np.random.default_rng(index).normal(size=8).astype(np.float32)
        return inputs, np.sin(inputs).sum(keepdims=True)


def own_parts(first, last):
    """This host's rows of the batches from `first` up to `last`: of n hosts, every n-th row."""
    rows = grain.MapDataset.source(Rows()).seed(0).shuffle().repeat()
    own_rows = rows[jax.process_index() :: jax.process_count()]
    batches = own_rows.batch(BATCH // jax.process_count())[first:last]
    # By default sixteen threads read 500 batches ahead, and take the time of the training.
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))


def loss_fn(params, inputs, targets):
    hidden = jnp.tanh(inputs @ params["hidden"])
    return jnp.mean((hidden @ params["head"] - targets) ** 2)


def first_params():
    hidden_key, head_key = jax.random.split(jax.random.key(0))
    return {
        "hidden": 0.3 * jax.random.normal(hidden_key, (8, 64)),
        "head": 0.3 * jax.random.normal(head_key, (64, 1)),
    }


def write(path, content):
    """Writes the file whole or not at all."""
    making = path.with_suffix(".tmp")
    with making.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    making.replace(path)


def train(out, steps, checkpoint_every, resume):
    if BATCH % jax.device_count():
        raise ValueError(f"{BATCH} rows cannot be shared out to {jax.device_count()} devices.")
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    is_writer, checkpoint = jax.process_index() == 0, out / "checkpoint.msgpack"

    optimizer, ascent = optax.adam(3e-3), zsharp(rho=0.05)
    state = init_state(first_params(), optimizer, ascent)
    if resume and is_writer and checkpoint.exists():
        state = flax.serialization.from_bytes(state, checkpoint.read_bytes())
    state = multihost_utils.broadcast_one_to_all(state)  # so that one host alone needs the file
    start, loss, before = int(state.step), None, None
    state = jax.make_array_from_process_local_data(replicated, state)

    step = sam_step(loss_fn, optimizer, ascent)
    for done, part in enumerate(own_parts(start, steps), start + 1):
        state, info = step(state, *jax.make_array_from_process_local_data(split, part))
        jax.block_until_ready(before)  # so that few steps are under way where it must stop
        before = info
        # Of several processes any one may have got SIGTERM: JAX has all agree on a step that none
        # has begun. It counts from 0, also where the run goes on from a later one.
        stops = terminated.is_set() or multihost_utils.reached_preemption_sync_point(done - start)
        if done % checkpoint_every == 0 or done == steps or stops:
            loss = float(info.loss)  # waits for the step, and raises here if a host has died
            if is_writer:
                # A state that is split over the hosts needs Orbax, where each writes its own.
                write(checkpoint, flax.serialization.to_bytes(jax.device_get(state)))
                print(
                    f"step {done}: loss {loss:.4f}, |eps| {info.perturbation_norm:.4f}", flush=True
                )
        if stops:
            break
    done = int(state.step)
    if is_writer and done < steps:
        where = f"stopped after step {done} of {steps}"
        print(f"{where}; start all of them again with --resume", file=sys.stderr, flush=True)
    elif is_writer and loss is not None:  # else it had finished before
        result = {"steps": done, "loss": loss, "devices": jax.device_count()}
        write(out / "result.json", json.dumps(result).encode())
    return done, loss


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Train on the devices of several hosts.")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--process", type=int, help="the number of this one, from 0")
    parser.add_argument("--cluster", action="store_true", help="let JAX find out all three")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/many_hosts"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--checkpoint-every", type=int, default=50)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--code-when-stopped",
        metavar="CODE",
        type=int,
        default=0,
        help="exit code after SIGTERM, as some schedulers start only failures again (default: 0)",
    )
    options = parser.parse_args(arguments)
    by_hand = [options.coordinator, options.processes, options.process]
    if None in by_hand and by_hand != [None] * 3:
        parser.error("--coordinator, --processes and --process go together")

    if options.cluster or options.coordinator:
        # After so many seconds JAX ends those that wait for one that never comes, or that has given
        # no sign of life. From here on it catches SIGTERM.
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            initialization_timeout=60,
            heartbeat_timeout_seconds=20,
        )
    else:
        signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        done, loss = train(options.out, options.steps, options.checkpoint_every, options.resume)
    except Exception:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        print(
            f"process {jax.process_index()} stops: it failed, or another one did; "
            "start all of them again with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # an ordinary exit would wait for all, and the dead one never comes
    if done < options.steps:
        sys.exit(options.code_when_stopped)
    return loss


if __name__ == "__main__":
    main()
