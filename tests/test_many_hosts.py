"""Two processes end where one does; where one dies or gets SIGTERM both stop, and one goes on."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import chex
import flax.serialization
import pytest

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "many_hosts.py"
PATIENCE = 120  # seconds, for processes that start on a machine with other work
GRACE = 30  # seconds that a process has after SIGTERM, with SLURM and Kubernetes as they come
ENDLESS = ["--steps", 10**6, "--checkpoint-every", 5]


def is_proxy(name):
    """Whether a variable would have the processes look for one another through a proxy."""
    return name.lower().endswith("_proxy")


@pytest.fixture
def start():
    """Starts the example in a process of its own, with one device."""
    started = []

    def start(out, *options):
        environment = {name: value for name, value in os.environ.items() if not is_proxy(name)}
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        command = [sys.executable, EXAMPLE, "--out", out, *options]
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def start_two(start, outs, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(out, "--coordinator", address, "--processes", 2, "--process", process, *options)
        for process, out in enumerate(outs)
    ]


def wait_for(path, process):
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def run_here(out, *options):
    """The same in this process, on eight devices."""
    spec = importlib.util.spec_from_file_location("many_hosts", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    before = signal.getsignal(signal.SIGTERM)
    try:
        return example.main(list(map(str, ["--out", out, *options])))
    finally:
        signal.signal(signal.SIGTERM, before)


def checkpoint(out):
    return flax.serialization.msgpack_restore((out / "checkpoint.msgpack").read_bytes())


def assert_same_end(out, expected, steps):
    chex.assert_trees_all_close(checkpoint(out), checkpoint(expected), rtol=1e-4, atol=1e-6)
    results = [json.loads((folder / "result.json").read_text()) for folder in (out, expected)]
    assert [result["steps"] for result in results] == [steps, steps]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)


def assert_resumed_ends_as_unbroken(broken):
    """Goes on in one process, for some steps more."""
    steps = int(checkpoint(broken)["step"]) + 20
    run_here(broken, "--resume", "--steps", steps)
    run_here(broken / "unbroken", "--steps", steps)
    assert_same_end(broken, broken / "unbroken", steps)


def stopped_after(process, code=0):
    """The step that it says it was stopped after; None where it says nothing."""
    _, errors = process.communicate(timeout=GRACE)
    assert process.returncode == code, errors
    told = re.search(r"^stopped after step (\d+) of \d+; .* with --resume$", errors, re.MULTILINE)
    return int(told[1]) if told else None


@pytest.mark.slow
def test_two_processes_end_where_one_does(start, tmp_path):
    processes = start_two(start, [tmp_path / "two"] * 2, "--steps", 100)
    loss = run_here(tmp_path / "one", "--steps", 100)
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    assert loss < 1
    assert_same_end(tmp_path / "two", tmp_path / "one", 100)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["devices"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_dies_the_other_stops_and_one_alone_goes_on(start, tmp_path, victim):
    processes = start_two(start, [tmp_path] * 2, *ENDLESS)
    wait_for(tmp_path / "checkpoint.msgpack", processes[0])
    processes[victim].kill()
    survivor = processes[1 - victim]
    _, errors = survivor.communicate(timeout=60)
    assert survivor.returncode not in (0, None), errors
    # Where process 0 is gone, to which JAX reports, it may end the other before that knows why.
    of_jax = "likely indicates that another task died"
    ours = "start all of them again with --resume"
    assert ours in errors or (victim == 0 and of_jax in errors)
    assert not (tmp_path / "result.json").exists()
    assert_resumed_ends_as_unbroken(tmp_path)


@pytest.mark.slow
def test_sigterm_to_one_of_two_stops_both_after_the_same_step(start, tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    processes = start_two(start, [first, tmp_path], *ENDLESS)
    wait_for(first / "checkpoint.msgpack", processes[0])
    processes[1].terminate()
    stopped = [stopped_after(process) for process in processes]
    assert stopped == [checkpoint(first)["step"], None]

    # And where it comes before the first step: with its folder, a process has its connections.
    processes = start_two(start, [first, other], *ENDLESS, "--resume", "--code-when-stopped", 75)
    wait_for(other, processes[1])
    processes[1].terminate()
    again = [stopped_after(process, code=75) for process in processes]
    assert again == [checkpoint(first)["step"], None] and again[0] > stopped[0]
    assert not (first / "result.json").exists() and not list(other.iterdir())
    assert_resumed_ends_as_unbroken(first)


@pytest.mark.slow
def test_sigterm_stops_a_process_that_is_alone(start, tmp_path):
    process = start(tmp_path, *ENDLESS)
    wait_for(tmp_path / "checkpoint.msgpack", process)
    process.terminate()
    assert stopped_after(process) == checkpoint(tmp_path)["step"]
    assert not (tmp_path / "result.json").exists()
    assert_resumed_ends_as_unbroken(tmp_path)
