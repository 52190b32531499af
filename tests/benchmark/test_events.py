"""What TensorBoard is given is what the run files hold, whatever the run went through."""

import dataclasses
import json
import sys

import pytest
from command import exit_code
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import SETTINGS, silent, tiny_dataset

from zsharp_jax.benchmark.runs.outcome import Outcome
from zsharp_jax.benchmark.training import program, session
from zsharp_jax.benchmark.training.checkpoints import Checkpoints
from zsharp_jax.benchmark.training.events import EventFile
from zsharp_jax.benchmark.training.loop import train


def scalars(folder):
    """The points of each curve that TensorBoard shows of a run."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(point.step, point.value) for point in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def points(curve):
    return [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in enumerate(curve, 1)]


OPTIONS = ["train", "--method", "adamw", "--epochs", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with checkpoints and event files, and what its run file holds."""
    folder = tmp_path_factory.mktemp("trained")
    kept = ["--checkpoint-every", "1", "--tensorboard", folder / "events"]
    assert exit_code(*OPTIONS, "--out", folder, *kept) == 0
    (path,) = folder.glob("*.json")
    return folder, json.loads(path.read_text())


def test_the_curves_are_those_of_the_run_file(trained):
    folder, record = trained
    assert [path.name for path in (folder / "events").iterdir()] == [record["name"]]
    found = scalars(folder / "events" / record["name"])
    assert found.pop("images_per_second") == points(
        [22 * 64 / seconds for seconds in record["curves"]["seconds"]]
    )
    assert found == {name: points(curve) for name, curve in record["curves"].items()}


def test_a_run_that_is_taken_from_its_file_has_its_curves_too(trained, tmp_path, monkeypatch):
    folder, record = trained
    monkeypatch.setattr(session, "compile_program", None)
    assert exit_code(*OPTIONS, "--out", folder, "--resume", "--tensorboard", tmp_path) == 0
    assert scalars(tmp_path / record["name"]) == scalars(folder / "events" / record["name"])


def test_a_report_takes_neither_checkpoints_nor_event_files_for_run_files(trained, capsys):
    folder, record = trained
    assert list((folder / "checkpoints" / record["name"]).rglob("*"))
    assert exit_code("report", folder) == 0
    printed = capsys.readouterr()
    assert "Made from 1 run file;" in printed.out and not printed.err


def test_a_run_that_goes_on_tells_no_epoch_twice(tmp_path):
    run = dataclasses.replace(SETTINGS, epochs=4)
    compiled = program.compile_program(run, tiny_dataset())
    checkpoints = Checkpoints(tmp_path / "checkpoints", "run", run, every=2)

    def broken_off(standing):
        if standing.steps == 11:  # in the fourth epoch, of three steps each
            raise KeyboardInterrupt

    events = EventFile(tmp_path / "events", compiled.steps_per_epoch, run.batch_size)
    with checkpoints, pytest.raises(KeyboardInterrupt):
        train(compiled, run, broken_off, checkpoints, tell_epoch=events.write)
    assert [epoch for epoch, _ in scalars(tmp_path / "events")["test_loss"]] == [1, 2, 3]
    events.close()

    events = EventFile(tmp_path / "events", compiled.steps_per_epoch, run.batch_size)
    with checkpoints:
        outcome = train(compiled, run, silent, checkpoints, resume=True, tell_epoch=events.write)
    events.close()
    assert len(list((tmp_path / "events").iterdir())) == 1
    found = scalars(tmp_path / "events")
    assert {name: found[name] for name in outcome.curves} == {
        name: points(curve) for name, curve in outcome.curves.items()
    }


def test_the_speed_of_an_epoch_that_was_cut_short(tmp_path):
    outcome = Outcome(steps=14)
    outcome.curves = {name: [0.5, 0.5] for name in outcome.curves} | {"seconds": [5.0, 4.0]}
    events = EventFile(tmp_path, steps_per_epoch=10, batch_size=3)
    events.write(outcome)
    events.close()
    assert scalars(tmp_path)["images_per_second"] == [(1, 6.0), (2, 3.0)]


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    out = tmp_path / "runs"
    assert exit_code(*OPTIONS, "--out", out, "--tensorboard", tmp_path / "events") == 2
    assert capsys.readouterr().err.splitlines() == [
        "zsharp-bench: error: --tensorboard needs TensorBoard: "
        'pip install -e ".[tensorboard]" in a clone'
    ]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    events = tmp_path / "file" / "events"
    assert exit_code(*OPTIONS, "--out", tmp_path / "runs", "--tensorboard", events) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot write to --tensorboard {events}: " in line
