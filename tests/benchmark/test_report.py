"""`zsharp-bench report`: what shares a row, what the tables say, what stands beside the paper's."""

import pytest
import run_files
from command import exit_code
from run_files import DIGITS, PAPER, change

from zsharp_jax.benchmark.reporting import cells, paper, report, rows
from zsharp_jax.benchmark.reporting.paper import Measure
from zsharp_jax.benchmark.runs.reading import read_folder
from zsharp_jax.benchmark.runs.records import write_record


def reported(folder, **options):
    runs, problems = read_folder(folder)
    return report.markdown(runs, len(problems), **options)


def table_lines(text, title="## Table 1"):
    """The rows of the first table under a title, each as its cells."""
    lines = iter(text[text.index(title) :].splitlines())
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def test_the_exact_table_of_a_known_set(tmp_path):
    for seed, accuracy in enumerate((0.9, 0.92, 0.94)):
        run_files.write(tmp_path, change(DIGITS, seed=seed), accuracy, 0.1, 0.2 + 0.01 * seed)
    run_files.write(tmp_path, change(DIGITS, method="adamw"), 0.95, 0.1, 0.1, 0.0)
    assert reported(tmp_path).splitlines()[:15] == [
        "# Results: digits, resnet8",
        "",
        "Made from 4 run files; device 2-core cpu; JAX 0.10.2; commit cccccccccccc.",
        "",
        "## Table 1: networks and methods",
        "",
        "### digits",
        "",
        "All of our rows: epochs 3, batch_size 64, dtype float32, quantile 0.95, recipe paper, "
        "optimizer adamw, learning_rate 0.001, weight_decay 5e-05, decay_rate 0.75, "
        "decay_epochs 10, warmup_epochs 0, rho 0.05, data_sha256 aaaaaaaaaaaa, "
        "steps_per_epoch 22.",
        "",
        "| network | method | settings | seeds | test acc. % | clean loss | sharp loss | ‖ε‖ |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| resnet8 | adamw |  | 1 | 95.00 | 0.1000 | 0.1000 | 0 |",
        "| resnet8 | sam |  | 3 | 92.00 ± 2.00 | 0.1000 ± 0.0000 | 0.2100 ± 0.0100 | 0.0500 |",
        "",
    ]


def test_beside_the_papers_figure_stands_the_difference_in_units_of_the_larger_std(tmp_path):
    for seed, accuracy in enumerate((0.9139, 0.9239)):  # std 0.0071, the paper's 0.0021
        run_files.write(tmp_path, change(PAPER, seed=seed), accuracy, 0.01, 0.0170)
    table = table_lines(reported(tmp_path))
    (ours,) = [line for line in table if line[:2] == ["resnet56", "sam"]]
    assert ours[2:] == [
        "", "2", "91.89 ± 0.71", "91.60 ± 0.21", "+0.4", "0.0100 ± 0.0000", "0.0170 ± 0.0000",
        "0.0221 ± 0.0051", "-1.0", "0.0500",
    ]  # fmt: skip
    assert table == [ours]
    others = "The paper's other datasets have no run here: cifar100, tiny_imagenet."
    assert others in reported(tmp_path).splitlines()
    whole = table_lines(reported(tmp_path, whole_tables=True))
    assert len(whole) == 25 and ours in whole  # five networks by five methods, as in the paper
    (other,) = [line for line in whole if line[:2] == ["vit_7_8_8_384", "zsharp"]]
    assert other[2:] == [
        "the paper's", "", "", "85.43 ± 0.29", "", "", "", "0.0647 ± 0.0216", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "ours, theirs, text",
    [
        (Measure(0.5, 0.1), Measure(0.3, 0.05), "+2.0"),
        (Measure(0.3, 0.05), Measure(0.5, 0.1), "-2.0"),
        (Measure(0.3, None), Measure(0.5, 0.1), "-2.0"),
        (Measure(0.3, None), Measure(0.5, None), ""),
        (Measure(0.3, 0.0), Measure(0.5, 0.0), ""),
        (None, Measure(0.5, 0.1), ""),
        (Measure(0.5, 0.1), None, ""),
    ],
)
def test_differences_are_in_units_of_the_larger_std(ours, theirs, text):
    assert cells.difference(ours, theirs) == text


@pytest.mark.parametrize(
    "differing",
    [
        {"rho": 0.1}, {"quantile": 0.9}, {"epochs": 4}, {"batch_size": 32}, {"learning_rate": 1e-2},
        {"weight_decay": 0.0}, {"decay_rate": 0.5}, {"decay_epochs": 3},
        {"epochs": None, "steps": 66},
    ],
)  # fmt: skip
def test_runs_that_differ_in_a_setting_have_rows_of_their_own_that_name_it(tmp_path, differing):
    run_files.write(tmp_path, DIGITS, 0.8)
    run_files.write(tmp_path, change(DIGITS, seed=1), 0.8)
    run_files.write(tmp_path, change(DIGITS, seed=2, **differing), 0.9)
    lines = table_lines(reported(tmp_path))
    assert sorted((line[3], line[4]) for line in lines) == [("1", "90.00"), ("2", "80.00 ± 0.00")]
    (own,) = [line[2] for line in lines if line[3] == "1"]
    for name, value in differing.items():
        assert value is None or f"{name} {value}" in own.split(", ")


@pytest.mark.parametrize(
    "one, other",
    [
        ({"extra": {"dtype": "float32"}}, {"extra": {"dtype": "bfloat16"}}),
        ({"extra": {"recipe": "paper"}}, {"extra": {"recipe": "reference"}}),
        ({"extra": {"label_smoothing": 0.1}}, {}),
        ({"extra": {"nesterov": True}}, {"extra": {"nesterov": 1}}),
        ({"extra": {"steps_each": "1"}}, {"extra": {"steps_each": 1}}),
        ({"extra": {"nesterov": True}}, {"extra": {"nesterov": "True"}}),
        ({"data_sha256": "a" * 64}, {"data_sha256": "b" * 64}),
    ],
)
def test_settings_that_this_version_does_not_know_part_rows_too(tmp_path, one, other):
    run_files.write(tmp_path, DIGITS, 0.8, **one)
    run_files.write(tmp_path, change(DIGITS, seed=1), 0.9, **other)
    lines = table_lines(reported(tmp_path))
    assert sorted(line[3:5] for line in lines) == [["1", "80.00"], ["1", "90.00"]]
    assert lines[0][2] != lines[1][2]


def test_a_setting_that_is_none_is_one_that_is_not_there_and_1_is_1_0(tmp_path):
    run_files.write(tmp_path, change(DIGITS, rho=1), extra={"subset": None})
    run_files.write(tmp_path, change(DIGITS, rho=1.0, seed=1))
    assert [line[3] for line in table_lines(reported(tmp_path))] == ["2"]


def test_methods_of_later_versions_have_rows(tmp_path):
    later = ["sam_layerwise", "sam_matched", "zsharp_global", "zsharp_matched", "zsharp_random"]
    for method in later:
        made = run_files.record(DIGITS)
        made["settings"]["method"] = made["name"] = method
        write_record(tmp_path, made)
    assert [line[1] for line in table_lines(reported(tmp_path))] == later


def test_failed_and_unfinished_runs_are_counted_and_in_no_average(tmp_path):
    run_files.write(tmp_path, DIGITS, 0.9)
    endings = {
        "a": {"status": "failed", "error": "sam, seed 1: the | loss\nis nan"},
        "b": {"status": "interrupted"},
        "c": {},  # says finished, and took fewer steps than it was to take
    }
    for seed, (name, fields) in enumerate(endings.items(), 1):
        made = run_files.record(change(DIGITS, seed=seed), 0.1)
        write_record(tmp_path, run_files.cut_short(made, 2, name=name, **fields))
    text = reported(tmp_path)
    assert table_lines(text) == [
        ["resnet8", "sam", "", "1 (1 failed, 2 cut short)", "90.00", "0.1000", "0.2000", "0.0500"]
    ]
    assert text[text.index("## Runs that failed") :].splitlines()[2:5] == [
        "- a.json (sam, seed 1): failed after 44 of 66 steps: sam, seed 1: the \\| loss?is nan",
        "- b.json (sam, seed 2): interrupted after 44 of 66 steps",
        "- c.json (sam, seed 3): cut short after 44 of 66 steps",
    ]


def test_a_row_without_a_whole_run_is_empty(tmp_path):
    made = run_files.record(DIGITS)
    write_record(tmp_path, run_files.cut_short(made, 0, status="failed", steps=1))
    assert table_lines(reported(tmp_path)) == [
        ["resnet8", "sam", "", "0 (1 failed)", "", "", "", ""]
    ]


def test_a_seed_counts_once_and_whole_runs_come_first(tmp_path):
    made = run_files.record(DIGITS, 0.9)
    write_record(tmp_path, run_files.cut_short(made, 1, name="a", status="failed"))
    for name in ("b", "c"):
        write_record(tmp_path, {**made, "name": name})
    text = reported(tmp_path)
    assert table_lines(text)[0][3:5] == ["1", "90.00"]
    repeated = text[text.index("## Files left out") :].splitlines()[2:4]
    assert repeated == ["- c.json (sam, seed 0)", "- a.json (sam, seed 0)"]


@pytest.mark.parametrize(
    "settings, extra, departing",
    [
        (PAPER, {}, []),
        (PAPER, {"recipe": "paper", "dtype": "bfloat16", "subset": None, "warmup": 0}, []),
        (change(PAPER, method="adamw", rho=0.5), {}, []),  # has no use for rho
        (change(PAPER, method="asam", rho=0.5), {}, ["rho"]),
        (change(PAPER, quantile=0.9), {}, []),
        (change(PAPER, method="zsharp", quantile=0.9), {}, ["quantile"]),
        (change(PAPER, epochs=30), {}, ["epochs"]),
        (change(PAPER, epochs=None, steps=39_000), {}, ["epochs", "steps"]),
        (PAPER, {"recipe": "reference"}, ["recipe"]),
        (PAPER, {"warmup_epochs": 5}, ["warmup_epochs"]),
        (PAPER, {"flip": False, "crop_padding": 0, "eta": 1.0}, ["crop_padding", "flip"]),
        (PAPER, {"flip": True, "crop_padding": 4}, []),
        (change(PAPER, method="asam", eta=0.1), {}, ["eta"]),
        (change(PAPER, method="asam", eta=0.01), {}, []),
        (PAPER, {"steps_per_epoch": 39}, ["steps_per_epoch"]),  # a subset of the images
    ],
)
def test_only_the_papers_settings_compare_with_the_paper(settings, extra, departing):
    told = {**settings.as_dict(), **extra}
    others = {
        name: value
        for name, value in told.items()
        if name not in ("dataset", "model", "method", "seed")
    }
    assert paper.departures("cifar10", settings.method, others) == departing


def test_other_settings_leave_the_papers_figure_in_a_row_of_its_own(tmp_path):
    run_files.write(tmp_path, change(PAPER, method="zsharp", epochs=30), 0.85)
    found = [x for x in table_lines(reported(tmp_path)) if x[:2] == ["resnet56", "zsharp"]]
    assert [line[2:7] for line in found] == [
        ["the paper's", "", "", "92.64 ± 0.32", ""],
        ["", "1", "85.00", "", ""],
    ]


def test_the_papers_zsharp_stands_beside_the_authors_code_too(tmp_path):
    run_files.write(tmp_path, change(PAPER, method="zsharp_reference"), 0.9264)
    found = [x for x in table_lines(reported(tmp_path)) if x[1] == "zsharp_reference"]
    assert [line[4:7] for line in found] == [["92.64", "92.64 ± 0.32", "+0.0"]]


def test_table_2_has_the_papers_quantiles_with_empty_cells(tmp_path):
    run_files.write(tmp_path, change(PAPER, method="zsharp", quantile=0.85), 0.9189)
    run_files.write(tmp_path, PAPER, 0.9160)
    text = reported(tmp_path, whole_tables=True)
    assert "### resnet56 on cifar10" in text
    shown = table_lines(reported(tmp_path), "## Table 2")
    assert [line[:2] for line in shown] == [["sam", "N/A"], ["zsharp", "0.85"]]
    assert [line[:7] for line in table_lines(text, "## Table 2")] == [
        ["adamw", "N/A", "the paper's", "", "", "91.08 ± 0.45", ""],
        ["sam", "N/A", "", "1", "91.60", "91.60 ± 0.21", "+0.0"],
        ["zsharp", "0.95", "the paper's", "", "", "92.64 ± 0.32", ""],
        ["zsharp", "0.90", "the paper's", "", "", "92.12 ± 0.15", ""],
        ["zsharp", "0.85", "", "1", "91.89", "91.89 ± 0.23", "+0.0"],
        ["zsharp", "0.80", "the paper's", "", "", "91.53 ± 0.27", ""],
        ["zsharp", "0.75", "the paper's", "", "", "91.32 ± 0.17", ""],
    ]


def test_table_2_of_a_dataset_that_the_paper_does_not_have(tmp_path):
    for quantile in (0.95, 0.5, 0):
        run_files.write(tmp_path, change(DIGITS, method="zsharp", quantile=quantile), 0.9)
    lines = table_lines(reported(tmp_path), "## Table 2")
    assert [line[1] for line in lines] == ["0.95", "0.50", "0.00"]
    lines = table_lines(reported(tmp_path, whole_tables=True), "## Table 2")
    assert [(line[1], line[3]) for line in lines] == [
        ("0.95", "1"), ("0.90", ""), ("0.85", ""), ("0.80", ""), ("0.75", ""), ("0.50", "1"),
        ("0.00", "1"),
    ]  # fmt: skip


def test_the_papers_facts():
    assert len(paper.TABLE_1) == 75 and len(paper.TABLE_2) == 8
    for (dataset, network, method), cell in paper.TABLE_1.items():
        assert 0.25 < cell.accuracy.mean < 0.94 and 0 < cell.train_loss.mean < 0.5
        assert paper.published(dataset, network, method, 0.95) == cell
    assert paper.published("cifar100", "vgg16_bn", "asam").accuracy == Measure(0.7170, 0.0121)
    assert paper.published("tiny_imagenet", "resnet110", "zsharp").train_loss.std == 0.0311
    assert paper.published("cifar10", "vit_7_8_8_384", "zsharp", 0.75).accuracy.mean == 0.8378
    assert paper.published("cifar100", "resnet56", "zsharp", 0.9) is None
    assert paper.published("cifar10", "resnet56", "sam_matched") is None


def test_rows_are_in_the_order_of_the_paper(tmp_path):
    for method in ("zsharp_reference", "zsharp", "sam", "adamw", "friendly_sam", "asam"):
        for seed in (1, 0):
            run_files.write(tmp_path, change(DIGITS, method=method, seed=seed))
    runs, _ = read_folder(tmp_path)
    found, repeated = rows.rows_of(runs)
    assert [row.method for row in found] == [
        "adamw", "sam", "asam", "friendly_sam", "zsharp", "zsharp_reference",
    ]  # fmt: skip
    assert [run.seed for run in found[0].whole] == [0, 1] and not repeated


def test_the_report_is_printed_or_written(tmp_path, capsys):
    (tmp_path / "runs" / "deeper").mkdir(parents=True)
    run_files.write(tmp_path / "runs" / "deeper", DIGITS)
    assert exit_code("report", tmp_path / "runs") == 0
    printed = capsys.readouterr().out
    out = tmp_path / "new" / "report.md"
    assert exit_code("report", tmp_path / "runs", "--out", out) == 0
    assert out.read_text() == printed and "| resnet8 | sam |" in printed
    assert capsys.readouterr().out == f"Written to {out}: a report on 1 run\n"


def test_the_command_prints_whole_tables_if_it_is_asked_to(tmp_path, capsys):
    run_files.write(tmp_path, PAPER)
    for options, count in (((), 1), (("--whole-tables",), 25)):
        assert exit_code("report", tmp_path, *options) == 0
        assert len(table_lines(capsys.readouterr().out)) == count
