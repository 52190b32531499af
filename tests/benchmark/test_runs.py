"""Run files from anywhere: what is damaged is named and skipped, and nothing else happens."""

import copy
import datetime
import json
import math
import os
import pathlib
import tempfile
import time

import hypothesis
import pytest
import run_files
from command import exit_code
from hypothesis import strategies
from matplotlib.figure import Figure
from mutations import examples, mutated
from run_files import DIGITS, change

from zsharp_jax.benchmark.reporting import filter_figure, report, study
from zsharp_jax.benchmark.reporting.comparison import markdown_table
from zsharp_jax.benchmark.runs.fields import DamagedError
from zsharp_jax.benchmark.runs.finished import finished_record
from zsharp_jax.benchmark.runs.reading import read_folder
from zsharp_jax.benchmark.runs.records import write_record

pytestmark = pytest.mark.usefixtures("memory_stays")

GOOD = run_files.record(DIGITS, name="good")
SOON = datetime.timedelta(seconds=20)


def changed(path, value):
    """A good record with another value at a path of keys; `...` takes the key away."""
    record = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    within = record
    for key in parents:
        within = within[key]
    if value is ...:
        del within[last]
    else:
        within[last] = value
    return json.dumps(record).encode()


WHOLE = json.dumps(GOOD).encode()
DAMAGED = {
    "truncated": (WHOLE[: len(WHOLE) // 2], "not JSON: "),
    "empty": (b"", "not JSON: "),
    "binary": (bytes(range(256)), "not JSON: "),
    "nested": (b"[" * 200_000 + b"]" * 200_000, "not JSON: it is nested too deeply"),
    "list": (b"[1, 2]", "not a run file: it has no `format`"),
    "foreign": (b'{"name": "package", "version": "1.0"}', "not a run file: it has no `format`"),
    "of another format": (changed("format", 2), "`format` must be 1, got 2"),
    "format true": (changed("format", True), "`format` must be an integer from 0 up, got true"),
    "nan": (changed("final.train_loss", math.nan), "not JSON: NaN is no number"),
    "nan curve": (changed("curves.train_loss", [math.nan]), "not JSON: NaN is no number"),
    "inf": (
        WHOLE.replace(b'"train_loss": 0.1', b'"train_loss": 1e999'),
        "`final.train_loss` must be a finite number of float32, got Infinity",
    ),
    "huge": (changed("steps", 10**4000), "`steps` must be an integer from 0 up, got a huge"),
    "huger": (b'{"format": ' + b"1" * 5000 + b"}", "not JSON: Exceeds the limit"),
    "a huge setting": (changed("settings.rho", 10**300), "`rho` must be a finite number"),
    "negative": (changed("curves.sharp_loss", [0.1, -1, 0.2]), "must lie in [0, 1e+39], got -1"),
    "accuracy": (changed("curves.test_accuracy", [0.1, 1.1, 1]), "must lie in [0, 1], got 1.1"),
    "text for a number": (changed("curves.train_loss", ["a"]), "a finite number of float32, got"),
    "no curve": (changed("curves.train_loss", ...), "`curves.train_loss` must be a list, got null"),
    "short curve": (changed("curves.train_loss", [0.1]), "curves must have 3 values each, got [1,"),
    "no settings": (changed("settings", []), "`settings` must be an object, got a list"),
    "no seed": (changed("settings.seed", ...), "`seed` must be an integer from 0 up, got null"),
    "seed": (changed("settings.seed", -1), "`seed` must be an integer from 0 up, got -1"),
    "no length": (changed("settings.epochs", None), "`epochs` must be an integer from 1 up"),
    "no epoch": (changed("steps_per_epoch", 0), "`steps_per_epoch` must be an integer from 1 up"),
    "method": (changed("settings.method", "a|b\n<c>"), '`method` must be a word, got "a|b\\n<c>"'),
    "path": (changed("settings.dataset", "../../etc"), '`dataset` must be a word, got "../../etc"'),
    "setting": (changed("settings.recipe", "$x$"), '`recipe` must be a short text, got "$x$"'),
    "list setting": (changed("settings.recipe", [1]), "`recipe` must be a finite number"),
    "long": (changed("settings.model", "m" * 10**6), '`model` must be a word, got "mmmm'),
    "no final": (changed("final", None), "`final` must be an object, got null"),
    "final": (changed("final.test_accuracy", 0.99), "must be 0.9, the last of its curve"),
    "no time": (
        changed("final.seconds_per_epoch", 0),
        "`seconds_per_epoch` must be above 0, got 0",
    ),
    "time": (changed("compile_seconds", "1 s"), "`compile_seconds` must be a finite number"),
    "no batch": (changed("settings.batch_size", 0), "`batch_size` must be an integer from 1 up"),
    "status": (changed("status", 0), "`status` must be a word, got 0"),
    "no data": (changed("data_sha256", ...), "`data_sha256` must be a word, got null"),
    "surrogate": (changed("status", "\ud800"), '`status` must be a word, got "\\ud800"'),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_named_in_a_line_and_the_others_are_reported(kind, tmp_path, capsys):
    content, reason = DAMAGED[kind]
    write_record(tmp_path, GOOD)
    (tmp_path / "bad.json").write_bytes(content)
    assert exit_code("report", tmp_path) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"zsharp-bench: skipped {tmp_path}/bad.json: ") and reason in line
    assert len(line) < len(str(tmp_path)) + 200
    assert "| resnet8 | sam |  | 1 | 90.00 |" in printed.out
    assert "Made from 1 run file; 1 damaged or repeated record skipped; " in printed.out


def test_what_is_no_file_is_named_too(tmp_path, capsys, monkeypatch):
    write_record(tmp_path, GOOD)
    (tmp_path / "a.json").mkdir()
    write_record(tmp_path / "a.json", {**GOOD, "name": "inside"})
    os.mkfifo(tmp_path / "b.json")
    (tmp_path / "c.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d.json").symlink_to(tmp_path / "d.json")
    with (tmp_path / "e.json").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no space
    (tmp_path / "f\n\x1b.json").write_text("")
    unreadable = tmp_path / "g.json"
    unreadable.write_text("{}")
    read = pathlib.Path.open

    def guarded(path, *arguments, **options):
        if path == unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "open", guarded)
    started = time.monotonic()
    assert exit_code("report", tmp_path) == 1
    assert time.monotonic() - started < 10
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"zsharp-bench: skipped {tmp_path}/") for line in lines] == [
        "a.json: not a file",
        "b.json: not a file",
        "c.json: No such file or directory",
        "d.json: Too many levels of symbolic links",
        "e.json: larger than the 16777216 bytes that a run file may have",
        "f??.json: not JSON: Expecting value: line 1 column 1 (char 0)",
        "g.json: Permission denied",
    ]


@pytest.mark.parametrize("command", ["report", "figures"])
def test_a_folder_without_run_files_is_refused_in_one_line(command, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("{}")
    assert exit_code(command, tmp_path) == 2
    assert exit_code(command, tmp_path / "nowhere") == 2
    assert exit_code(command, tmp_path / "notes.txt") == 2
    assert capsys.readouterr().err.splitlines() == [
        f"zsharp-bench: error: there is no run file (*.json or runs.jsonl) in {tmp_path}",
        f"zsharp-bench: error: `FOLDER` must be a folder with run files, got {tmp_path}/nowhere",
        f"zsharp-bench: error: `FOLDER` must be a folder with run files, got {tmp_path}/notes.txt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_output_that_cannot_be_written_is_refused_in_one_line(tmp_path, capsys):
    write_record(tmp_path, GOOD)
    assert exit_code("report", tmp_path, "--out", tmp_path) == 2
    assert exit_code("report", tmp_path, "--out", tmp_path / "good.json" / "report.md") == 2
    assert exit_code("figures", tmp_path, "--out", tmp_path / "good.json") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"zsharp-bench: error: `out` must be a file, got the folder {tmp_path}"
    assert all("cannot write to --out" in line for line in lines[1:]) and len(lines) == 3


def test_all_damaged_leaves_an_empty_report(tmp_path, capsys):
    (tmp_path / "bad.json").write_text("")
    assert exit_code("report", tmp_path) == 1
    assert (
        capsys.readouterr().out
        == "# Results\n\nMade from 0 run files; 1 damaged or repeated record skipped.\n"
    )


def test_the_largest_numbers_are_averaged(tmp_path):
    for seed, loss in enumerate((3e38, 0.0, 5e-324)):
        settings = change(DIGITS, seed=seed)
        run_files.write(tmp_path, settings, 0.5, loss, loss, loss)
    runs, problems = read_folder(tmp_path)
    assert not problems and "1.000e+38 ± 1.732e+38" in report.markdown(runs, 0)


VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=20)
    | strategies.sampled_from([1e38, 1e-320, -1, 10**400, "sam", "a|b", "\ud800", "\x1b[2J"]),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
PLACES = [(key,) for key in GOOD] + [
    (key, inner) for key, value in GOOD.items() if isinstance(value, dict) for inner in value
]


def make(record, changes):
    """Puts other values at some places of a record."""
    for place, value in changes:
        within = record
        for key in place[:-1]:
            within = within.get(key, {}) if isinstance(within, dict) else {}
        if isinstance(within, dict):
            within[place[-1]] = value


@hypothesis.settings(deadline=SOON, max_examples=examples(200))
@hypothesis.given(
    changes=strategies.lists(
        strategies.tuples(strategies.sampled_from(PLACES), VALUES), min_size=1, max_size=4
    ),
    cut=strategies.none() | strategies.integers(0, len(WHOLE)),
    flip=strategies.none() | strategies.tuples(strategies.integers(0, 500), strategies.binary()),
)
def test_no_mutation_of_a_run_file_gives_a_traceback(changes, cut, flip):
    record = copy.deepcopy(GOOD)
    make(record, changes)
    content = json.dumps(record).encode()[:cut]
    if flip:
        content = content[: flip[0]] + flip[1] + content[flip[0] :]
    with tempfile.TemporaryDirectory() as folder:
        write_record(pathlib.Path(folder), GOOD)
        pathlib.Path(folder, "mutated.json").write_bytes(content)
        runs, problems = read_folder(pathlib.Path(folder))
        assert len(runs) + len(problems) == 2
        text = report.markdown(runs, len(problems))
        assert "| resnet8 | sam |" in text
        text.encode()
        assert all(len(problem.splitlines()) == 1 for problem in problems)


@hypothesis.settings(deadline=SOON, max_examples=examples(100))
@hypothesis.given(mutated(WHOLE, favourites=[WHOLE.index(b'"' + key.encode()) for key in GOOD]))
def test_no_mutation_of_its_bytes_gives_a_traceback(content):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "mutated.json").write_bytes(content)
        runs, problems = read_folder(pathlib.Path(folder))
        assert len(runs) + len(problems) == 1
        report.markdown(runs, len(problems)).encode()


@hypothesis.settings(deadline=SOON, max_examples=examples(200))
@hypothesis.given(
    changes=strategies.lists(
        strategies.tuples(strategies.sampled_from(PLACES), VALUES), min_size=1, max_size=2
    )
)
def test_a_mutated_file_is_trained_again_or_fit_for_all_tables(changes):
    """Resuming takes finished runs from their files."""
    record = run_files.record(DIGITS)
    make(record, changes)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, f"{DIGITS.run_name('a' * 64)}.json")
        path.write_text(json.dumps(record))
        try:
            found = finished_record(path.parent, DIGITS, "a" * 64)
        except DamagedError as error:
            assert len(str(error)) < 500
            return
        if found is not None:
            markdown_table([found])
            study.study_markdown([found], ["zsharp-bench", "study"])


@pytest.mark.slow
@hypothesis.settings(deadline=4 * SOON, max_examples=examples(5))  # six pictures each
@hypothesis.given(
    changes=strategies.lists(strategies.tuples(strategies.sampled_from(PLACES), VALUES), max_size=1)
)
def test_no_mutation_keeps_the_others_from_being_drawn(changes):
    record = run_files.record(change(DIGITS, method="zsharp"), name="mutated")
    make(record, changes)
    with tempfile.TemporaryDirectory() as folder:
        write_record(pathlib.Path(folder), GOOD)
        pathlib.Path(folder, "mutated.json").write_text(json.dumps(record))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filter_figure, "draw_example", Figure)  # it trains a network
            exit_code("figures", folder)
        # What sets the two apart may be added to the names.
        assert list(pathlib.Path(folder).glob("accuracy-digits-resnet8*.png"))


def test_a_finished_run_is_taken_from_its_file_and_no_other(tmp_path):
    run, other, short = DIGITS, change(DIGITS, seed=1), change(DIGITS, seed=2)
    for settings in (run, short):
        write_record(tmp_path, run_files.record(settings))
    write_record(tmp_path, run_files.record(run, name=other.run_name("a" * 64)))
    write_record(tmp_path, run_files.cut_short(run_files.record(short), 2))
    assert finished_record(tmp_path, run, "a" * 64) == run_files.record(run)
    assert finished_record(tmp_path, short, "a" * 64) is None
    assert finished_record(tmp_path, change(DIGITS, seed=3), "a" * 64) is None
    with pytest.raises(DamagedError, match="it is of another run"):
        finished_record(tmp_path, other, "a" * 64)
