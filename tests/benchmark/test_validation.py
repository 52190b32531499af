"""A run with validation images is judged on them after every epoch, and tested once, at the end."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from command import exit_code, records_in
from tiny import SETTINGS, OneConvolution, silent, tiny_dataset

from zsharp_jax.benchmark.datasets.splits import split_off_validation
from zsharp_jax.benchmark.runs.outcome import CURVES, calibration_error
from zsharp_jax.benchmark.training import program
from zsharp_jax.benchmark.training.device_data import on_device
from zsharp_jax.benchmark.training.loop import train

DATASET = split_off_validation(tiny_dataset(), count=18, seed=0)


@pytest.fixture(scope="module")
def compiled():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "_MOST_TEST_IMAGES", 7)  # 18 = 7 + 7 + 4, 20 = 7 + 7 + 6
        yield program.compile_program(dataclasses.replace(SETTINGS, method="adamw"), DATASET)


def by_hand(confidence, is_right, bins=15):
    """The expected calibration error, bin by bin."""
    error, edges = 0.0, np.linspace(0, 1, bins + 1)
    for low, high in itertools.pairwise(edges):
        within = (confidence >= low) & (confidence < high)
        if within.any():
            gap = abs(is_right[within].mean() - confidence[within].mean())
            error += within.mean() * gap
    return error


def test_both_splits_are_judged_as_the_model_judges_them(compiled):
    carry = compiled.start(jax.random.key(0))
    variables = {"params": carry.state.params, "batch_stats": carry.batch_stats}
    model, data = OneConvolution(num_classes=10), compiled.data

    def predicted(images, labels):
        logits = model.apply(variables, (images - data.means) / data.stds, train=False)
        shares = np.asarray(jax.nn.softmax(logits))
        return shares.max(axis=1), shares.argmax(axis=1) == labels

    def summed(evaluate):
        sums = [evaluate(carry, data, np.int32(row)) for row in (0, 7, 14)]
        return [sum(map(np.asarray, parts)) for parts in zip(*sums, strict=True)]

    _, is_right = predicted(DATASET.validation_images, DATASET.validation_labels)
    assert summed(compiled.evaluate)[0] == is_right.sum()
    confidence, is_right = predicted(DATASET.test_images, DATASET.test_labels)
    right, _, gaps = summed(compiled.test)
    assert right == is_right.sum()
    expected = by_hand(confidence, is_right)
    np.testing.assert_allclose(calibration_error(gaps, 20), expected, rtol=1e-4)


def test_test_images_are_looked_at_once_at_the_end(compiled):
    looked = []

    def test(*inputs):
        looked.append(int(inputs[0].state.step))
        return compiled.test(*inputs)

    outcome = train(dataclasses.replace(compiled, test=test), SETTINGS, silent)
    assert looked == [4, 4, 4]  # two epochs of two steps; three parts
    names = [name.replace("test", "validation") for name in CURVES]
    assert list(outcome.curves) == names
    final = outcome.final(2)
    assert final["validation_loss"] == outcome.curves["validation_loss"][-1]
    assert final["best_epoch"] == 1 + int(np.argmax(outcome.curves["validation_accuracy"]))
    assert 0 <= final["test_accuracy"] <= 1 and final["test_loss"] > 0
    assert 0 < final["calibration_error"] < 1


def test_one_program_trains_on_the_images_of_any_seed(compiled, compilations):
    other = split_off_validation(tiny_dataset(), count=18, seed=1)
    elsewhere = dataclasses.replace(compiled, data=on_device(other))
    settings = dataclasses.replace(SETTINGS, epochs=1)
    train(compiled, settings, silent)
    before = len(compilations)
    train(elsewhere, settings, silent)
    assert len(compilations) == before


def test_a_run_that_failed_was_never_tested(compiled):
    def diverged(carry, *inputs):
        carry, info = compiled.step(carry, *inputs)
        return carry, info._replace(loss=np.float32(np.nan))

    outcome = train(dataclasses.replace(compiled, step=diverged), SETTINGS, silent)
    final = outcome.final(2)
    assert outcome.status == "failed" and final["test_accuracy"] is final["best_epoch"] is None


def test_a_run_file_of_such_a_run_is_told_resumed_and_reported(tmp_path, capsys):
    command = ("train", "--method", "adamw", "--epochs", 1, "--batch-size", 256, "--split-seed")
    command += ("--label-noise", 0.4, "--out", tmp_path)
    assert exit_code(*command) == 0
    assert "validation acc." in capsys.readouterr().out
    (record,) = records_in(tmp_path)
    assert record["settings"]["label_noise"] == 0.4 and record["settings"]["split_seed"] is True
    assert record["steps"] == 4
    accuracy = record["final"]["test_accuracy"]
    assert exit_code(*command, "--resume") == 0
    assert exit_code("report", tmp_path) == 0
    assert f"| {100 * accuracy:.2f} |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--label-noise", 1), "`label_noise` must be at least 0 and below 1, got 1.0"),
        (("--validation-images", 5), "`validation_images` must leave every class"),
        (("--dataset", "cifar10", "--split-seed"), "`split_seed` must be left out for cifar10"),
    ],
)
def test_bad_requests_are_refused_in_a_line(options, reason, tmp_path, capsys):
    assert exit_code("train", *options, "--out", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and not list(tmp_path.iterdir())
