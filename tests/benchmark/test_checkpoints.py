"""A run that was broken off goes on to the numbers of one that was not, or says why it cannot."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from tiny import SETTINGS, silent, tiny_dataset

from zsharp_jax.benchmark import program
from zsharp_jax.benchmark.checkpoints import Checkpoint, Checkpoints
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.train import train

RUN = dataclasses.replace(SETTINGS, method="zsharp_random", epochs=5)  # its state holds a key


@pytest.fixture(scope="module")
def compiled():
    return program.compile_program(RUN, tiny_dataset())


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path, RUN.run_name("data"), RUN, every=1)


def broken_off(at):
    def report(steps, loss, accuracy):
        if steps == at:
            raise KeyboardInterrupt

    return report


def without_seconds(outcome):
    curves = {name: curve for name, curve in outcome.curves.items() if name != "seconds"}
    return dataclasses.replace(outcome, curves=curves)


def files_with_arrays(folder, epoch):
    return [path for path in (folder / str(epoch) / "arrays").rglob("*") if path.is_file()]


def test_a_run_that_was_broken_off_goes_on_to_the_same_numbers(compiled, checkpoints):
    whole = train(compiled, RUN, silent)
    with pytest.raises(KeyboardInterrupt):
        train(compiled, RUN, broken_off(at=8), checkpoints)  # an epoch has 3 steps
    taken = []
    resumed = train(compiled, RUN, lambda steps, *_: taken.append(steps), checkpoints, resume=True)
    assert min(taken) == 7
    assert without_seconds(resumed) == without_seconds(whole)
    assert len(resumed.curves["seconds"]) == 5


def test_without_a_checkpoint_a_run_begins_at_the_beginning(compiled, checkpoints):
    taken = []
    train(compiled, RUN, lambda steps, *_: taken.append(steps), checkpoints, resume=True)
    assert min(taken) == 1


def test_the_newest_two_are_kept_and_the_weights_come_back_as_they_were(compiled, checkpoints):
    carry = compiled.start(jax.random.key(0))
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, Checkpoint(carry, {"epoch": epoch}))
    folder = checkpoints.folder / checkpoints.name
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["2", "3"]
    found = checkpoints.newest(carry)
    assert found.progress == {"epoch": 3}

    def assert_equal(ours, theirs):
        assert ours.dtype == theirs.dtype and ours.sharding == theirs.sharding
        if jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)

    assert jax.tree.structure(found.carry) == jax.tree.structure(carry)
    jax.tree.map(assert_equal, found.carry, carry)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    compiled, checkpoints, damage, capsys
):
    carry = compiled.start(jax.random.key(0))
    for epoch in (1, 2):
        checkpoints.save(epoch, Checkpoint(carry, {"epoch": epoch}))
    folder = checkpoints.folder / checkpoints.name
    largest = max(files_with_arrays(folder, 2), key=lambda path: path.stat().st_size)
    damage(largest)
    assert checkpoints.newest(carry).progress == {"epoch": 1}
    assert f"checkpoint 2 of {checkpoints.name} is damaged" in capsys.readouterr().err


def test_a_changed_progress_is_damage_too(compiled, checkpoints):
    carry = compiled.start(jax.random.key(0))
    for epoch in (1, 2):
        checkpoints.save(epoch, Checkpoint(carry, {"epoch": epoch}))
    path = checkpoints.folder / checkpoints.name / "2" / "about" / "metadata"
    about = json.loads(path.read_text())
    about["progress"]["epoch"] = 7
    path.write_text(json.dumps(about))
    assert checkpoints.newest(carry).progress == {"epoch": 1}


def test_other_settings_are_refused_with_the_difference(compiled, checkpoints):
    checkpoints.save(1, Checkpoint(compiled.start(jax.random.key(0)), {}))
    changed = dataclasses.replace(RUN, learning_rate=0.5)
    other = Checkpoints(checkpoints.folder, changed.run_name("data"), changed, every=1)
    with pytest.raises(RequestError, match=r"learning_rate was 0.001 there and is 0.5 here$"):
        other.refuse_others()
    other = Checkpoints(checkpoints.folder, RUN.run_name("other data"), RUN, every=1)
    with pytest.raises(RequestError, match=r"its data were others$"):
        other.refuse_others()


def test_another_seed_or_method_is_no_obstacle(compiled, checkpoints):
    carry = compiled.start(jax.random.key(0))
    checkpoints.save(1, Checkpoint(carry, {}))
    for change in ({"seed": 1}, {"method": "zsharp"}, {}):
        changed = dataclasses.replace(RUN, **change)
        other = Checkpoints(checkpoints.folder, changed.run_name("data"), changed, every=None)
        other.refuse_others()
        assert (other.newest(carry) is None) == bool(change)
