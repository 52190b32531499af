"""Two processes end where one does; where one dies the other stops, and one alone goes on."""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import chex
import flax.serialization
import pytest

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "many_hosts.py"
PATIENCE = 120  # seconds, for processes that start on a machine with other work


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


def start_two(start, out, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(out, "--coordinator", address, "--processes", 2, "--process", process, *options)
        for process in range(2)
    ]


def run_here(out, *options):
    """The same in this process, on eight devices."""
    spec = importlib.util.spec_from_file_location("many_hosts", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example.main(list(map(str, ["--out", out, *options])))


def checkpoint(out):
    return flax.serialization.msgpack_restore((out / "checkpoint.msgpack").read_bytes())


def assert_same_end(out, expected, steps):
    chex.assert_trees_all_close(checkpoint(out), checkpoint(expected), rtol=1e-4, atol=1e-6)
    results = [json.loads((folder / "result.json").read_text()) for folder in (out, expected)]
    assert [result["steps"] for result in results] == [steps, steps]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)


def test_two_processes_end_where_one_does(start, tmp_path):
    processes = start_two(start, tmp_path / "two", "--steps", 100)
    loss = run_here(tmp_path / "one", "--steps", 100)
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    assert loss < 1
    assert_same_end(tmp_path / "two", tmp_path / "one", 100)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["devices"] == 2


def test_where_one_dies_the_other_stops_and_one_alone_goes_on(start, tmp_path):
    broken = tmp_path / "broken"
    survivor, victim = start_two(start, broken, "--steps", 10**6, "--checkpoint-every", 5)
    deadline = time.monotonic() + PATIENCE
    while not (broken / "checkpoint.msgpack").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    victim.kill()
    _, errors = survivor.communicate(timeout=60)
    assert survivor.returncode == 1, errors
    assert "start all of them again with --resume" in errors
    assert not (broken / "result.json").exists()

    steps = int(checkpoint(broken)["step"]) + 20
    resumed = start(broken, "--resume", "--steps", steps)
    run_here(tmp_path / "unbroken", "--steps", steps)
    _, errors = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, errors
    assert_same_end(broken, tmp_path / "unbroken", steps)
