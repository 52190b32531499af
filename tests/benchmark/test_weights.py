"""Runs that keep their last weights, and how sharp the solutions are that these are."""

import io
import json

import jax
import numpy as np
import pytest
import run_files
from command import exit_code, records_in
from matplotlib import image
from matplotlib.figure import Figure
from run_files import DIGITS, change
from tiny import OneConvolution

from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.measuring import sharpness
from zsharp_jax.benchmark.measuring.around import losses_around
from zsharp_jax.benchmark.measuring.progress import MeasuringProgress
from zsharp_jax.benchmark.measuring.solutions import Solutions
from zsharp_jax.benchmark.reporting import filter_figure
from zsharp_jax.benchmark.reporting.figures import rendered
from zsharp_jax.benchmark.reporting.kinds import KINDS
from zsharp_jax.benchmark.reporting.looks import looks_of
from zsharp_jax.benchmark.reporting.markdown import plain
from zsharp_jax.benchmark.reporting.rows import rows_of
from zsharp_jax.benchmark.reporting.sharp_figures import (
    draw_against_sharpness,
    draw_contours,
    draw_lines,
    draw_spectra,
)
from zsharp_jax.benchmark.reporting.sharp_pictures import weight_pictures
from zsharp_jax.benchmark.reporting.study_files import write_study
from zsharp_jax.benchmark.runs.fields import DamagedError
from zsharp_jax.benchmark.runs.reading import read_folder
from zsharp_jax.benchmark.runs.weights import read_weights, weights_path, write_weights
from zsharp_jax.models import MODELS

pytestmark = pytest.mark.slow  # networks are trained and measured

OPTIONS = ["--methods", "adamw", "sam", "--seeds", "1", "--epochs", "1", "--batch-size", "256"]
OPTIONS += ["--label-noise", "0.2"]
FEW = {"spectrum_steps": 3, "trace_samples": 2, "worst_steps": 2, "average_samples": 2}


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet8", OneConvolution)
        patch.setattr(sharpness, "SAMPLES", FEW)
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A comparison that kept its weights, measured."""
    folder = tmp_path_factory.mktemp("kept")
    assert exit_code("compare", *OPTIONS, "--keep-weights", "--out", folder) == 0
    assert exit_code("sharpness", folder, "--images", 360) == 0
    return folder


def copied(kept, folder):
    for path in kept.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(kept)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def lines_in(folder):
    return [json.loads(line) for line in (folder / "sharpness.jsonl").read_text().splitlines()]


def test_weights_come_back_as_they_were_and_others_are_refused(tmp_path):
    variables = {"params": {"Conv_0": {"kernel": np.ones((2, 2), "f4")}, "bias": np.zeros(2)}}
    path = weights_path(tmp_path, "run")
    digest = write_weights(path, variables)
    found = read_weights(path, digest)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    np.testing.assert_array_equal(found["params"]["Conv_0"]["kernel"], np.ones((2, 2)))
    assert write_weights(path, variables) == digest
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="damaged or those of another training"):
        read_weights(path, digest)
    path.unlink()
    with pytest.raises(DamagedError, match="cannot be read: No such file"):
        read_weights(path, digest)


def test_the_weights_kept_are_those_that_the_run_was_tested_with(kept):
    for record, line in zip(records_in(kept), lines_in(kept), strict=True):
        assert record["name"] == line["name"]
        assert line["test"]["loss"] == pytest.approx(record["final"]["test_loss"], rel=1e-4)


def test_a_line_tells_what_was_measured_and_how(kept):
    for line in lines_in(kept):
        how = line["how"]
        assert how["images"] == {"train": 360, "test": 360} and how["trace_samples"] == 2
        assert how["radii"][0] == 0.05 < how["radii"][1]
        for found in (line["train"], line["test"]):
            assert found["lambda_min"] < found["lambda_max"] == found["eigenvalues"][-1]
            assert found["loss"] < found["worst_loss"][0] < found["worst_loss"][1]
            assert found["trace_error"] > 0 and len(found["average_loss"]) == 2
            assert sum(found["weights"]) == pytest.approx(1, rel=1e-4)


def test_it_goes_on_where_it_stopped_and_measures_anew_what_was_asked_for_otherwise(
    kept, tmp_path, capsys
):
    folder = copied(kept, tmp_path)
    path = folder / "sharpness.jsonl"
    whole = path.read_bytes()
    assert exit_code("sharpness", folder, "--images", 360) == 0
    assert "0 runs measured, 2 had been before" in capsys.readouterr().out
    path.write_bytes(whole.splitlines(keepends=True)[0])
    assert exit_code("sharpness", folder, "--images", 360) == 0
    told = capsys.readouterr().out
    assert "sam, rho 0.05, seed 0: train: λ_max" in told and "1 run measured, 1 had" in told
    path.write_bytes(whole)
    record = json.loads((folder / "runs.jsonl").read_text().splitlines()[0])
    record["weights_sha256"] = "other"  # trained anew
    (folder / f"{record['name']}.json").write_text(json.dumps(record))
    assert exit_code("sharpness", folder, "--images", 360) == 1
    assert "damaged or those of another training" in capsys.readouterr().err
    assert [run.sharpness is None for run in read_folder(folder)[0]] == [True, False]


def test_a_finished_run_without_weights_is_trained_again_when_they_are_asked_for(
    kept, tmp_path, capsys
):
    folder, name = copied(kept, tmp_path), records_in(kept)[0]["name"]
    assert exit_code("compare", *OPTIONS, "--keep-weights", "--out", folder) == 2
    assert "there already: --resume goes on" in capsys.readouterr().err
    before = weights_path(folder, name).read_bytes()
    weights_path(folder, name).unlink()
    assert exit_code("compare", *OPTIONS, "--keep-weights", "--resume", "--out", folder) == 0
    assert weights_path(folder, name).read_bytes() == before
    assert [run.sharpness is not None for run in read_folder(folder)[0]] == [True, True]
    assert exit_code("compare", *OPTIONS, "--overwrite", "--out", folder) == 0
    assert not list((folder / "weights").iterdir())
    assert exit_code("sharpness", folder) == 2
    assert "train with --keep-weights" in capsys.readouterr().err


def test_tables_show_the_sharpness_where_all_runs_have_it(kept, tmp_path, capsys):
    folder, line = copied(kept, tmp_path), lines_in(kept)[0]
    assert exit_code("report", folder) == 0
    assert f"| {plain(line['train']['lambda_max'])} | {plain(line['train']['trace'])} |" in (
        capsys.readouterr().out
    )
    write_study(records_in(folder), folder, ["study"])
    assert "| test loss | λ_max | trace |" in capsys.readouterr().out
    (folder / "sharpness.jsonl").write_text(json.dumps(line) + '\n{"name": "x"}\n')
    write_study(records_in(folder), folder, ["study"])
    assert "λ_max" not in capsys.readouterr().out
    assert exit_code("report", folder) == 1
    assert "sharpness.jsonl, line 2: `format` must be an integer" in capsys.readouterr().err


@pytest.mark.slow
def test_pictures_of_the_loss_around_solutions_and_of_their_spectra(
    kept, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(filter_figure, "draw_example", Figure)
    folder = copied(kept, tmp_path)
    broken = weights_path(folder, records_in(kept)[1]["name"])
    broken.write_bytes(b"")
    assert exit_code("figures", folder, "--points", 3, "--out", folder / "out") == 1
    told = capsys.readouterr()
    assert "damaged or those of another training" in told.err and "adamw, rho" in told.out
    assert {path.name for path in (folder / "out").glob("*sha*")} == {
        f"accuracy_against_sharpness-digits-resnet8.{kind}" for kind in KINDS
    }
    for name in ("loss_line", "loss_contour", "spectrum"):
        content = (folder / "out" / f"{name}-digits-resnet8.png").read_bytes()
        assert image.imread(io.BytesIO(content)).std() > 0.01
    for points in (1, 52):
        assert exit_code("figures", folder, "--points", points) == 2
        assert f"`points` must be from 2 to 51, got {points}" in capsys.readouterr().err


def test_the_loss_at_the_middle_of_a_line_and_a_plane_is_that_of_the_solution(kept):
    runs, _ = read_folder(kept)
    found, problems = losses_around([(run, True) for run in runs], Origin(), points=3)
    assert not problems
    for line, around in zip(lines_in(kept), found.values(), strict=True):
        assert around.images == 1024 and around.plane.shape == (3, 3)
        middle = around.line[len(around.line) // 2]
        assert middle == pytest.approx(around.plane[1, 1], rel=1e-5)
        assert middle == pytest.approx(line["train"]["loss"], rel=0.2)  # on 360 of the images
        np.testing.assert_allclose(around.line[[0, -1]], around.plane[1, [0, 2]], rtol=1e-5)


def test_images_that_are_not_at_hand_are_named_once(kept, monkeypatch):
    def missing(*_):
        raise RequestError("cannot download it")

    monkeypatch.setattr(Solutions, "of", missing)
    found, problems = losses_around([(run, True) for run in read_folder(kept)[0]], Origin(), 3)
    assert not found and problems == ["digits: cannot download it"]


def test_each_method_is_drawn_at_its_best_radius(tmp_path):
    for rho, accuracy in ((0.05, 0.5), (0.1, 0.9), (0.2, 0.7)):
        path = run_files.write(tmp_path, change(DIGITS, rho=rho), accuracy, weights_sha256="a")
        weights_path(tmp_path, path.stem).parent.mkdir(exist_ok=True)
        weights_path(tmp_path, path.stem).touch()
    run_files.write(tmp_path, change(DIGITS, rho=0.3), 1.0, weights_sha256="not there")
    (picture,) = weight_pictures(rows_of(read_folder(tmp_path)[0])[0], "loss_line")
    assert picture.name == "loss_line-digits-resnet8"
    assert [row.settings["rho"] for row in picture.rows] == [0.1]


def test_any_losses_are_drawn():
    looks = looks_of({"sam": "sam", "zsharp (rho 0.1)": "zsharp"})
    wild = np.array([[np.inf, 1e30], [np.nan, 0.0]])
    for losses in (wild, np.full((2, 2), 0.5), np.zeros((2, 2))):
        labels = dict.fromkeys(looks, losses)
        for draw in (draw_lines, draw_contours):
            assert rendered(draw(labels, looks, "any"), "png")  # a warning would be an error
    alike = {"sam": [(np.zeros(2), np.array([0.5, 0.5]))]}
    assert rendered(draw_spectra(alike, looks, "any"), "png")
    assert rendered(draw_against_sharpness({"sam": np.array([[-1.0, 0.5]])}, looks, "any"), "png")


@pytest.mark.parametrize(
    "images, reason",
    [
        (0, "`images` must be at least 1, got 0"),
        (361, "`images` must be at most the 360 test images, got 361"),
        (1438, "`images` must be at most the 1437 train images, got 1438"),
    ],
)
def test_a_number_of_images_that_cannot_be_is_refused(images, reason, kept, capsys):
    assert exit_code("sharpness", kept, "--images", images) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_loss_that_is_not_finite_is_named_and_skipped(kept, tmp_path, capsys):
    folder, record = copied(kept, tmp_path), records_in(kept)[0]
    path = weights_path(folder, record["name"])
    variables = read_weights(path, record["weights_sha256"])
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    record["weights_sha256"] = write_weights(path, broken)
    (folder / f"{record['name']}.json").write_text(json.dumps(record))
    assert exit_code("sharpness", folder, "--images", 360) == 1
    assert "the loss at `params` must be finite, got nan" in capsys.readouterr().err


def test_settings_of_another_version_are_named(kept, tmp_path, capsys):
    folder, record = copied(kept, tmp_path), records_in(kept)[0]
    record["settings"]["colour"] = "red"
    (folder / f"{record['name']}.json").write_text(json.dumps(record))
    assert exit_code("sharpness", folder, "--images", 360) == 1
    assert "a setting of another version: colour" in capsys.readouterr().err


def test_it_says_after_the_first_run_how_long_the_others_take(capsys):
    with MeasuringProgress(runs=3, parts=2) as progress:
        progress.begin("sam")
        progress.tell("trace")
        progress.finish("sam: 1")
    told = capsys.readouterr()
    assert told.out.startswith("sam: 1; 0.0 s") and "2 more: about 0 s" in told.err
