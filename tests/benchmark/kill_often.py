"""Kills one training at random moments, again and again, and compares what it comes to.

    python tests/benchmark/kill_often.py --kills 20 --seed 0

It is killed (SIGKILL) and resumed so many times before its end, and then trains to its end. It must
come to the numbers of a training that was never killed: exits with 1 where it does not.
"""

import argparse
import collections
import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from tiny import OneConvolution

COMMAND = ["train", "--method", "zsharp", "--checkpoint-every", "1"]

# Its processes are copies of one that has imported everything, and so start in a second. JAX has
# not begun any thread in that one, which must not be copied.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["orbax.checkpoint", "sklearn.model_selection", "kill_often",
                                   "zsharp_jax.benchmark.commands.parser"])  # fmt: skip


def start(arguments, output):
    """Starts `zsharp-bench` with the network of the tests; what it says is added to a file."""
    process = _processes.Process(target=_run, args=([*map(str, arguments)], output))
    process.start()
    return process


def _run(arguments, output):
    from zsharp_jax.benchmark import cli
    from zsharp_jax.models import MODELS

    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    MODELS["resnet8"] = OneConvolution
    cli.main(arguments)


def finish(arguments, output):
    """Runs `zsharp-bench` to its end."""
    _end(start(arguments, output), output)


def _end(process, output):
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"exit code {process.exitcode}: {pathlib.Path(output).read_text()}")


def numbers(path):
    """All numbers of a run file that must not depend on how it was trained."""
    record = json.loads(path.read_text())
    curves = {name: curve for name, curve in record["curves"].items() if name != "seconds"}
    final = {name: value for name, value in record["final"].items() if "seconds" not in name}
    same = ("name", "status", "error", "settings", "data_sha256", "steps", "step_losses")
    return {"curves": curves, "final": final, **{name: record[name] for name in same}}


def kill_and_resume(folder, kills, epochs, seed):
    """Kills and resumes one run in `folder` so many times, and has it train to its end.

    Args:
        folder: An empty folder.
        kills: How many.
        epochs: Of the run, with a checkpoint after each; enough that it does not end before.
        seed: Of the moments. One is drawn from the start of a process to some time after its first
            checkpoint, so much that all the kills together would take the run to its end if none
            came any sooner.

    Returns:
        What was going on at each kill, counted, and the numbers of a run that was never killed and
        of the one that was.
    """
    rng, output = random.Random(seed), folder / "output.txt"
    command = [*COMMAND, "--epochs", epochs, "--out"]
    finish([*COMMAND, "--epochs", 1, "--out", folder / "first"], output)  # compiles, for all
    started = time.monotonic()
    process = start([*command, folder / "whole"], output)
    while process.is_alive() and not _newest(folder / "whole"):
        time.sleep(0.01)
    first = time.monotonic() - started
    _end(process, output)
    longest = first + (time.monotonic() - started - first) / kills

    killed, moments = folder / "killed", collections.Counter()
    for _ in range(kills):
        before, since = _newest(killed), time.time()
        process = start([*command, killed, "--resume"], output)
        process.join(rng.uniform(0, longest))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"it ended after {moments.total()} kills: {output.read_text()}")
        if _newest(killed) < before:
            raise RuntimeError(f"it did not go on from step {before}: {output.read_text()}")
        moments[_moment(killed, before, since)] += 1
    finish([*command, killed, "--resume"], output)
    if "passed over" in output.read_text():
        raise RuntimeError(f"a checkpoint was not whole: {output.read_text()}")
    whole, resumed = (numbers(*folder.glob(f"{run}/*.json")) for run in ("whole", "killed"))
    return moments, whole, resumed


def _moment(folder, before, since):
    """What a process was about when it was killed, as far as its files tell."""
    if any(path.stat().st_mtime > since for path in folder.glob("checkpoints/*/*tmp*")):
        return "while writing a checkpoint"
    return "before its first checkpoint" if _newest(folder) == before else "between checkpoints"


def _newest(folder):
    steps = (path.name for path in folder.glob("checkpoints/*/*") if path.name.isdigit())
    return max(map(int, steps), default=0)


def main():
    parser = argparse.ArgumentParser(description="Kills a training and compares its numbers.")
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=300, help="of the run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
        moments, whole, resumed = kill_and_resume(
            folder, options.kills, options.epochs, options.seed
        )
    told = ", ".join(f"{count} {moment}" for moment, count in moments.most_common())
    same = "the same" if resumed == whole else "OTHER"
    print(f"{moments.total()} kills of one run: {told}. It came to {same} numbers.")
    sys.exit(resumed != whole)


if __name__ == "__main__":
    main()
