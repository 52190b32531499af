"""Kills a training at random moments, again and again, and compares what it comes to.

    python tests/benchmark/kill_often.py --kills 20 --seed 0

A run is killed (SIGKILL), resumed, and killed again until it ends; then the next one begins. Each
must come to the numbers of a run that was never killed: exits with 1 where one does not.
"""

import argparse
import collections
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

from tiny import SMALL_RESNET

COMMAND = ["train", "--method", "zsharp", "--checkpoint-every", "1"]

# Its processes are copies of one that has imported everything, and so start in a second. JAX has
# not begun any thread in that one, which must not be copied.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["orbax.checkpoint", "sklearn.model_selection", "kill_often",
                                   "zsharp_jax.benchmark.commands"])  # fmt: skip


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
    MODELS["resnet8"] = SMALL_RESNET
    cli.main(arguments)


def finish(arguments, output):
    """Runs `zsharp-bench` to its end."""
    process = start(arguments, output)
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
    """Kills and resumes runs in `folder` until there were so many kills and the last has ended.

    Args:
        folder: An empty folder.
        kills: How many.
        epochs: Of a run.
        seed: Of the moments.

    Returns:
        What was going on at each kill, counted, and the numbers of each run that ended.
    """
    rng, output = random.Random(seed), folder / "output.txt"
    command = [*COMMAND, "--epochs", epochs, "--out"]
    finish([*COMMAND, "--epochs", 1, "--out", folder / "first"], output)  # compiles, for all
    started = time.monotonic()
    finish([*command, folder / "whole"], output)
    longest = time.monotonic() - started
    moments, ended = collections.Counter(), [numbers(*folder.glob("whole/*.json"))]

    while kills or (folder / "killed").exists():
        process = start([*command, folder / "killed", "--resume"], output)
        before = _newest(folder)
        process.join(rng.uniform(0, longest) if kills else None)
        if process.is_alive():
            process.kill()
            process.join()
            kills -= 1
            moments[_moment(folder, before)] += 1
        elif process.exitcode != 0:
            raise RuntimeError(f"exit code {process.exitcode}: {output.read_text()}")
        else:
            ended.append(numbers(*folder.glob("killed/*.json")))
            shutil.rmtree(folder / "killed")
    return moments, ended


def _moment(folder, before):
    """What a process was about when it was killed, as far as its files tell."""
    if list(folder.glob("killed/checkpoints/*/*tmp*")):
        return "while writing a checkpoint"
    return "before its first checkpoint" if _newest(folder) == before else "between checkpoints"


def _newest(folder):
    steps = (path.name for path in folder.glob("killed/checkpoints/*/*") if path.name.isdigit())
    return max(map(int, steps), default=0)


def main():
    parser = argparse.ArgumentParser(description="Kills trainings and compares their numbers.")
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=25, help="of a run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
        moments, (whole, *ended) = kill_and_resume(
            folder, options.kills, options.epochs, options.seed
        )
    told = ", ".join(f"{count} {moment}" for moment, count in moments.most_common())
    same = sum(each == whole for each in ended)
    print(f"{moments.total()} kills: {told}. {same} of {len(ended)} runs came to the same numbers.")
    sys.exit(same < len(ended))


if __name__ == "__main__":
    main()
