"""A run that was broken off goes on to the numbers of one that was not, or says why it cannot."""

import dataclasses
import itertools
import json
import pathlib
import shutil
import threading

import hypothesis
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from disks import files_of_at_most
from hypothesis import strategies
from mutations import examples, mutated
from tiny import SETTINGS, silent, tiny_dataset

from zsharp_jax.benchmark.errors import OutputError
from zsharp_jax.benchmark.training import program
from zsharp_jax.benchmark.training.checkpoints import Checkpoint, Checkpoints
from zsharp_jax.benchmark.training.loop import train

RUN = dataclasses.replace(SETTINGS, method="zsharp_random", epochs=5)  # its state holds a key


@pytest.fixture(scope="module")
def compiled():
    return program.compile_program(RUN, tiny_dataset())


@pytest.fixture
def checkpoints(tmp_path):
    with checkpoints_in(tmp_path) as checkpoints:
        yield checkpoints


def checkpoints_in(folder, run=RUN, data="data", every=1):
    return Checkpoints(folder, run.run_name(data), run, every)


def broken_off(at):
    def report(standing):
        if standing.steps == at:
            raise KeyboardInterrupt

    return report


def without_seconds(outcome):
    curves = {name: curve for name, curve in outcome.curves.items() if name != "seconds"}
    return dataclasses.replace(outcome, curves=curves)


def saved(checkpoints, compiled, *accuracies):
    """Saves checkpoints 1, 2, ... with these accuracies, waits, and returns their carry."""
    carry = compiled.start(jax.random.key(0))
    for step, accuracy in enumerate(accuracies, 1):
        checkpoints.save(step, Checkpoint(carry, {"told": [step]}, accuracy))
    checkpoints.close()
    return carry


def steps_in(checkpoints):
    folder = checkpoints.folder / checkpoints.name
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def files_of(checkpoints, step, part=""):
    folder = checkpoints.folder / checkpoints.name / str(step) / part
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_run_that_was_broken_off_goes_on_to_the_same_numbers(compiled, checkpoints):
    whole = train(compiled, RUN, silent)
    with pytest.raises(KeyboardInterrupt):
        train(compiled, RUN, broken_off(at=8), checkpoints)  # an epoch has 3 steps
    taken = []
    resumed = train(compiled, RUN, taken.append, checkpoints, resume=True)
    assert taken[0].steps == 7
    assert without_seconds(resumed) == without_seconds(whole)
    assert len(resumed.curves["seconds"]) == 5


def test_without_a_checkpoint_a_run_begins_at_the_beginning(compiled, checkpoints):
    taken = []
    train(compiled, RUN, taken.append, checkpoints, resume=True)
    assert taken[0].steps == 1


@pytest.mark.parametrize(
    "accuracies, kept",
    [
        ([0.1, 0.2, 0.3], [2, 3]),
        ([0.1, 0.9, 0.3, 0.2, 0.4], [2, 4, 5]),
        ([0.9, 0.1, 0.9, 0.3, 0.2], [3, 4, 5]),
        ([0.5, None, None, None, 0.4], [1, 4, 5]),  # within an epoch nothing is evaluated
    ],
)
def test_the_newest_two_and_the_best_are_kept(compiled, checkpoints, accuracies, kept):
    saved(checkpoints, compiled, *accuracies)
    assert steps_in(checkpoints) == kept


def test_the_best_is_kept_over_a_restart(compiled, checkpoints):
    carry = saved(checkpoints, compiled, 0.1, 0.9, 0.2)
    for step in (4, 5):
        with checkpoints_in(checkpoints.folder) as resumed:
            resumed.newest(carry, most_steps=1000)
            resumed.save(step, Checkpoint(carry, {}, 0.5))
    assert steps_in(checkpoints) == [2, 4, 5]


def test_training_anew_takes_the_place_of_what_was_there(compiled, checkpoints):
    carry = saved(checkpoints, compiled, 0.1, 0.2, 0.3)
    with checkpoints_in(checkpoints.folder) as anew:
        anew.save(2, Checkpoint(carry, {"anew": True}, 0.1))
    assert steps_in(checkpoints) == [2]
    assert checkpoints.newest(carry, most_steps=1000).progress == {"anew": True}


def test_it_is_written_in_the_background(compiled, checkpoints, monkeypatch):
    """Not even the rename of the one before is waited for; what is kept is what was saved."""
    may_write, write = threading.Event(), ocp.JsonCheckpointHandler._save_fn
    carry = compiled.start(jax.random.key(0))
    kept = jax.tree.map(np.array, compiled.start(jax.random.key(0)).state.params)

    async def slow_write(*arguments):
        may_write.wait(60)
        await write(*arguments)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", slow_write)
    progress = {"told": [1]}
    checkpoints.save(1, Checkpoint(carry, progress, 0.5))
    key, order = jax.random.key(0), compiled.draw_order(jax.random.key(0), np.int32(0))
    moved, _ = compiled.step(carry, compiled.data, key, order, np.float32(0.05))
    assert not steps_in(checkpoints)
    may_write.set()
    checkpoints.close()
    found = checkpoints.newest(moved, most_steps=1000)
    jax.tree.map(np.testing.assert_array_equal, found.carry.state.params, kept)


def test_the_weights_come_back_as_they_were(compiled, checkpoints):
    carry = saved(checkpoints, compiled, 0.1, 0.2)
    found = checkpoints.newest(carry, most_steps=1000)
    assert found.progress == {"told": [2]}

    def assert_equal(ours, theirs):
        assert ours.dtype == theirs.dtype and ours.sharding == theirs.sharding
        if jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)

    assert jax.tree.structure(found.carry) == jax.tree.structure(carry)
    jax.tree.map(assert_equal, found.carry, carry)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bits(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content), 97):  # some bytes of a file nobody reads
        content[at] ^= 1
    path.write_bytes(content)


def empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def remove(path: pathlib.Path) -> None:
    path.unlink()


def change_the_progress(path: pathlib.Path) -> None:
    about = json.loads(path.read_text())
    about["progress"]["told"] = [7]
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    "damage, part",
    [
        *itertools.product((truncate, flip_bits, empty, remove), ("arrays", "about")),
        (change_the_progress, "about"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    compiled, checkpoints, damage, part, capsys
):
    carry = saved(checkpoints, compiled, 0.1, 0.2)
    damage(max(files_of(checkpoints, 2, part), key=lambda path: path.stat().st_size))
    assert checkpoints.newest(carry, most_steps=1000).progress == {"told": [1]}
    assert capsys.readouterr().err.splitlines() == [
        f"zsharp-bench: checkpoint 2 of {checkpoints.name} is damaged and passed over",
        "zsharp-bench: going on from checkpoint 1",
    ]
    checkpoints.save(2, Checkpoint(carry, {"told": "again"}, 0.2))
    checkpoints.close()
    assert checkpoints.newest(carry, most_steps=1000).progress == {"told": "again"}


def test_where_all_are_damaged_it_begins_anew(compiled, checkpoints, capsys):
    carry = saved(checkpoints, compiled, 0.1, 0.2)
    for step in (1, 2):
        shutil.rmtree(checkpoints.folder / checkpoints.name / str(step) / "about")
    assert checkpoints.newest(carry, most_steps=1000) is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[-1] == "zsharp-bench: beginning anew"


@pytest.mark.parametrize("as_step", [2, 3])
def test_a_checkpoint_of_another_run_or_step_is_passed_over(compiled, checkpoints, as_step, capsys):
    """Even one whose arrays would fit."""
    carry = saved(checkpoints, compiled, 0.1)
    with checkpoints_in(checkpoints.folder, dataclasses.replace(RUN, seed=1)) as other:
        saved(other, compiled, 0.1, 0.2)
        shutil.copytree(
            other.folder / other.name / "2", checkpoints.folder / checkpoints.name / str(as_step)
        )
    assert checkpoints.newest(carry, most_steps=1000).progress == {"told": [1]}
    message = f"checkpoint {as_step} of {checkpoints.name} is of another run and passed over"
    assert message in capsys.readouterr().err


@hypothesis.settings(deadline=None, max_examples=examples(5))
@hypothesis.given(strategies.data())
def test_no_mutation_of_a_checkpoint_does_harm(compiled, two_checkpoints, data):
    checkpoints, carry = two_checkpoints
    path = data.draw(strategies.sampled_from(files_of(checkpoints, 2)))
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(mutated(whole)))
        with checkpoints_in(checkpoints.folder) as again:
            found = again.newest(carry, most_steps=1000)
        # A file that nobody needs may change.
        assert found.progress in ({"told": [1]}, {"told": [2]})
        assert_equal(found.carry.state.params, carry.state.params)
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def two_checkpoints(compiled, tmp_path_factory):
    checkpoints = checkpoints_in(tmp_path_factory.mktemp("two"))
    return checkpoints, saved(checkpoints, compiled, 0.1, 0.2)


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_another_seed_or_method_has_none(compiled, checkpoints):
    carry = saved(checkpoints, compiled, 0.1)
    for change in ({"seed": 1}, {"method": "zsharp"}, {}):
        other = checkpoints_in(checkpoints.folder, dataclasses.replace(RUN, **change), every=None)
        assert (other.newest(carry, most_steps=1000) is None) == bool(change)
        other.close()


def test_what_cannot_be_written_is_told_and_the_last_one_stays(compiled, checkpoints):
    carry = saved(checkpoints, compiled, 0.1)
    with files_of_at_most(1000), pytest.raises(OutputError, match="cannot write a checkpoint to"):
        saved(checkpoints, compiled, 0.1, 0.2, 0.3)
    again = checkpoints_in(checkpoints.folder)
    assert again.newest(carry, most_steps=1000).progress == {"told": [1]}
    again.close()
