"""The tables of a study are made of its runs, seed by seed, each method at its best rho."""

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tiny import SETTINGS

from zsharp_jax.benchmark.commands.study import STUDIED
from zsharp_jax.benchmark.reporting import questions
from zsharp_jax.benchmark.reporting.comparison import markdown_table
from zsharp_jax.benchmark.reporting.contrasts import Contrast, difference
from zsharp_jax.benchmark.reporting.parts import PARTS, difference_in
from zsharp_jax.benchmark.reporting.passes_figure import draw_gains
from zsharp_jax.benchmark.reporting.study import study_markdown
from zsharp_jax.benchmark.reporting.study_cells import best, cells_of
from zsharp_jax.benchmark.reporting.study_figure import draw_against_length
from zsharp_jax.benchmark.reporting.study_files import write_study
from zsharp_jax.benchmark.runs.methods import METHODS


def record(method, rho, seed, accuracy, status="finished"):
    final = {"test_accuracy": accuracy, "train_loss": 0.5, "sharp_loss": 0.75, "test_loss": 0.25}
    settings = dataclasses.replace(SETTINGS, method=method, rho=rho, seed=seed)
    return {
        "name": f"{method}-{rho}-{seed}",
        "status": status,
        "command": ["zsharp-bench", "compare"],
        "settings": settings.as_dict(),
        "final": final | {"perturbation_norm": 0.0 if method == "adamw" else rho},
        "device": {"kind": "cpu", "platform": "cpu", "cpu_cores": 2},
        "versions": {"jax": "0.10.2"},
    }


SECONDS = {"seconds_per_epoch": 1.0}
COMMAND = ["zsharp-bench", "study", "--out", "a b"]
RECORDS = [
    record("adamw", 0.05, 0, 0.90),
    record("adamw", 0.05, 1, 0.92),
    *(record("sam", 0.05, seed, accuracy) for seed, accuracy in enumerate([0.91, 0.93])),
    *(record("sam", 0.1, seed, accuracy) for seed, accuracy in enumerate([0.93, 0.97])),
    *(record("zsharp", 0.05, seed, accuracy) for seed, accuracy in enumerate([0.92, 0.95])),
    record("zsharp", 0.1, 0, 0.80),
    record("zsharp", 0.1, 1, None, status="failed"),
]


def rows(text, first):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith(f"| {first} ")
    ]


def test_each_method_and_rho_has_a_row_and_the_best_rho_is_marked():
    text = study_markdown(RECORDS, COMMAND)
    assert "`zsharp-bench study --out 'a b'`" in text.splitlines()
    assert rows(text, "adamw") == [
        ["adamw", "1", "", "0", "2", "91.00 ± 1.41", "0.500", "0.750", "0.250"]
    ]
    assert [row[:6] for row in rows(text, "sam")] == [
        ["sam", "2", "0.05", "0.0500", "2", "92.00 ± 1.41"],
        ["sam", "2", "0.1", "0.100", "2", "95.00 ± 2.83 *"],
    ]
    assert [row[2:6] for row in rows(text, "zsharp")] == [
        ["0.05", "0.0500", "2", "93.50 ± 2.12 *"],
        ["0.1", "0.100", "1/2", "80.00"],
    ]


@pytest.mark.parametrize("method", ["looksam", "sam_late", "zsharp_late"])
def test_steps_without_a_perturbation_do_not_count_in_its_length(method):
    """LookSAM has one at every fifth step, so the mean over an epoch is a fifth of it."""
    look = record(method, 0.5, 0, 0.9)
    look["final"]["perturbation_norm"] = 0.1
    cells = cells_of([look, record("sam", 0.1, 0, 0.9)])
    assert [cell.length for cell in cells] == [0.5, 0.1]
    axes = draw_against_length(cells, "a study").axes[0]
    assert [float(line.get_xdata()[0]) for line in axes.lines[:2]] == [0.5, 0.1]


def test_a_part_is_the_difference_at_the_same_seed():
    text = study_markdown(RECORDS, COMMAND)
    perturbation, _ = rows(text, "the perturbation")
    assert perturbation[1:3] == ["adamw", "sam"]
    assert perturbation[4:] == ["+1.00 ± 0.00", "+4.00 ± 1.00", "+4.00 ± 1.00"]
    filtering, _ = rows(text, "the filter, at SAM's radius")
    # One seed is common at rho 0.1; the best of both are zsharp at 0.05 and sam at 0.1.
    assert filtering[1:4] == ["sam", "zsharp", "1.00"]
    assert filtering[4:] == ["+1.50 ± 0.50", "-13.00", "-1.50 ± 0.50"]
    assert not rows(text, "the radius alone")  # not trained


def test_a_contrast_has_its_interval_and_is_corrected_for_all_that_were_looked_at():
    text = study_markdown(RECORDS, COMMAND)
    # The filter at both lengths; sam and zsharp at their best, of three pairs.
    assert "Contrasts looked at: 5." in text
    same, longer = rows(text, "the z-score filter")
    assert same[1:6] == ["zsharp", "sam", "0.0500", "2", "+1.50"]
    assert longer[3:] == ["0.100", "1", "-13.00", "", "", ""]  # one common seed
    gains = [0.01, 0.02]
    error = abs(gains[1] - gains[0]) / math.sqrt(2) / math.sqrt(2)
    margin = 12.7062 * error  # the 97.5 % quantile of t with one degree of freedom
    low, high = map(float, same[6].split(" to "))
    assert (low, high) == pytest.approx((1.5 - 100 * margin, 1.5 + 100 * margin), abs=0.006)
    sam, zsharp = rows(text, "instead of adamw")
    assert sam[1:6] == ["sam", "adamw", "0.100 and 0", "2", "+4.00"]
    assert zsharp[1:6] == ["zsharp", "adamw", "0.0500 and 0", "2", "+2.50"]
    assert zsharp[7:] == ["0.1257", "0.6283"]  # the smallest p, times five


def validated(method, rho, seed, validation, test, **settings):
    made = record(method, rho, seed, test)
    made["settings"] |= {"split_seed": True, **settings}
    made["final"] |= {
        "validation_accuracy": validation,
        "calibration_error": 0.125,
        "best_epoch": 3,
    }
    return made


def test_radii_are_chosen_on_validation_images_alone():
    runs = [
        validated("sam", rho, seed, validation, test)
        for seed in (0, 1)
        for rho, validation, test in [(0.1, 0.9, 0.5), (0.2, 0.8, 0.99)]
    ]
    cells = cells_of(runs)
    assert best(cells, "sam").rho == 0.1
    text = study_markdown(runs, COMMAND)
    first, _ = rows(text, "sam")
    assert first[5:9] == ["50.00 ± 0.00 *", "90.00 ± 0.00", "3.0", "0.125"]
    assert "Part by part" not in text and "looked at once" in text


def test_a_radius_whose_runs_failed_is_not_the_best():
    runs = [record("sam", 0.1, seed, 0.8) for seed in (0, 1)]
    runs += [record("sam", 1.6, 0, 0.9), record("sam", 1.6, 1, None, status="failed")]
    assert best(cells_of(runs), "sam").rho == 0.1
    assert best(cells_of(runs[2:]), "sam").rho == 1.6


def test_the_best_radius_is_judged_on_the_seeds_that_all_radii_have():
    runs = [record("sam", 0.1, seed, accuracy) for seed, accuracy in enumerate([0.8, 0.1])]
    runs += [record("sam", 0.2, 0, 0.7)]  # cut off before the second seed, which is a hard one
    assert best(cells_of(runs), "sam").rho == 0.1


def test_quantiles_are_methods_of_their_own_and_compared_at_equal_length():
    runs = [
        validated("zsharp", 0.1, seed, 0.5, quantile, quantile=quantile)
        for seed in (0, 1)
        for quantile in (0.0, 0.5, 0.75)
    ]
    runs += [validated("sam", 0.1, 0, 0.5, 0.25)]
    cells = cells_of(runs)
    assert [cell.name for cell in cells] == ["zsharp Q0", "zsharp Q0.5", "zsharp Q0.75", "sam"]
    found = [(c.first, c.second, c.figures[0]) for c in questions.at_other_quantiles(cells)]
    assert found == [
        ("zsharp Q0.5", "zsharp Q0", (0.5, 0.0)), ("zsharp Q0.75", "zsharp Q0", (0.75, 0.0)),
    ]  # fmt: skip
    assert len(list(questions.at_equal_length(cells))) == 3


def test_robustness_is_what_is_lost_less_than_sam_from_the_best_to_the_longest():
    runs = [record("sam", 0.1, 0, 0.9), record("sam", 1.0, 0, 0.4)]
    runs += [record("zsharp", 0.1, 0, 0.7), record("zsharp", 1.0, 0, 0.6)]
    (contrast,) = questions.where_too_long(cells_of(runs))
    assert (contrast.first, contrast.second) == ("zsharp", "sam")
    assert difference(contrast).mean == pytest.approx(0.5 - 0.1)


def test_the_code_of_the_authors_is_compared_with_sam_of_its_length():
    runs = [record("sam", 0.28, 0, 0.5), record("zsharp_reference", 0.283, 0, 0.75)]
    (contrast,) = questions.at_equal_length(cells_of(runs))
    assert contrast.second == "sam" and difference(contrast).mean == 0.25
    (contrast,) = questions.at_equal_length(cells_of([*runs, record("sam_matched", 0.28, 0, 0.5)]))
    assert contrast.second == "sam_matched"


@pytest.mark.parametrize("gain, rounding", [(0.0, 0.0), (0.25, 0.0), (0.25, 1e-6)])
def test_nothing_is_said_of_a_difference_that_never_varies(gain, rounding):
    pairs = [(0.5 + gain, 0.5), (0.75 + gain + rounding, 0.75)]
    found = difference(Contrast("", "", "", "", pairs))
    assert found.mean == pytest.approx(gain, abs=1e-6)
    assert math.isnan(found.low) and math.isnan(found.high) and found.p == 1


def test_the_picture_has_a_line_for_each_method_in_a_band():
    figure = draw_against_length(cells_of(RECORDS), "title")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.get_lines()] == ["adamw", "sam", "zsharp"]
    assert axes.get_xscale() == "log"
    assert axes.get_lines()[1].get_xydata().tolist() == [[0.05, 92.0], [0.1, 95.0]]


def test_a_radius_of_zero_is_a_level_line_beside_the_curve():
    runs = [record("sam", rho, 0, 0.9 + rho) for rho in (0.0, 0.05, 0.02)]
    axes = draw_against_length(cells_of([*runs, record("zsharp", 0.0, 0, 0.5)]), "title").axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_allclose(lines["sam"].get_xydata(), [[0.02, 92.0], [0.05, 95.0]])
    assert "zsharp" in lines and sum(label.startswith("sam") for label in lines) == 1


def test_the_parts_are_those_of_one_quantile_at_common_radii():
    own = [record("zsharp", 0.05, 0, 0.9), record("zsharp", 0.05, 0, 0.8)]
    for quantile, run in zip((0.5, 0.75), own, strict=True):
        run["settings"]["quantile"] = quantile
    text = study_markdown([record("sam", 0.05, 0, 0.7), *own], COMMAND)
    assert "Part by part" not in text
    runs = [record("sam", 0.2, 0, 0.7), record("zsharp", 0.2, 0, 0.8)]
    text = study_markdown([*runs, record("sam_matched", 0.07, 0, 0.8)], COMMAND)
    assert "| rho 0.2 | each at its best |" in text


def test_a_method_of_which_a_run_failed_at_the_longest_is_not_judged_by_the_others():
    runs = [record("sam", rho, seed, 0.9) for rho in (0.1, 1.0) for seed in (0, 1)]
    runs += [record("zsharp", 0.1, seed, 0.8) for seed in (0, 1)]
    runs += [record("zsharp", 1.0, 0, 0.7), record("zsharp", 1.0, 1, None, status="failed")]
    assert not list(questions.where_too_long(cells_of(runs)))


def test_all_values_of_a_setting_and_all_devices_are_told():
    runs = [record("adamw", 0.3, 0, 0.9), record("sam", 0.1, 0, 0.9), record("asam", 0.5, 0, 0.9)]
    runs[2]["device"] = {"kind": "H200", "platform": "gpu", "cpu_cores": 16}
    runs[2]["versions"] = {"jax": "0.11.2"}
    text = markdown_table([{**run, "final": run["final"] | SECONDS} for run in runs])
    assert "rho 0.1 / 0.5." in text or "rho 0.1 / 0.5," in text
    assert "Device: cpu (cpu, 2 CPU cores) / H200 (gpu, 16 CPU cores); jax 0.10.2 / 0.11.2." in text


def test_the_same_is_told_of_the_clean_loss_and_of_the_length():
    longer = [record("sam_matched", 0.05, seed, 0.9) for seed in (0, 1)]
    for seed, run in enumerate(longer):
        run["final"] |= {"train_loss": 0.51 + 0.02 * seed, "perturbation_norm": 0.2}
    _, radius = rows(study_markdown([*RECORDS, *longer], COMMAND), "the radius alone")
    assert radius[1:] == ["sam", "sam_matched", "4.00", "+0.0200 ± 0.0100", "", "+0.0200 ± 0.0100"]


def test_differences_need_a_common_seed():
    cells = cells_of(RECORDS)
    assert difference_in(best(cells, "sam"), None, "test_accuracy") is None
    (other,) = cells_of([record("asam", 0.5, 7, 0.9)])
    assert difference_in(best(cells, "sam"), other, "test_accuracy") is None


def test_a_method_of_which_no_run_finished_has_a_row_without_figures():
    text = study_markdown([*RECORDS, record("asam", 0.1, 0, None, status="failed")], COMMAND)
    assert rows(text, "asam") == [["asam", "2", "0.1", "", "0/1", "", "", "", ""]]


def test_all_that_is_compared_is_trained():
    assert set(STUDIED) <= set(METHODS)
    assert {method for part in PARTS for method in part[:2]} <= set(STUDIED)


def test_a_long_title_fits_its_picture():
    title = "vit_3_4_4_64 on cifar10, 5,000 training images, 20 % of the training labels wrong: "
    title += "mean and 95 % interval over 5 seeds"
    for figure in (
        draw_against_length(cells_of(RECORDS), title),
        draw_gains(cells_of(RECORDS), title),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure._suptitle.get_window_extent(canvas.get_renderer())
        assert 0 < box.x0 < box.x1 < figure.bbox.width
        assert figure.get_suptitle() == title.replace(": ", ":\n")


def test_no_gains_are_left_of_runs_that_are_gone(tmp_path, capsys):
    write_study(RECORDS, tmp_path, COMMAND)
    assert (tmp_path / "gain-against-passes.png").exists()
    written = write_study(RECORDS[2:], tmp_path, COMMAND)
    assert sorted(written) == sorted(path.name for path in tmp_path.iterdir())


def test_rows_come_in_the_order_in_which_runs_do():
    assert [(cell.method, cell.rho) for cell in cells_of(RECORDS)] == [
        ("adamw", None), ("sam", 0.05), ("sam", 0.1), ("zsharp", 0.05), ("zsharp", 0.1),
    ]  # fmt: skip


def test_the_gains_stand_by_passes_and_a_line_marks_half_of_that_of_sam():
    accuracies = {"adamw": 0.5, "sam": 0.7, "sam_one_pass": 0.6, "gsam": 0.75}
    runs = [
        record(name, 0.05, seed, accuracy + seed / 100)
        for name, accuracy in accuracies.items()
        for seed in (0, 1)
    ]
    figure = draw_gains(cells_of(runs), "title")
    assert figure is not None
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["sam_one_pass, 1", "sam, 2", "gsam, 2"]
    gains = [container.lines[0].get_xdata().item() for container in axes.containers]
    np.testing.assert_allclose(gains, [10, 20, 25])
    marks = {line.get_label(): line.get_xdata()[0] for line in axes.get_lines()[-2:]}
    assert marks == pytest.approx({"SAM's gain": 20, "half of it": 10})
    assert draw_gains(cells_of(runs[2:]), "without adamw") is None
