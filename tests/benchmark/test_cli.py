"""The command as a user types it: what it writes, what it says, and what it exits with."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import archives
import kill_often
import numpy as np
import pytest
from command import exit_code, records_in
from matplotlib.figure import Figure
from tiny import SETTINGS

from zsharp_jax.benchmark.commands.compare import FILES
from zsharp_jax.benchmark.commands.options import named_methods
from zsharp_jax.benchmark.datasets.images import load_digits
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.reporting import figures
from zsharp_jax.benchmark.reporting.comparison import summaries, write_comparison
from zsharp_jax.benchmark.reporting.markdown import short
from zsharp_jax.benchmark.reporting.study_files import write_study
from zsharp_jax.benchmark.runs.files import write_whole
from zsharp_jax.benchmark.runs.methods import METHODS
from zsharp_jax.benchmark.runs.networks import NETWORKS
from zsharp_jax.benchmark.runs.outcome import CURVES, Outcome
from zsharp_jax.benchmark.training import interrupts, session, trainer
from zsharp_jax.models import MODELS

# As `zsharp-bench`, with the network of the other tests.
COMMAND = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import tiny; "
    "from zsharp_jax.models import MODELS; MODELS['resnet8'] = tiny.OneConvolution; "
    "from zsharp_jax.benchmark.cli import main; main()",
]


def assert_nothing_half_written(folder):
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A small comparison: the folder and what was printed."""
    folder, printed = tmp_path_factory.mktemp("compared"), io.StringIO()
    options = ["--methods", "adamw", "zsharp", "--seeds", "2", "--epochs", "1", "--out", folder]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "80")
        assert exit_code("compare", *options) == 0
    return folder, printed.getvalue()


def test_compare_writes_one_file_of_runs_a_table_and_a_picture(compared):
    folder, _ = compared
    records = records_in(folder)
    assert [(r["settings"]["method"], r["settings"]["seed"]) for r in records] == [
        ("adamw", 0), ("adamw", 1), ("zsharp", 0), ("zsharp", 1),
    ]  # fmt: skip
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in folder.iterdir()} == {"runs.jsonl", *FILES}
    assert len((folder / "runs.jsonl").read_text().splitlines()) == 4
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
    table = [line for line in printed.splitlines()[:-1] if "epoch 1 of 1" not in line]
    assert max(map(len, table)) <= 80 and "mean over the last epoch" in printed


def test_where_nobody_watches_a_terminal_each_epoch_is_a_line(compared):
    """As in a log, in a batch system, or in CI."""
    lines = [line for line in compared[1].splitlines() if "epoch 1 of 1" in line]
    assert [line.split(":")[0] for line in lines] == [
        f"{method}, rho 0.05, seed {seed}" for method in ("adamw", "zsharp") for seed in (0, 1)
    ]
    final = records_in(compared[0])[3]["final"]
    assert f"epoch mean of the clean loss {final['train_loss']:.4f}" in lines[3]
    assert f"test acc. {final['test_accuracy']:.2%}" in lines[3]


def test_the_same_command_gives_the_same_numbers(compared, tmp_path):
    options = ["--method", "adamw", "--seed", "1", "--epochs", "1", "--out", tmp_path]
    assert exit_code("train", *options) == 0
    (again,) = records_in(tmp_path)
    first = records_in(compared[0])[1]
    assert again["step_losses"] == first["step_losses"]
    assert again["final"]["test_accuracy"] == first["final"]["test_accuracy"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.slow
def test_train_reads_an_archive_and_its_loss_falls(tmp_path):
    archive = archives.write_archive(tmp_path / "c.tar.gz", archives.whole_contents())
    options = [
        "--dataset",
        "cifar10",
        "--archive",
        archive,
        "--model",
        "resnet8",
        "--steps",
        12,
        "--lr",
        0.02,
    ]
    out = ["--batch-size", 50, "--out", tmp_path / "runs"]
    assert exit_code("train", *options, *out, "--no-verify") == 0
    (record,) = records_in(tmp_path / "runs")
    assert record["steps"] == 12 and record["settings"]["method"] == "zsharp"
    assert record["step_losses"][-1] < record["step_losses"][0]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["train", "--method", "zshrap"],
            "did you mean zsharp?",
        ),
        (["train", "--model", "resnet9"], "unknown model 'resnet9', known: resnet110, resnet20, "),
        (
            ["train", "--dataset", "digit"],
            "unknown dataset 'digit', known: cifar10, ",
        ),
        (["compare", "--methods", "sam,asamm"], "did you mean asam?"),
        (["compare", "--methods", ","], "`methods` must name at least one method"),
        (["compare", "--seeds", "0"], "`seeds` must be at least 1 and at most 1000, got 0"),
        (["compare", "--seeds", "100000000"], "at most 1000, got 100000000"),
        (["compare", "--seed", "1"], "unrecognized arguments: --seed 1; did you mean --seeds? ("),
        (["train", "--seeds", "3"], "did you mean --seed? (see zsharp-bench train --help)"),
        (["report", "runs", "--owt", "a"], "--out? (see zsharp-bench report --help)"),
        (["train", "--resume", "--overwrite"], "not allowed with argument --resume"),
        (["train", "--steps", "3", "--epochs", "1"], "not allowed with argument"),
        (["train", "--archive", "a.tar.gz"], "digits needs no --archive"),
        (["train", "a\nb"], "unrecognized arguments: a b"),
        (["train", "--rho", "-0.1"], "`rho` must be finite and at least 0, got -0.1"),
        (
            ["train", "--recipe", "papre"],
            "unknown recipe 'papre', known: paper, reference",
        ),
        (["train", "--checkpoint-every", "0"], "`checkpoint_every` must be at least 1, got 0"),
        (["study", "--rhos", "-1"], "`rhos` must be finite and at least 0, got -1"),
        (["study", "--epsilons", "-1"], "`epsilons` must be finite and at least 0, got -1"),
        (["compare", "--methods", "sma", "all"], "unknown method 'sma'"),
        (
            ["compare", "--methods", "adamw,sam_quarter", "--batch-size", "6"],
            "`batch_size` must be a multiple of 4 for sam_quarter",
        ),
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
    ],
)
def test_a_mistake_is_told_in_one_line(options, message, capsys, tmp_path):
    out = ["--out", tmp_path / "runs"] if len(options) > 1 and options[0] != "report" else []
    assert exit_code(*options, *out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zsharp-bench: error: ") and message in line
    assert not list(tmp_path.glob("runs/*"))


def test_an_unwritable_folder_is_told_before_anything_is_trained(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    started = time.monotonic()
    assert exit_code("train", "--out", tmp_path / "file" / "runs") == 2
    assert "cannot write to --out" in capsys.readouterr().err
    assert exit_code("train", "--out", tmp_path / "file") == 2
    assert "file: it is a file, not a folder" in capsys.readouterr().err
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


WHAT_IS_THERE = {
    "train": ("train", "--method", "sam"),
    "compare": ("compare", "--methods", "sam", "--seeds", "1"),
}


@pytest.mark.parametrize("command", WHAT_IS_THERE)
@pytest.mark.fast_for("compare*")
def test_what_is_there_is_not_overwritten_unless_asked(command, tmp_path, capsys, monkeypatch):
    options = [*WHAT_IS_THERE[command], "--epochs", "1", "--out", tmp_path]
    assert exit_code(*options) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert exit_code(*options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there already: --resume goes on" in line and "--overwrite trains anew" in line
    assert "--out FOLDER writes elsewhere" in line
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert exit_code(*options, "--overwrite") == 0
    assert {path.name for path in before} == {path.name for path in tmp_path.iterdir()}

    def not_again(*arguments):
        raise AssertionError("the run has finished")

    monkeypatch.setattr(session, "compile_program", not_again)
    capsys.readouterr()
    assert exit_code(*options, "--resume") == 0
    assert not capsys.readouterr().err  # no bar of nothing


@pytest.mark.parametrize("command, name", [("report", "report.md"), ("figures", "filter.png")])
def test_reports_and_pictures_are_not_written_over_either(
    command, name, compared, tmp_path, capsys
):
    out = tmp_path / name if command == "report" else tmp_path
    (tmp_path / name).write_text("mine")
    assert exit_code(command, compared[0], "--out", out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is there already: --overwrite" in line and (tmp_path / name).read_text() == "mine"
    if command == "report":
        assert exit_code(command, compared[0], "--out", out, "--overwrite") == 0
        assert (tmp_path / name).read_text().startswith("# Results")


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(tmp_path):
    command = ["train", "--method", "adamw", "--epochs", "200", "--out", tmp_path / "runs"]
    process = kill_often.start(command, tmp_path / "output.txt")
    deadline = time.monotonic() + 120
    output = tmp_path / "output.txt"
    while not (output.exists() and "epoch 2 of 200" in output.read_text()):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    text = output.read_text()
    assert "stopping after this step; Ctrl-C again stops at once" in text
    assert text.splitlines()[-1].endswith(
        f"0 of 1 runs had ended; to go on: zsharp-bench {' '.join(map(str, command))} --resume"
    )
    assert "Traceback" not in text and list((tmp_path / "runs" / "checkpoints").iterdir())
    (record,) = records_in(tmp_path / "runs")
    assert record["status"] == "interrupted"
    assert_nothing_half_written(tmp_path / "runs")


def test_a_run_goes_on_to_more_epochs_and_to_the_numbers_of_one_that_never_ended(tmp_path):
    command = ["train", "--method", "adamw", "--train-images", "200", "--checkpoint-every", "1"]
    (tmp_path / "whole").mkdir()
    assert exit_code(*command, "--epochs", "3", "--out", tmp_path / "whole") == 0
    for length in (["--epochs", "1"], ["--steps", "5"], ["--epochs", "3"]):
        assert exit_code(*command, *length, "--out", tmp_path / "runs", "--resume") == 0
    (whole,) = records_in(tmp_path / "whole")
    extended = next(r for r in records_in(tmp_path / "runs") if r["settings"]["epochs"] == 3)
    assert len(records_in(tmp_path / "runs")) == 3
    for record in (whole, extended):
        del record["curves"]["seconds"]
    assert extended["curves"] == whole["curves"]
    assert extended["step_losses"] == whole["step_losses"]


OF_ALL = ["--dataset", "--data-dir", "--archive", "--no-verify", "--timeout"]
OF_ALL += ["--model", "--epochs", "--train-images", "--batch-size"]
OF_ALL += ["--dtype", "--quantile", "--out", "--checkpoint-every", "--tensorboard"]
OF_ALL += ["--resume", "--overwrite", "--recipe"]
OF_ALL += ["--label-noise", "--validation-images", "--split-seed", "--keep-weights"]
OF_ALL += ["--optimizer", "--lr", "--weight-decay", "--decay-rate", "--decay-epochs"]
OF_ALL += ["--warmup-epochs", "--crop-padding", "--no-flip", "--eta"]
OF_EACH = {
    "compare": ["--methods", "--seeds", "--at-once", "--rho"],
    "train": ["--method", "--seed", "--steps", "--rho"],
    "study": [
        "--methods",
        "--seeds",
        "--at-once",
        "--rhos",
        "--epsilons",
        "--quantiles",
        "--budget",
    ],
}


@pytest.mark.parametrize("command", OF_EACH)
def test_help_explains_each_option_with_its_default(command, capsys):
    assert exit_code(command, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    explanations = text[text.index("options:") :]
    options = OF_ALL + OF_EACH[command]
    for option in options:
        assert f"{option} " in explanations
    assert explanations.count("(default: ") == len(options)
    listed = explanations[explanations.index("methods: ") :]
    for name, about in {**{n: m.about for n, m in METHODS.items()}, **NETWORKS}.items():
        assert f"{name} {about}" in listed


def test_every_network_is_listed():
    assert set(NETWORKS) == set(MODELS)
    assert all(len(about) <= 58 for about in NETWORKS.values())


def test_all_stands_for_all_methods(tmp_path, capsys):
    options = ["--methods", "all", "--batch-size", "9996", "--out", tmp_path]
    assert exit_code("compare", *options) == 2
    assert "`batch_size` must be at most the 1437" in capsys.readouterr().err
    assert named_methods(["sam", "all"]) == list(METHODS)


@pytest.mark.slow
def test_a_study_trains_each_method_with_each_rho_and_resumes(tmp_path, monkeypatch, capsys):
    options = ["--methods", "adamw,sam", "--seeds", "1", "--rhos", "0.05", "0.1", "--epochs", "1"]
    command = ["study", *options, "--lr", "0.01", "--out", tmp_path]
    assert exit_code(*command) == 0
    runs = [(r["settings"]["method"], r["settings"]["rho"]) for r in records_in(tmp_path)]
    assert sorted(runs) == [("adamw", 0.05), ("sam", 0.05), ("sam", 0.1)]
    norms = {r["settings"]["rho"]: r["final"]["perturbation_norm"] for r in records_in(tmp_path)}
    assert norms[0.1] == pytest.approx(0.1, rel=1e-4)
    tables = (tmp_path / "study.md").read_text()
    assert "| sam | 2 | 0.1 | 0.100 | 1 |" in tables and tables in capsys.readouterr().out

    def not_again(*arguments):
        raise AssertionError("all runs have finished")

    monkeypatch.setattr(session, "compile_program", not_again)
    assert exit_code(*command, "--resume") == 0
    resumed = (tmp_path / "study.md").read_text()
    assert resumed.replace(" --resume`", "`") == tables != resumed  # it tells its own command


def test_a_study_takes_asam_in_the_units_of_its_recipe(tmp_path, monkeypatch):
    asked = []

    def run(runs, request):
        asked.extend((settings.method, settings.rho) for settings in runs)
        raise RequestError("that is all")

    monkeypatch.setattr(session, "run", run)
    options = ["--methods", "asam,sam,adamw", "--seeds", "1", "--rhos", "0.1", "0.2"]
    assert exit_code("study", *options, "--recipe", "reference", "--out", tmp_path) == 2
    assert asked == [("asam", 1.0), ("asam", 2.0), ("sam", 0.1), ("sam", 0.2), ("adamw", 0.05)]


def losses_of(folder, *options):
    command = ["train", "--method", "sam", "--epochs", "1", "--train-images", "128"]
    assert exit_code(*command, *options, "--out", folder) == 0
    (record,) = records_in(folder)
    return record["step_losses"]


@pytest.fixture(scope="module")
def sam_as_it_is(tmp_path_factory):
    return losses_of(tmp_path_factory.mktemp("as it is"))


def test_the_dtype_reaches_the_network(tmp_path, sam_as_it_is):
    narrow = losses_of(tmp_path, "--dtype", "bfloat16")
    assert narrow != sam_as_it_is and narrow == pytest.approx(sam_as_it_is, rel=0.05)


@pytest.fixture(scope="module")
def asam_as_it_is(tmp_path_factory):
    folder = tmp_path_factory.mktemp("as it is")
    losses = losses_of(folder, "--method", "asam")
    return losses, records_in(folder)[0]["settings"]


@pytest.mark.parametrize("change", [["--crop-padding", "0"], ["--flip"], ["--eta", "1"]])
@pytest.mark.fast_for("change0")
def test_the_augmentation_and_eta_reach_the_step_and_the_run_file(tmp_path, change, asam_as_it_is):
    losses, others = asam_as_it_is
    assert losses_of(tmp_path, "--method", "asam", *change) != losses
    name = change[0][2:].replace("-", "_")
    (settings,) = (record["settings"] for record in records_in(tmp_path))
    assert name in settings and name not in others


def test_the_recipe_reaches_the_optimizer(tmp_path, sam_as_it_is):
    """The first epoch of the reference's warm-up has a learning rate of 0."""
    losses = [
        losses_of(tmp_path / rate, "--recipe", "reference", "--lr", rate)
        for rate in ("0.001", "0.1")
    ]
    assert losses[0] == losses[1] != sam_as_it_is


def test_resuming_with_other_settings_is_refused_with_the_difference(tmp_path, capsys):
    settings = dataclasses.replace(SETTINGS, method="adamw", epochs=1, batch_size=64)
    name = settings.run_name(load_digits().sha256())
    text = json.dumps({"name": name, "settings": settings.as_dict()})
    (tmp_path / f"{name}.json").write_text(text)
    options = ["train", "--method", "adamw", "--out", tmp_path, "--resume"]
    assert exit_code(*options, "--epochs", "1", "--lr", "0.1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("learning_rate was 0.001 there and is 0.1 here")
    assert exit_code(*options, "--epochs", "2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it kept no checkpoint, as --checkpoint-every was not given; --overwrite" in line


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_whole(path, b"old")

    def broken_replace(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken_replace)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=re.escape(str(path))):  # the user learns which file
        write_whole(path, b"new")


def test_a_command_of_any_bytes_is_told(compared, tmp_path):
    odd = os.fsdecode(b"odd\xff")
    records = [{**record, "command": [odd]} for record in records_in(compared[0])]
    write_comparison(records, tmp_path)
    write_study(records, tmp_path, [odd])
    for name in ("table.md", "study.md"):
        assert "odd\\udcff" in (tmp_path / name).read_text("utf8")


def test_the_picture_leaves_out_what_failed():
    assert not figures.draw_curves([{"status": "failed"}]).axes


def test_a_mean_over_seeds_and_its_sample_std():
    def record(accuracy, status="finished"):
        final = {"test_accuracy": accuracy}
        return {"settings": {"method": "sam"}, "status": status, "final": final}

    (summary,) = summaries([record(0.9), record(0.8), record(None, status="failed")])
    assert (summary.seeds, summary.failed) == (2, 1)
    assert summary.means["test_accuracy"] == pytest.approx(0.85)
    assert summary.stds["test_accuracy"] == pytest.approx(0.05 * 2**0.5)


@pytest.mark.slow
def test_a_run_that_diverges_between_a_step_and_the_evaluation_is_kept_too(tmp_path):
    options = ["--method", "sam", "--steps", "2", "--batch-size", "1437", "--lr", "1e38"]
    assert exit_code("train", *options, "--out", tmp_path) == 1
    (record,) = records_in(tmp_path)
    assert record["status"] == "failed"
    assert re.search(r"the test loss is (inf|nan) at step 1", record["error"])


INTERRUPTED = """
import os, signal, threading
from zsharp_jax.benchmark import cli
from zsharp_jax.benchmark.training import session
compile_program = session.compile_program
def interrupted(*arguments):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    return compile_program(*arguments)
session.compile_program = interrupted
cli.main(["train", "--method", "adamw", "--out", {out!r}])
"""


@pytest.mark.slow
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


def test_a_ctrl_c_is_noted_also_where_nobody_reads_what_is_said(monkeypatch):
    def broken_pipe(*_):
        raise BrokenPipeError

    with interrupts.termination_noted(), interrupts.steps_under_way():
        monkeypatch.setattr(interrupts.os, "write", broken_pipe)  # `tee` gets the Ctrl-C too
        signal.raise_signal(signal.SIGINT)
        assert interrupts.is_terminated()


@pytest.fixture
def stopped(monkeypatch):
    """Every training is stopped after its first epoch."""

    def stop(program, settings, *_, **__):
        curves = {name: [1.0] for name in CURVES}
        raise interrupts.Terminated(
            "stopped", outcome=Outcome("interrupted", steps=22, curves=curves)
        )

    monkeypatch.setattr(trainer, "train", stop)


def test_what_is_written_over_is_removed_before_anything_is_trained_anew(
    compared, tmp_path, stopped, capsys
):
    """So that a command which is cut off goes on with `--resume`, and takes nothing old for new."""
    shutil.copytree(compared[0], tmp_path, dirs_exist_ok=True)
    old = {record["name"] for record in records_in(tmp_path)}
    for folder in ("checkpoints", "weights"):
        (tmp_path / folder).mkdir()
    for name in old:
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "weights" / f"{name}.npz").touch()
    options = ["--methods", "zsharp", "--seeds", "2", "--epochs", "1", "--out", tmp_path]
    assert exit_code("compare", *options, "--overwrite") == 0
    left = {record["name"]: record for record in records_in(tmp_path)}
    assert [record["status"] for record in left.values()].count("finished") == 2  # those of adamw
    others = {name for name in old if "-adamw-" in name}
    assert others == {name for name in left if left[name]["status"] == "finished"}
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == others
    assert {path.stem for path in (tmp_path / "weights").iterdir()} == others


def test_a_finished_run_stays_finished_where_it_is_trained_again_for_its_weights(
    compared, tmp_path, stopped
):
    shutil.copytree(compared[0], tmp_path, dirs_exist_ok=True)
    before = records_in(tmp_path)
    options = ["--methods", "adamw", "zsharp", "--seeds", "2", "--epochs", "1", "--out", tmp_path]
    assert exit_code("compare", *options, "--resume", "--keep-weights") == 0
    assert records_in(tmp_path) == before


def test_a_ctrl_c_that_a_callback_lost_takes_effect_at_the_next_step():
    with interrupts.remembered():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    interrupts.check()


WITHOUT_FLAX = """
import sys
sys.modules["flax"] = sys.modules["rich"] = None
if sys.argv[1:] != ["train"]:
    sys.modules["jax"] = None  # a help that waits for JAX takes more than a second
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("flax", "rich") else find_spec(name)
from zsharp_jax.benchmark.cli import main
main()
"""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train"], ["train", "--help"]])
def test_without_the_extra_there_is_help_and_what_to_install(arguments):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLAX, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    if arguments == ["train"]:
        assert done.returncode == 2
        assert done.stderr.startswith("zsharp-bench: error: ")
        assert 'is missing: pip install -e ".[bench]"' in done.stderr
    else:
        assert done.returncode == 0 and not done.stderr
        assert done.stdout.startswith("usage: zsharp-bench")
    if "train" not in arguments:
        assert 'Not installed: flax, rich. To install: pip install -e ".[bench]"' in done.stdout


SHORT = ["--methods", "adamw", "--seeds", "1", "--epochs", "1"]


def test_a_result_that_cannot_be_written_is_told_in_one_line_and_the_runs_are_kept(
    tmp_path, capsys
):
    (tmp_path / "table.md").mkdir()
    assert exit_code("compare", *SHORT, "--out", tmp_path, "--overwrite") == 1
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("zsharp-bench: error: Is a directory: ")
    assert len(records_in(tmp_path)) == 1
    assert_nothing_half_written(tmp_path)


@pytest.mark.slow
def test_a_narrow_character_set_and_a_reader_that_leaves_do_no_harm(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
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
    assert {path.name for path in tmp_path.iterdir()} == {"runs.jsonl", *FILES}


def test_the_picture_keeps_what_a_method_falls_to_and_leaves_out_what_is_empty():
    def panels(**later):
        curves = {name: np.array([[50.0, *means]]) for name, means in later.items()}
        return figures._draw_accuracies(Figure().subfigures(), curves, "accuracy")

    good, falling, bad = [95.0] * 11, [95.0] * 5 + [10.0] * 6, [10.0] * 11
    (axes,) = panels(sam=good)
    assert 90 < axes.get_ylim()[0] < 95  # the rise from 50 is left out
    (axes,) = panels(sam=good, asam=falling)
    assert axes.get_ylim()[0] < 10
    upper, lower = panels(sam=good, asam=bad)
    assert lower.get_ylim()[0] < 10 and 90 < upper.get_ylim()[0] < 95


def test_curves_that_stay_at_one_value_are_drawn():
    curves = {"train_loss": [1.0] * 12, "test_accuracy": [1.0] * 12}
    settings = {"seed": 0, "model": "m", "dataset": "d"}
    figure = figures.draw_curves([
        {"status": "finished", "settings": {**settings, "method": method}, "curves": curves}
        for method in ("sam", "zsharp")
    ])  # fmt: skip
    assert figures.rendered(figure, "png")  # a warning would be an error here


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (0.05, "0.0500"), (1e-6, "1.00e-06"), (9e9, "9.00e+09")]
)
def test_numbers_are_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize("module", ["zsharp_jax.benchmark", "zsharp_jax.benchmark.cli"])
def test_python_runs_it_as_a_module_too(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["anything", "--version"])
    monkeypatch.delitem(sys.modules, "zsharp_jax.benchmark.cli")  # it would warn
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    assert stopped.value.code == 0 and re.fullmatch(r"\d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
