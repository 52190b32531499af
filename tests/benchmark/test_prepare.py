"""`zsharp-bench prepare` as a user types it, and training on what it has prepared."""

import json

import archives
import pytest

from zsharp_jax.benchmark.cli import main
from zsharp_jax.benchmark.datasets import obtain
from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.training import session


def run(capsys, *arguments):
    """The exit code, and what was said on stdout and stderr."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return stopped.value.code, said.out.splitlines(), said.err.splitlines()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet"])
def test_prepare_says_what_there_is_now(capsys, tmp_path, name):
    path, source = archives.write_official(name, tmp_path)
    options = ["prepare", "--dataset", name, "--data-dir", tmp_path / "data", "--no-verify"]
    code, out, _ = run(capsys, *options, "--archive", path)
    size, counts = source.image_shape[0], source.counts
    assert code == 0 and out == [
        f"{name}: {counts['train']} train and {counts['test']} test images of {size} x {size} "
        f"pixels from {source.archive_name} (not verified)",
        f"Cache: {tmp_path / 'data' / 'zsharp_jax' / name}",
    ]
    assert run(capsys, *options) == (0, out, [])  # nothing is left to do


def test_it_claims_no_more_of_a_folder_of_others_than_it_knows(capsys, tmp_path, monkeypatch):
    path, source = archives.write_official("cifar10", tmp_path)
    monkeypatch.setitem(SOURCES, "cifar10", source)
    options = ["prepare", "--dataset", "cifar10", "--data-dir", tmp_path]
    _, out, _ = run(capsys, *options, "--archive", path)
    assert out[0].endswith("(verified)")
    for known in (*tmp_path.glob("cifar10/*/metadata.json"), *tmp_path.glob("*/*/meta.json")):
        known.unlink()
    code, out, _ = run(capsys, *options)
    assert code == 0 and out[0].endswith("(as many as there should be, their archive is not known)")


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "the following arguments are required: --dataset"),
        (["--dataset", "digits"], "unknown dataset 'digits', known: "),
        (["--dataset", "cifar11"], "unknown dataset 'cifar11', known: cifar10"),
        (
            ["--dataset", "cifar10", "--timeout", "-1"],
            "`timeout` must be finite and above 0, got -1",
        ),
        (["--dataset", "cifar10", "--timeout", "soon"], "invalid float value: 'soon'"),
        (["--dataset", "cifar10", "--archive", "no/where"], "there is no archive no/where"),
        (["--dataset", "cifar10", "--data-dir", __file__], "cannot write to --data-dir"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys, options, message):
    code, _, (line,) = run(capsys, "prepare", *options)
    assert code == 2 and line.startswith("zsharp-bench: error: ") and message in line


@pytest.mark.parametrize("command", ["prepare", "train", "compare"])
def test_without_network_or_without_the_extra_one_line_says_what_to_do(
    capsys, monkeypatch, tmp_path, command
):
    options = [command, "--dataset", "cifar100", "--data-dir", tmp_path / "data"]
    options += [] if command == "prepare" else ["--out", tmp_path / "runs"]
    has_tensorflow_datasets = obtain.has_tensorflow_datasets()
    monkeypatch.setattr(obtain, "EXTRA", ("no_such_package",))
    code, _, (line,) = run(capsys, *options)
    assert code == 2 and 'pip install -e ".[data]" in a clone' in line
    if has_tensorflow_datasets:
        monkeypatch.setattr(obtain, "EXTRA", ())
        code, _, errors = run(capsys, *options)
        assert code == 2 and "Traceback" not in "".join(errors)
        for part in ("cannot download http", "cifar-100-binary.tar.gz", "downloads/manual"):
            assert part in errors[-1]


def test_help_explains_each_option_with_its_default(capsys):
    code, out, _ = run(capsys, "prepare", "--help")
    text = " ".join(" ".join(out).split())
    explanations = text[text.index("options:") :]
    options = ["--data-dir", "--archive", "--no-verify", "--timeout"]
    assert code == 0 and all(option in explanations for option in ["--dataset", *options])
    assert explanations.count("(default: ") == len(options)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_train_and_compare_load_what_prepare_has_made(capsys, monkeypatch, tmp_path, command):
    """And nothing else: neither the archive nor tensorflow-datasets is there any more."""
    path, _ = archives.write_official("cifar100", tmp_path)
    options = ["--dataset", "cifar100", "--data-dir", tmp_path / "data", "--no-verify"]
    assert run(capsys, "prepare", *options, "--archive", path)[0] == 0
    path.unlink()
    monkeypatch.setattr(obtain, "EXTRA", ("no_such_package",))
    trained_on = []

    def compile_nothing(settings, dataset):
        trained_on.append((settings.model, dataset))
        raise RequestError("enough")

    monkeypatch.setattr(session, "compile_program", compile_nothing)
    code, _, errors = run(capsys, command, *options, "--out", tmp_path, "--batch-size", 4)
    assert code == 2 and errors[-1].endswith("enough")
    ((model, dataset),) = trained_on
    assert model == "resnet56" and dataset.num_classes == 100 and len(dataset.train_images) == 20
    meta = json.loads((tmp_path / "data" / "zsharp_jax" / "cifar100" / "meta.json").read_text())
    assert dataset.sha256() == meta["sha256"]
