"""The tables of a study are made of its runs, seed by seed, each method at its best rho."""

import dataclasses

from tiny import SETTINGS

from zsharp_jax.benchmark.methods import METHODS
from zsharp_jax.benchmark.study import PARTS, STUDIED, best, cells_of, difference, study_markdown


def record(method, rho, seed, accuracy, status="finished"):
    final = {"test_accuracy": accuracy, "train_loss": 0.5, "sharp_loss": 0.75, "test_loss": 0.25}
    settings = dataclasses.replace(SETTINGS, method=method, rho=rho, seed=seed)
    return {
        "status": status,
        "command": ["zsharp-bench", "compare"],
        "settings": settings.as_dict(),
        "final": final | {"perturbation_norm": rho},
        "device": {"kind": "cpu", "platform": "cpu"},
    }


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
        ["adamw", "", "2", "91.00 ± 1.41", "0.500", "0.750", "0.250", "0.0500"]
    ]
    assert [row[:4] for row in rows(text, "sam")] == [
        ["sam", "0.05", "2", "92.00 ± 1.41"],
        ["sam", "0.1", "2", "95.00 ± 2.83 *"],
    ]
    assert [row[:4] for row in rows(text, "zsharp")] == [
        ["zsharp", "0.05", "2", "93.50 ± 2.12 *"],
        ["zsharp", "0.1", "1/2", "80.00"],
    ]


def test_a_part_is_the_difference_at_the_same_seed():
    text = study_markdown(RECORDS, COMMAND)
    perturbation, _ = rows(text, "the perturbation")
    assert perturbation[1:3] == ["adamw", "sam"]
    assert perturbation[4:] == ["+1.00 ± 0.00", "+4.00 ± 1.00", "+4.00 ± 1.00"]
    filtering, _ = rows(text, "the filter, at SAM's radius")
    # One seed is common at rho 0.1; the best of both are zsharp at 0.05 and sam at 0.1.
    assert filtering[1:4] == ["sam", "zsharp", "1.00"]
    assert filtering[4:] == ["+1.50 ± 0.50", "-13.00", "-1.50 ± 0.50"]
    radius, _ = rows(text, "the radius alone")
    assert radius[3:] == ["", "", "", ""]  # not trained


def test_the_same_is_told_of_the_clean_loss_and_of_the_length():
    longer = [record("sam_matched", 0.05, seed, 0.9) for seed in (0, 1)]
    for seed, run in enumerate(longer):
        run["final"] |= {"train_loss": 0.51 + 0.02 * seed, "perturbation_norm": 0.2}
    _, radius = rows(study_markdown([*RECORDS, *longer], COMMAND), "the radius alone")
    assert radius[1:] == ["sam", "sam_matched", "4.00", "+0.0200 ± 0.0100", "", "+0.0200 ± 0.0100"]


def test_differences_need_a_common_seed():
    cells = cells_of(RECORDS)
    assert difference(best(cells, "sam"), None) is None
    (other,) = cells_of([record("asam", 0.5, 7, 0.9)])
    assert difference(best(cells, "sam"), other) is None


def test_a_method_of_which_no_run_finished_has_a_row_without_figures():
    text = study_markdown([*RECORDS, record("asam", 0.1, 0, None, status="failed")], COMMAND)
    assert rows(text, "asam") == [["asam", "0.1", "0/1", "", "", "", "", ""]]


def test_all_that_is_compared_is_trained():
    assert set(STUDIED) == set(METHODS)
    assert {method for part in PARTS for method in part[:2]} <= set(STUDIED)


def test_rows_come_in_the_order_in_which_runs_do():
    assert [(cell.method, cell.rho) for cell in cells_of(RECORDS)] == [
        ("adamw", None), ("sam", 0.05), ("sam", 0.1), ("zsharp", 0.05), ("zsharp", 0.1),
    ]  # fmt: skip
