"""A call that takes several steps, as on accelerators, leads to the numbers of a step per call."""

import dataclasses

import jax.numpy as jnp
import pytest
from tiny import SETTINGS, assert_same_but_for_rounding, silent, tiny_dataset

from zsharp_jax.benchmark.training import program
from zsharp_jax.benchmark.training.checkpoints import Checkpoints
from zsharp_jax.benchmark.training.loop import train

RUN = dataclasses.replace(SETTINGS, method="adamw", batch_size=8)  # two epochs of six steps
CUT_SHORT = dataclasses.replace(RUN, epochs=None, steps=9)


@pytest.fixture(scope="module")
def by_one():
    return program.compile_program(RUN, tiny_dataset())


@pytest.fixture(scope="module")
def by_three():
    rule = program._steps_at_once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "_steps_at_once", lambda *lengths: rule(*lengths[:2], "gpu"))
        compiled = program.compile_program(CUT_SHORT, tiny_dataset())
    assert compiled.steps_at_once == 3
    return compiled


@pytest.mark.parametrize("settings, steps", [(RUN, 12), (CUT_SHORT, 9)])
def test_the_numbers_are_the_same(by_one, by_three, settings, steps):
    reported = []
    outcome = train(by_three, settings, lambda standing: reported.append(standing.steps))
    assert_same_but_for_rounding(outcome, train(by_one, settings, silent))
    assert sorted(set(reported)) == list(range(1, steps + 1))


def test_what_is_not_finite_within_a_call_ends_the_run_at_its_step(by_three):
    def poisoned_step(carry, *inputs):
        is_third_call = int(carry.state.step) == 6
        carry, info = by_three.step(carry, *inputs)
        poisoned = info._replace(sharp_loss=info.sharp_loss.at[1].set(jnp.inf))
        return carry, poisoned if is_third_call else info

    outcome = train(dataclasses.replace(by_three, step=poisoned_step), RUN, silent)
    assert outcome.error == "adamw, seed 0: the sharp loss is inf at step 8"
    assert outcome.steps == 8 and len(outcome.step_losses) == 7
    assert len(outcome.curves["train_loss"]) == 1


def test_a_run_that_was_broken_off_goes_on(by_three, tmp_path):
    checkpoints = Checkpoints(tmp_path, "run", RUN, every=1)

    def broken_off(standing):
        if standing.steps == 8:
            raise KeyboardInterrupt

    with checkpoints:
        with pytest.raises(KeyboardInterrupt):
            train(by_three, RUN, broken_off, checkpoints)
        resumed = train(by_three, RUN, silent, checkpoints, resume=True)
    whole = train(by_three, RUN, silent)
    assert resumed.step_losses == whole.step_losses
    assert resumed.curves["test_loss"] == whole.curves["test_loss"]


@pytest.mark.parametrize(
    "steps_per_epoch, steps, platform, at_once",
    [
        (195, None, "cpu", 1),
        (195, None, "gpu", 65),
        (22, None, "tpu", 22),
        (781, None, "gpu", 71),
        (101, None, "gpu", 1),  # a prime
        (195, 200, "gpu", 5),  # ends within the second epoch
        (195, 7, "gpu", 1),
    ],
)
def test_a_call_takes_as_many_steps_as_divide_an_epoch_and_the_run(
    steps_per_epoch, steps, platform, at_once
):
    assert program._steps_at_once(steps_per_epoch, steps, platform) == at_once
