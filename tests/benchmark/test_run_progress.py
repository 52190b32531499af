"""What is shown while runs are trained."""

import io
import math

import pytest
import rich.console

from zsharp_jax.benchmark.training.progress import RunProgress, figures_of
from zsharp_jax.benchmark.training.standing import Standing

STANDING = Standing(7, 2, 12, loss=0.1134, sharp_loss=0.1641, accuracy=0.9791)


def test_figures_tell_epoch_losses_accuracy_and_speed():
    figures = "epoch 2/12, last batch: loss 0.113, sharp 0.164, test 97.9%, 1,290 images/s"
    assert figures_of(STANDING, 1290.4) == figures and len(figures) < 80


@pytest.mark.parametrize("speed", [None, 0.0])
def test_what_is_not_known_yet_is_left_out(speed):
    first = STANDING._replace(accuracy=math.nan)
    assert figures_of(first, speed) == "epoch 2/12, last batch: loss 0.113, sharp 0.164"


def shown(width, act):
    """The lines a terminal of this width has after `act`."""
    file = io.StringIO()
    console = rich.console.Console(file=file, width=width, force_terminal=True, color_system=None)
    with RunProgress(batch_size=64, console=console) as progress:
        progress.expect(20)
        act(progress)
    return file.getvalue().splitlines()


def test_a_terminal_of_80_columns_shows_all_of_it():
    def act(progress):
        progress.tell("zsharp_reference, rho 0.05, seed 2")
        progress.report(STANDING._replace(steps=1))
        progress.report(STANDING)

    lines = shown(80, act)
    bar = next(line for line in reversed(lines) if "zsharp_reference" in line)
    assert "zsharp_reference, rho 0.05, seed 2" in bar and " 35%" in bar
    assert "epoch 2/12, last batch: loss 0.113, sharp 0.164, test 97.9%" in "\n".join(lines)


def test_the_bar_counts_all_runs_and_says_why_one_failed():
    def act(progress):
        progress.report(STANDING._replace(steps=1))
        progress.report(STANDING._replace(steps=5))
        progress.finish_run(15, ["sam, seed 0: the clean loss is nan at step 5"])
        progress.tell("zsharp: compiling")

    lines = shown(80, act)
    assert any("failed: sam, seed 0: the clean loss is nan at step 5" in line for line in lines)
    assert any("zsharp: compiling" in line and " 50%" in line for line in lines)


def test_steps_that_a_file_or_a_checkpoint_has_are_no_speed():
    def act(progress):
        progress.finish_run(10)  # from its file
        progress.report(STANDING._replace(steps=9))  # from a checkpoint after 8 steps
        progress.tell("zsharp, rho 0.05, seed 1")
        assert progress._bar.tasks[0].completed == 1

    lines = shown(80, act)
    assert any("zsharp, rho 0.05, seed 1" in line and " 50%" in line for line in lines)
