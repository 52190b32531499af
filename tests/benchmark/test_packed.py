"""The finished runs of a folder in one file: nothing is lost, and all reports stay the same."""

import json

import pytest
import run_files
from command import exit_code
from run_files import DIGITS, change

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.reporting.report import markdown
from zsharp_jax.benchmark.runs import finished
from zsharp_jax.benchmark.runs.finished import finished_record
from zsharp_jax.benchmark.runs.json_files import read_json
from zsharp_jax.benchmark.runs.packed import PACKED, pack, packed_records
from zsharp_jax.benchmark.runs.reading import read_folder
from zsharp_jax.benchmark.runs.records import write_record
from zsharp_jax.benchmark.runs.resumable import refuse_other_plans, refuse_other_settings

SETTINGS = [change(DIGITS, seed=seed) for seed in (0, 1, 10, 2)]
RECORDS = [run_files.record(settings, 0.9 + settings.seed / 100) for settings in SETTINGS]
NAMES = [record["name"] for record in RECORDS]


def write_all(folder):
    for record in RECORDS:
        write_record(folder, record)


def report_on(folder):
    runs, problems = read_folder(folder)
    return markdown(runs, len(problems))


def test_a_packed_folder_gives_the_same_report_and_the_same_records(tmp_path):
    write_all(tmp_path)
    before = report_on(tmp_path)
    pack(tmp_path, NAMES[:1])
    assert len(list(tmp_path.iterdir())) == len(NAMES)
    pack(tmp_path, NAMES)
    pack(tmp_path, NAMES)  # there is nothing left to do
    assert [path.name for path in tmp_path.iterdir()] == [PACKED]
    assert report_on(tmp_path) == before
    assert dict(packed_records(tmp_path)) == dict(zip(NAMES, RECORDS, strict=True))
    for settings, record in zip(SETTINGS, RECORDS, strict=True):
        assert finished_record(tmp_path, settings, "a" * 64) == record


def test_what_has_not_finished_keeps_its_file_and_what_is_newer_counts(tmp_path):
    write_all(tmp_path)
    write_record(tmp_path, run_files.cut_short(RECORDS[0], 1, status="interrupted"))
    pack(tmp_path, NAMES)
    assert {path.name for path in tmp_path.iterdir()} == {PACKED, f"{NAMES[0]}.json"}
    again = {**RECORDS[1], "compile_seconds": 7.0}
    write_record(tmp_path, again)  # trained anew
    assert finished_record(tmp_path, SETTINGS[1], "a" * 64) == again
    assert sorted(run.compile_seconds for run in read_folder(tmp_path)[0])[-1] == 7
    pack(tmp_path, NAMES)
    assert dict(packed_records(tmp_path))[NAMES[1]] == again


def test_a_damaged_line_is_named_kept_and_hides_no_other(tmp_path, capsys):
    write_all(tmp_path)
    pack(tmp_path, NAMES[:2])
    with (tmp_path / PACKED).open("ab") as file:
        file.write(b'{"format": 1, "name": "half')
    pack(tmp_path, NAMES)
    assert (tmp_path / PACKED).read_bytes().endswith(b'"half\n')
    assert exit_code("report", tmp_path) == 1
    assert f"skipped {tmp_path}/{PACKED}, line 5: not JSON" in capsys.readouterr().err
    assert len(read_folder(tmp_path)[0]) == len(NAMES)


def test_the_last_of_two_lines_of_a_run_counts_everywhere_and_the_other_is_named(tmp_path, capsys):
    again = {**RECORDS[0], "compile_seconds": 7.0}
    lines = [json.dumps(record) for record in (RECORDS[0], again)]
    (tmp_path / PACKED).write_text("\n\n".join(lines) + "\n")  # a line without anything is none
    assert finished_record(tmp_path, SETTINGS[0], "a" * 64) == again
    (run,), (problem,) = read_folder(tmp_path)
    assert run.compile_seconds == 7
    assert problem == f"{tmp_path / PACKED}, line 1: line 3 is of the same run"


def test_a_run_that_another_process_packs_meanwhile_is_found(tmp_path, monkeypatch):
    write_record(tmp_path, RECORDS[0])

    def packed_first(path):
        pack(tmp_path, NAMES)
        return read_json(path)

    monkeypatch.setattr(finished, "read_json", packed_first)
    assert finished_record(tmp_path, SETTINGS[0], "a" * 64) == RECORDS[0]


def test_packed_runs_with_other_settings_are_refused_as_others_are(tmp_path):
    write_all(tmp_path)
    pack(tmp_path, NAMES)
    other = change(DIGITS, learning_rate=0.5)
    with pytest.raises(RequestError, match=r"cannot resume .*: learning_rate was 0.001 there"):
        refuse_other_settings(tmp_path, [other], "a" * 64)
    refuse_other_settings(tmp_path, SETTINGS, "a" * 64)


def test_runs_of_another_plan_are_named_and_refused(tmp_path):
    refuse_other_plans(tmp_path, DIGITS)
    write_all(tmp_path)
    pack(tmp_path, NAMES[:2])
    refuse_other_plans(tmp_path, change(DIGITS, seed=5, rho=1.0, method="zsharp", quantile=0.5))
    with pytest.raises(RequestError, match=r"another plan, as digits-.*: epochs was .* is 40 here"):
        refuse_other_plans(tmp_path, change(DIGITS, epochs=40))


def test_a_line_that_is_no_record_is_told(tmp_path):
    (tmp_path / PACKED).write_text("[]\n" + json.dumps({"format": 1}) + "\n")
    runs, problems = read_folder(tmp_path)
    assert not runs and len(problems) == 2 and "line 2: `name` must be a word" in problems[1]
