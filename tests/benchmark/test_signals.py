"""What a signal does to a run: nothing that was found is lost, and nothing half is called whole."""

import dataclasses
import os
import signal
import time

import kill_often
import pytest
from tiny import SETTINGS, silent, tiny_dataset

from zsharp_jax.benchmark.runs.reading import read_folder
from zsharp_jax.benchmark.training import interrupts, program
from zsharp_jax.benchmark.training.checkpoints import Checkpoints
from zsharp_jax.benchmark.training.loop import train

RUN = dataclasses.replace(SETTINGS, method="zsharp_random", epochs=4)  # 3 steps an epoch


@pytest.fixture(scope="module")
def compiled():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "_MOST_TEST_IMAGES", 10)  # so that an evaluation has two parts
        return program.compile_program(RUN, tiny_dataset())


@pytest.fixture(scope="module")
def whole(compiled):
    return train(compiled, RUN, silent)


def checkpoints_in(folder, every):
    return Checkpoints(folder, RUN.run_name("data"), RUN, every)


def numbers(outcome):
    curves = {name: curve for name, curve in outcome.curves.items() if name != "seconds"}
    return dataclasses.replace(outcome, curves=curves)


def terminating(at):
    def report(standing):
        if standing.steps == at:
            signal.raise_signal(signal.SIGTERM)

    return report


def train_and_resume(folder, every, compiled, *reports):
    """Trains with one report after the other, each of which ends it, and then to the end."""
    places = []
    for report in reports:
        with checkpoints_in(folder, every) as checkpoints, interrupts.termination_noted():
            with pytest.raises(interrupts.Terminated) as stopped:
                train(compiled, RUN, report, checkpoints, resume=True)
            places.append(str(stopped.value))
    with checkpoints_in(folder, every) as checkpoints:
        return train(compiled, RUN, silent, checkpoints, resume=True), places


@pytest.mark.parametrize("every", [None, 1, 3])
def test_a_run_that_sigterm_ends_within_an_epoch_goes_on_to_the_same_numbers(
    tmp_path, compiled, whole, every
):
    resumed, places = train_and_resume(
        tmp_path, every, compiled, terminating(at=1), terminating(at=4), terminating(at=9)
    )
    assert numbers(resumed) == numbers(whole)
    # Two steps are under way already when the first is reported.
    assert places[0] == "zsharp_random, seed 0: after 3 of 12 steps"
    assert len(resumed.curves["seconds"]) == 4 and min(resumed.curves["seconds"]) > 0


def test_sigterm_during_an_evaluation_leaves_it_for_later(tmp_path, compiled, whole):
    def evaluate(carry, *inputs):
        if int(carry.state.step) == 6:
            signal.raise_signal(signal.SIGTERM)
        return compiled.evaluate(carry, *inputs)

    signalled = dataclasses.replace(compiled, evaluate=evaluate)
    places = []
    for _ in range(2):
        with checkpoints_in(tmp_path, 1) as checkpoints, interrupts.termination_noted():
            with pytest.raises(interrupts.Terminated) as stopped:
                train(signalled, RUN, silent, checkpoints, resume=True)
            places.append(str(stopped.value))
    assert places == ["zsharp_random, seed 0: after 6 of 12 steps"] * 2
    resumed, _ = train_and_resume(tmp_path, 1, compiled)
    assert numbers(resumed) == numbers(whole)


def test_what_was_found_until_then_comes_with_it(compiled, whole):
    with interrupts.termination_noted(), pytest.raises(interrupts.Terminated) as stopped:
        train(compiled, RUN, terminating(at=4))
    outcome = stopped.value.outcome
    assert outcome.status == "interrupted" and outcome.epochs == 1
    assert outcome.step_losses == whole.step_losses[: outcome.steps]


def test_sigterm_before_the_first_step_leaves_nothing(tmp_path, compiled):
    with checkpoints_in(tmp_path, None) as checkpoints, interrupts.termination_noted():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(interrupts.Terminated, match="after 0 of 12 steps"):
            train(compiled, RUN, silent, checkpoints)
    assert not list(tmp_path.iterdir())


def test_afterwards_sigterm_is_what_it_was():
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.termination_noted():
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.is_terminated()
    assert signal.getsignal(signal.SIGTERM) is before and not interrupts.is_terminated()


def wait_for(found, process):
    deadline = time.monotonic() + 120
    while not found() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)


def statuses(folder):
    return [run.status for run in read_folder(folder)[0]]


@pytest.mark.slow
def test_a_command_that_sigterm_ends_says_how_to_go_on_and_does(tmp_path):
    # Runs that differ in rho alone: where the first stands is no reason to refuse the second.
    options = ["study", "--methods", "zsharp", "--seeds", "1", "--rhos", "0.02", "0.05"]
    options += ["--epochs", "6", "--checkpoint-every", "2"]
    command, output = [*options, "--out", tmp_path / "runs"], tmp_path / "output.txt"
    process = kill_often.start(command, output)
    second = "rho 0.05, seed 0: epoch 1 of 6"
    wait_for(lambda: output.exists() and second in output.read_text(), process)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0 and time.monotonic() - started < 10
    line = output.read_text().splitlines()[-1]
    assert line.startswith("zsharp-bench: stopped at zsharp, seed 0: ")
    assert line.endswith(
        f"; 1 of 2 runs had ended; to go on: zsharp-bench {' '.join(map(str, command))} --resume"
    )
    assert sorted(statuses(tmp_path / "runs")) == ["finished", "interrupted"]
    table = tmp_path / "runs/study.md"
    of_one_run = table.read_text()

    kill_often.finish([*command, "--resume"], output)
    assert statuses(tmp_path / "runs") == ["finished"] * 2
    assert table.read_text() != of_one_run


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_comes_to_the_same_numbers(tmp_path):
    """Twenty kills: `python tests/benchmark/kill_often.py`."""
    kills = 2
    moments, whole, resumed = kill_often.kill_and_resume(
        tmp_path, kills=kills, epochs=10 * kills, seed=0
    )
    assert moments.total() == kills and resumed == whole
