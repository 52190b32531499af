"""The command as a user types it: what it writes, what it says, and what it exits with."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import archives
import pytest
from matplotlib.figure import Figure

from zsharp_jax.benchmark import figures, interrupts, results, session
from zsharp_jax.benchmark.cli import main

# As `zsharp-bench`, with the network of the other tests.
COMMAND = [
    sys.executable,
    "-c",
    "import functools; from zsharp_jax.models import MODELS, resnet; "
    "MODELS['resnet8'] = functools.partial(resnet.ResNet, blocks=1, widths=(16,)); "
    "from zsharp_jax.benchmark.cli import main; main()",
]


def exit_code(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def records_in(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def assert_nothing_half_written(folder):
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A small comparison: the folder and what was printed."""
    folder = tmp_path_factory.mktemp("compared")
    options = ["--methods", "adamw", "zsharp", "--seeds", "2", "--epochs", "1", "--out", folder]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [*COMMAND, "compare", *options],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_compare_writes_a_file_per_run_a_table_and_a_picture(compared):
    folder, _ = compared
    records = records_in(folder)
    assert [(r["settings"]["method"], r["settings"]["seed"]) for r in records] == [
        ("adamw", 0), ("adamw", 1), ("zsharp", 0), ("zsharp", 1),
    ]  # fmt: skip
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.iterdir())) == 6
    assert_nothing_half_written(folder)


def test_a_run_file_tells_all_that_is_needed_to_doubt_it(compared):
    record = records_in(compared[0])[2]
    assert record["status"] == "finished" and record["error"] is None
    assert record["command"][:4] == ["zsharp-bench", "compare", "--methods", "adamw"]
    assert record["settings"]["quantile"] == 0.95 and record["settings"]["epochs"] == 1
    assert record["versions"]["jax"] and record["device"]["platform"] == "cpu"
    assert record["steps"] == record["steps_per_epoch"] == 22
    assert len(record["data_sha256"]) == 64 and len(record["commit"]) == 40
    assert set(record["curves"]) == {
        "train_loss", "sharp_loss", "gradient_norm", "perturbation_norm",
        "test_loss", "test_accuracy", "seconds",
    }  # fmt: skip
    assert all(len(curve) == 1 for curve in record["curves"].values())
    assert record["final"]["perturbation_norm"] == pytest.approx(0.05, rel=1e-4)
    assert 0 < record["final"]["test_accuracy"] < 1


def test_the_table_is_made_of_the_run_files_and_fits_80_columns(compared):
    folder, printed = compared
    accuracies = [r["final"]["test_accuracy"] for r in records_in(folder)][2:]
    mean = 100 * sum(accuracies) / 2
    for text in (printed, (folder / "table.md").read_text()):
        (row,) = [
            line
            for line in text.splitlines()
            if line.split()[:2] in (["zsharp", "2"], ["|", "zsharp"])
        ]
        assert f"{mean:.2f} ± " in row and "0.0500" in row
    assert max(len(line) for line in printed.splitlines()[:-1]) <= 80


def test_the_same_command_gives_the_same_numbers(compared, tmp_path):
    options = ["--method", "adamw", "--seed", "1", "--epochs", "1", "--out", tmp_path]
    assert exit_code("train", *options) == 0
    (again,) = records_in(tmp_path)
    first = records_in(compared[0])[1]
    assert again["step_losses"] == first["step_losses"]
    assert again["final"]["test_accuracy"] == first["final"]["test_accuracy"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_train_reads_an_archive_and_its_loss_falls(tmp_path):
    archive = archives.write_archive(tmp_path / "c.tar.gz", archives.whole_contents())
    options = ["--dataset", "cifar10", "--archive", archive, "--model", "resnet8", "--steps", 12]
    out = ["--batch-size", 50, "--out", tmp_path / "runs"]
    assert exit_code("train", *options, *out, "--no-verify") == 0
    (record,) = records_in(tmp_path / "runs")
    assert record["steps"] == 12 and record["settings"]["method"] == "zsharp"
    assert record["step_losses"][-1] < record["step_losses"][0]


@pytest.mark.parametrize(
    "options, message",
    [
        (["train", "--method", "zshrap"], "unknown method 'zshrap', known: zsharp, "),
        (["train", "--model", "resnet9"], "unknown model 'resnet9', known: resnet"),
        (["train", "--dataset", "digit"], "unknown dataset 'digit', known: digits, "),
        (["compare", "--methods", "sam,asamm"], "unknown method 'asamm', known: asam, sam"),
        (["compare", "--methods", ","], "`methods` must name at least one method"),
        (["compare", "--seeds", "0"], "`seeds` must be at least 1 and at most 1000, got 0"),
        (["compare", "--seeds", "100000000"], "at most 1000, got 100000000"),
        (["compare", "--seed", "1"], "unrecognized arguments: --seed 1"),
        (["train", "--steps", "3", "--epochs", "1"], "not allowed with argument"),
        (["train", "--archive", "a.tar.gz"], "digits needs no --archive"),
        (["train", "a\nb"], "unrecognized arguments: a b"),
        (["train", "--rho", "-0.1"], "`rho` must be finite and at least 0, got -0.1"),
        (["train", "--recipe", "papre"], "unknown recipe 'papre', known: paper, reference"),
        (["train", "--checkpoint-every", "0"], "`checkpoint_every` must be at least 1, got 0"),
        (["study", "--rhos", "-1"], "`rho` must be finite and at least 0, got -1"),
        (["train", "--crop-padding", "-1"], "`crop_padding` must be at least 0, got -1"),
        (["train", "--eta", "inf"], "`eta` must be finite and at least 0, got inf"),
        (["study", "--rho", "0.1"], "unrecognized arguments: --rho 0.1"),
        (["train", "--rho", "much"], "argument --rho: invalid float value: 'much'"),
        (["train", "--quantile", "1"], "`quantile` must lie in [0, 1), got 1.0"),
        (["train", "--batch-size", "1438"], "at most the 1437 training images, got 1438"),
        (["train", "--train-images", "1438"], "`train_images` must be at most 1437, got 1438"),
        (["compare", "--train-images", "0"], "`train_images` must be at least 1, got 0"),
        (["train", "--dataset", "cifar10", "--timeout", "0"], "`timeout` must be finite and above"),
        (
            ["train", "--dataset", "cifar10", "--archive", "no/where"],
            "there is no archive no/where",
        ),
        (["trian"], "invalid choice: 'trian'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistake_is_told_in_one_line(options, message, capsys, tmp_path):
    out = ["--out", tmp_path / "runs"] if len(options) > 1 else []
    assert exit_code(*options, *out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zsharp-bench: error: ") and message in line
    assert not list(tmp_path.glob("runs/*"))


def test_an_unwritable_folder_is_told_before_anything_is_trained(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    started = time.monotonic()
    assert exit_code("train", "--out", tmp_path / "file" / "runs") == 2
    assert "cannot write to --out" in capsys.readouterr().err
    assert time.monotonic() - started < 5


def test_another_sha256_exits_with_2(capsys, tmp_path):
    archive = archives.write_archive(tmp_path / "c.tar.gz", archives.whole_contents())
    options = ["--dataset", "cifar10", "--archive", archive, "--out", tmp_path / "runs"]
    assert exit_code("train", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pass --no-verify" in line


def test_a_failed_run_exits_with_1_and_is_marked(capsys, tmp_path):
    options = ["--methods", "sam", "--seeds", "1", "--epochs", "1", "--lr", "1e30"]
    assert exit_code("compare", *options, "--out", tmp_path) == 1
    (record,) = records_in(tmp_path)
    assert record["status"] == "failed" and record["steps"] < 22
    assert record["error"].startswith("sam, seed 0: the ") and "at step" in record["error"]
    assert len(record["step_losses"]) == record["steps"] - 1 > 0
    printed = capsys.readouterr()
    assert record["error"] in printed.err and "Traceback" not in printed.err
    assert "| sam | 0/1 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").exists()


def test_ctrl_c_leaves_finished_runs_whole(tmp_path):
    options = ["--methods", "adamw", "--seeds", "50", "--epochs", "1", "--out", str(tmp_path)]
    running = subprocess.Popen(
        [*COMMAND, "compare", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "interrupted; runs that had finished are kept" in errors and "Traceback" not in errors
    records = records_in(tmp_path)
    assert records and all(record["status"] == "finished" for record in records)
    assert_nothing_half_written(tmp_path)


OF_ALL = ["--dataset", "--data-dir", "--archive", "--no-verify", "--timeout"]
OF_ALL += ["--model", "--epochs", "--train-images", "--batch-size"]
OF_ALL += ["--dtype", "--quantile", "--out", "--checkpoint-every", "--tensorboard"]
OF_ALL += ["--resume", "--recipe"]
OF_RECIPES = ["--optimizer", "--lr", "--weight-decay", "--decay-rate", "--decay-epochs"]
OF_RECIPES += ["--warmup-epochs", "--crop-padding", "--no-flip", "--eta"]
OF_EACH = {
    "compare": (["--methods", "--seeds"], ["--rho"]),
    "train": (["--method", "--seed", "--steps"], ["--rho"]),
    "study": (["--methods", "--seeds", "--rhos"], []),
}


@pytest.mark.parametrize("command", OF_EACH)
def test_help_explains_each_option_with_its_default(command, capsys):
    assert exit_code(command, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    explanations = text[text.index("options:") :]
    own, own_of_recipes = OF_EACH[command]
    options, of_recipes = OF_ALL + own, OF_RECIPES + own_of_recipes
    for option in options + of_recipes:
        assert f"{option} " in explanations
    assert explanations.count("(default: ") == len(options)
    assert explanations.count("(paper and reference: ") == len(of_recipes)


def test_a_study_trains_each_method_with_each_rho_and_resumes(tmp_path, monkeypatch, capsys):
    options = ["--methods", "adamw,sam", "--seeds", "1", "--rhos", "0.05", "0.1", "--epochs", "1"]
    command = ["study", *options, "--lr", "0.01", "--out", tmp_path]
    assert exit_code(*command) == 0
    runs = [(r["settings"]["method"], r["settings"]["rho"]) for r in records_in(tmp_path)]
    assert sorted(runs) == [("adamw", 0.05), ("sam", 0.05), ("sam", 0.1)]
    norms = {r["settings"]["rho"]: r["final"]["perturbation_norm"] for r in records_in(tmp_path)}
    assert norms[0.1] == pytest.approx(0.1, rel=1e-4)
    tables = (tmp_path / "study.md").read_text()
    assert "| sam | 0.1 | 1 |" in tables and tables in capsys.readouterr().out

    def not_again(*arguments):
        raise AssertionError("all runs have finished")

    monkeypatch.setattr(session, "compile_program", not_again)
    assert exit_code(*command, "--resume") == 0
    resumed = (tmp_path / "study.md").read_text()
    assert resumed.replace(" --resume`", "`") == tables != resumed  # it tells its own command


def test_a_study_takes_asam_in_the_units_of_its_recipe(tmp_path):
    options = ["--methods", "asam,sam", "--seeds", "1", "--rhos", "0.1", "--epochs", "1"]
    assert exit_code("study", *options, "--recipe", "reference", "--out", tmp_path) == 0
    runs = [(r["settings"]["method"], r["settings"]["rho"]) for r in records_in(tmp_path)]
    assert sorted(runs) == [("asam", 1.0), ("sam", 0.1)]


def losses_of(folder, *options):
    command = ["train", "--method", "sam", "--epochs", "1", "--train-images", "128"]
    assert exit_code(*command, *options, "--out", folder) == 0
    (record,) = records_in(folder)
    return record["step_losses"]


def test_the_dtype_reaches_the_network(tmp_path):
    wide = losses_of(tmp_path / "wide")
    narrow = losses_of(tmp_path / "narrow", "--dtype", "bfloat16")
    assert narrow != wide and narrow == pytest.approx(wide, rel=0.05)


@pytest.mark.parametrize("change", [["--crop-padding", "0"], ["--flip"], ["--eta", "1"]])
def test_the_augmentation_and_eta_reach_the_step_and_the_run_file(tmp_path, change):
    changed = losses_of(tmp_path / "changed", "--method", "asam", *change)
    assert changed != losses_of(tmp_path / "as it is", "--method", "asam")
    name = change[0][2:].replace("-", "_")
    (settings,) = (record["settings"] for record in records_in(tmp_path / "changed"))
    (others,) = (record["settings"] for record in records_in(tmp_path / "as it is"))
    assert name in settings and name not in others


def test_the_recipe_reaches_the_optimizer(tmp_path):
    """The first epoch of the reference's warm-up has a learning rate of 0."""
    rates = ("0.001", "0.1")
    paper = [losses_of(tmp_path / f"paper {rate}", "--lr", rate) for rate in rates]
    options = ["--recipe", "reference", "--lr"]
    reference = [losses_of(tmp_path / f"reference {rate}", *options, rate) for rate in rates]
    assert reference[0] == reference[1] and paper[0] != paper[1]


def test_resuming_with_other_settings_is_refused_with_the_difference(tmp_path, capsys):
    options = ["train", "--method", "adamw", "--out", tmp_path, "--checkpoint-every", "1"]
    assert exit_code(*options, "--epochs", "1") == 0
    capsys.readouterr()
    assert exit_code(*options, "--epochs", "2", "--resume") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("epochs was 1 there and is 2 here")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    results.write_whole(path, b"old")

    def broken_replace(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken_replace)
    with pytest.raises(OSError, match="disk full"):
        results.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_picture_leaves_out_what_failed():
    assert figures.draw_curves([{"status": "failed"}]).startswith(b"\x89PNG")


def test_a_mean_over_seeds_and_its_sample_std():
    def record(accuracy, status="finished"):
        final = {"test_accuracy": accuracy}
        return {"settings": {"method": "sam"}, "status": status, "final": final}

    (summary,) = results.summaries([record(0.9), record(0.8), record(None, status="failed")])
    assert (summary.seeds, summary.failed) == (2, 1)
    assert summary.means["test_accuracy"] == pytest.approx(0.85)
    assert summary.stds["test_accuracy"] == pytest.approx(0.05 * 2**0.5)


def test_a_run_that_diverges_between_a_step_and_the_evaluation_is_kept_too(tmp_path):
    options = ["--method", "sam", "--steps", "2", "--batch-size", "1437", "--lr", "1e38"]
    assert exit_code("train", *options, "--out", tmp_path) == 1
    (record,) = records_in(tmp_path)
    assert record["status"] == "failed" and "the test loss is inf at step 1" in record["error"]


INTERRUPTED = """
import os, signal, threading
from zsharp_jax.benchmark import cli, session
compile_program = session.compile_program
def interrupted(*arguments):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    return compile_program(*arguments)
session.compile_program = interrupted
cli.main(["train", "--method", "adamw", "--out", {out!r}])
"""


def test_ctrl_c_while_xla_compiles_ends_at_once_and_in_order(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(out=str(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1].endswith("interrupted; runs that had finished are kept")
    assert not list(tmp_path.iterdir())


def test_a_ctrl_c_that_a_callback_lost_takes_effect_at_the_next_step():
    with interrupts.remembered():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    interrupts.check()


def test_without_flax_the_extra_is_named():
    code = (
        "import sys; sys.modules['flax'] = None; from zsharp_jax.benchmark.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'zsharp-bench: error: flax is missing: pip install "zsharp-jax[bench]"'
    ]


SHORT = ["--methods", "adamw", "--seeds", "1", "--epochs", "1"]


def test_a_result_that_cannot_be_written_is_told_in_one_line_and_the_runs_are_kept(tmp_path):
    (tmp_path / "table.md").mkdir()
    done = subprocess.run(
        [*COMMAND, "compare", *SHORT, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("zsharp-bench: error: Is a directory: ")
    assert "Traceback" not in done.stderr and len(records_in(tmp_path)) == 1
    assert_nothing_half_written(tmp_path)


def test_a_narrow_character_set_and_a_reader_that_leaves_do_no_harm(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    running = subprocess.Popen(
        [*COMMAND, "compare", *SHORT, "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    running.stdout.close()
    with running.stderr:
        errors = running.stderr.read().decode()
    assert running.wait() == 1 and "Traceback" not in errors and "Exception ignored" not in errors
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png"}


def test_the_picture_keeps_what_a_method_falls_to():
    def record(method, accuracies):
        curves = {"train_loss": [1.0] * 12, "test_accuracy": accuracies}
        settings = {"method": method, "seed": 0, "model": "m", "dataset": "d"}
        return {"status": "finished", "settings": settings, "curves": curves}

    axes = Figure().subplots()
    axes.plot(range(12), [50.0] + [95.0] * 11)
    axes.plot(range(12), [50.0] + [95.0] * 5 + [10.0] * 6)
    figures._leave_out_the_rise(axes)
    assert axes.get_ylim()[0] < 10
    # A warning, as of a flat accuracy of 100 %, would be an error here.
    figures.draw_curves([record("sam", [1.0] * 12), record("zsharp", [1.0] * 12)])


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (0.05, "0.0500"), (1e-6, "1.00e-06"), (9e9, "9.00e+09")]
)
def test_numbers_are_short(value, text):
    assert results.short(value) == text
