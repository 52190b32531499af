"""The table of speed in `zsharp-bench report`: which runs share a row, and what it tells."""

import pytest
import run_files
from run_files import DIGITS, change

from zsharp_jax.benchmark.reporting import report
from zsharp_jax.benchmark.runs.reading import read_folder
from zsharp_jax.benchmark.runs.records import write_record

GPU = {"platform": "gpu", "kind": "NVIDIA H100 | 80GB", "cpu_cores": 16}


def write(folder, settings, seconds=0.5, **fields):
    made = run_files.record(settings, **fields)
    made["final"]["seconds_per_epoch"] = seconds
    made["name"] = f"run{len(list(folder.iterdir()))}"
    write_record(folder, made)


def speed_lines(folder):
    """The rows of the table, each as its cells; none without a table."""
    text = report.markdown(read_folder(folder)[0], 0)
    lines = text[text.index("## Speed") :].splitlines() if "## Speed" in text else []
    rows = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_exact_table_of_a_known_set(tmp_path):
    for seed, seconds in enumerate((0.4, 0.5, 0.6)):  # of 22 steps with 64 images
        write(tmp_path, change(DIGITS, seed=seed), seconds, compile_seconds=10.0 + seed)
    write(tmp_path, change(DIGITS, method="adamw"), 0.0352, device=GPU)
    settings = "batch_size 64, dtype float32, steps_per_epoch 22"
    assert speed_lines(tmp_path) == [
        ["digits", "resnet8", "adamw", settings, "NVIDIA H100 \\| 80GB", "0.10.2",
         "1", "0.035", "40,000", "1.0"],
        ["digits", "resnet8", "sam", settings, "2-core cpu", "0.10.2",
         "3", "0.500 ± 0.100", "2,894 ± 591", "11.0"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "differing",
    [{"rho": 0.1}, {"learning_rate": 0.1}, {"quantile": 0.5}, {"epochs": None, "steps": 44}],
)
def test_what_takes_no_time_parts_no_rows(tmp_path, differing):
    write(tmp_path, DIGITS)
    write(tmp_path, change(DIGITS, seed=1, **differing))
    assert [line[6:8] for line in speed_lines(tmp_path)] == [["2", "0.500 ± 0.000"]]


@pytest.mark.parametrize(
    "settings, fields",
    [
        (change(DIGITS, batch_size=32), {"steps_per_epoch": 22}),
        (change(DIGITS, dtype="bfloat16"), {}),
        (DIGITS, {"extra": {"devices": 8}}),  # of a later version
        (DIGITS, {"device": GPU}),
        (DIGITS, {"device": {"kind": "cpu", "cpu_cores": 4}}),
        (DIGITS, {"versions": {"jax": "0.12.0"}}),
    ],
)
def test_what_may_take_time_parts_rows(tmp_path, settings, fields):
    write(tmp_path, DIGITS)
    write(tmp_path, change(settings, seed=1), 0.25, **fields)
    assert sorted(line[6:8] for line in speed_lines(tmp_path)) == [["1", "0.250"], ["1", "0.500"]]


def test_runs_that_did_not_reach_their_end_have_no_part_in_it(tmp_path):
    write(tmp_path, DIGITS)
    failed = run_files.record(change(DIGITS, seed=1), status="failed", name="failed")
    write_record(tmp_path, run_files.cut_short(failed, 2))
    assert [line[6] for line in speed_lines(tmp_path)] == ["1"]


def test_files_that_do_not_tell_their_time_are_read_all_the_same(tmp_path):
    write(tmp_path, DIGITS, seconds=None)
    assert speed_lines(tmp_path) == []
    write(tmp_path, change(DIGITS, seed=1), compile_seconds=None)
    assert [line[6:] for line in speed_lines(tmp_path)] == [["1", "0.500", "2,816", ""]]
