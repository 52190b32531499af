"""`zsharp-bench figures`: pictures of run files, and of what the filter keeps."""

import io
import json
import xml.etree.ElementTree

import numpy as np
import pytest
import run_files
from command import exit_code
from matplotlib import image
from matplotlib.figure import Figure
from run_files import DIGITS, change

from zsharp_jax import zscore_filter
from zsharp_jax.benchmark.commands import figures
from zsharp_jax.benchmark.reporting import (
    filter_figure,
    pictures,
    run_figures,
    sharp_pictures,
    small_network,
)
from zsharp_jax.benchmark.reporting.figures import rendered
from zsharp_jax.benchmark.reporting.rows import rows_of
from zsharp_jax.benchmark.runs.fields import FORMAT
from zsharp_jax.benchmark.runs.reading import read_folder
from zsharp_jax.benchmark.runs.records import write_record
from zsharp_jax.benchmark.runs.sharpness import (
    MEASURES,
    SHARPNESS,
    read_sharpness,
    write_sharpness,
)


def pictures_of(folder):
    """Names and lines of the pictures of train losses, and names of those of accuracies."""
    rows, _ = rows_of(read_folder(folder)[0])
    losses = {
        picture.name: list(pictures.curves_of(picture)) for picture in pictures.loss_pictures(rows)
    }
    return losses, [picture.name for picture in pictures.accuracy_pictures(rows)]


def write_study(folder):
    """Two radii of two methods, one of a third, and bare AdamW; one run has failed."""
    for seed in (0, 1):
        for rho in (0.05, 0.1):
            for method, norm in (("sam", rho), ("zsharp", rho)):
                settings = change(DIGITS, method=method, seed=seed, rho=rho)
                run_files.write(folder, settings, 0.9 + 0.01 * seed, 0.1, 0.2, norm)
        run_files.write(folder, change(DIGITS, method="asam", rho=0.5, seed=seed), 0.9)
        run_files.write(folder, change(DIGITS, method="adamw", seed=seed), 0.9, 0.1, 0.1, 0.0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A study, its pictures, and the same once more."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    files = []
    for out in (folder / "once", folder / "twice"):
        assert exit_code("figures", folder, "--out", out) == 0
        files.append({path.name: path.read_bytes() for path in out.iterdir()})
    return files


@pytest.mark.slow
def test_figures_are_valid_and_the_same_bytes_twice(drawn):
    once, twice = drawn
    assert once == twice
    assert {name.rsplit(".", 1)[0] for name in once} == {
        "filter", "accuracy-digits-resnet8", "train_loss-digits-resnet8-rho_0.05",
        "train_loss-digits-resnet8-rho_0.1",
    }  # fmt: skip
    assert len(once) == 12
    for name, content in once.items():
        if name.endswith(".png"):
            pixels = image.imread(io.BytesIO(content))
            assert min(pixels.shape[:2]) > 500 and pixels.std() > 0.01
        elif name.endswith(".pdf"):
            assert content.startswith(b"%PDF")
        else:
            root = xml.etree.ElementTree.fromstring(content)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert b"dc:date" not in content and b"matplotlib.org" not in content.lower()


def test_a_picture_for_each_radius_has_one_line_per_method(tmp_path):
    write_study(tmp_path)
    losses, accuracies = pictures_of(tmp_path)
    assert losses == {
        f"train_loss-digits-resnet8-rho_{rho}": [
            "adamw", f"sam (rho {rho})", "asam (rho 0.5)", f"zsharp (rho {rho})",
        ]
        for rho in (0.05, 0.1)
    }  # fmt: skip
    assert accuracies == ["accuracy-digits-resnet8"]


def test_runs_that_differ_in_more_than_the_radius_have_pictures_of_their_own(tmp_path):
    for epochs in (3, 4):
        run_files.write(tmp_path, change(DIGITS, epochs=epochs))
    run_files.write(tmp_path, change(DIGITS, model="resnet20"))
    losses, accuracies = pictures_of(tmp_path)
    assert losses == {
        "train_loss-digits-resnet20": ["sam"],
        "train_loss-digits-resnet8-epochs_3": ["sam"],
        "train_loss-digits-resnet8-epochs_4": ["sam"],
    }
    assert len(accuracies) == 3


def test_points_stand_where_the_perturbed_steps_are_and_radii_have_four_digits(tmp_path):
    rho = 0.5 / 50**0.5
    run_files.write(tmp_path, change(DIGITS, method="looksam", rho=rho), 0.9, 0.1, 0.2, rho / 5)
    run_files.write(tmp_path, change(DIGITS, method="sam", rho=0.1), 0.9, 0.1, 0.2, 0.1)
    (picture,) = pictures.accuracy_pictures(rows_of(read_folder(tmp_path)[0])[0])
    points = pictures.points_of(picture)
    assert points["looksam"][0].norm.mean == rho and points["looksam"][0].name == "rho 0.07071"
    assert points["sam"][0].norm.mean == 0.1


def test_radii_that_agree_in_four_digits_are_told_apart(tmp_path):
    for rho in (0.3 / 8**0.5, 0.1061):
        run_files.write(tmp_path, change(DIGITS, rho=rho), 0.9, 0.1, 0.2, rho)
    (picture,) = pictures.accuracy_pictures(rows_of(read_folder(tmp_path)[0])[0])
    assert len(pictures.labelled(picture)) == 2


def test_a_method_with_and_without_a_perturbation_is_named_once(tmp_path):
    for rho in (0.0, 0.1):
        run_files.write(tmp_path, change(DIGITS, rho=rho), 0.9, 0.1, 0.2, rho)
    (picture,) = pictures.accuracy_pictures(rows_of(read_folder(tmp_path)[0])[0])
    figure = run_figures.draw_accuracy(pictures.points_of(picture), "title")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sam"]


def test_every_network_has_the_pictures_of_its_sharpness(tmp_path):
    """What is measured how depends on the network and on the images."""
    for model, radius in (("resnet8", 0.14), ("resnet20", 0.24)):
        write_measured(tmp_path, change(DIGITS, model=model), radius)
    write_measured(tmp_path, change(DIGITS, seed=1), 0.5)  # in another way than its seed 0
    rows = rows_of(read_folder(tmp_path)[0])[0]
    found = {each.name: each.rows for each in sharp_pictures.sharpness_pictures(rows, "x")}
    assert list(found) == ["x-digits-resnet20", "x-digits-resnet8"]
    assert [len(row.whole) for (row,) in found.values()] == [1, 1]


def write_measured(folder, settings, radius):
    name = settings.run_name("a" * 64)
    run_files.write(folder, settings, name=name, weights_sha256="b" * 64)
    part = dict.fromkeys(MEASURES, 1.0) | {"eigenvalues": [1.0], "weights": [1.0]}
    how = {"images": {"train": 5, "test": 5}, "radii": [0.05, radius]}
    line = {"format": FORMAT, "name": name, "weights_sha256": "b" * 64, "how": how}
    write_sharpness(folder, line | {"train": part, "test": part})


@pytest.mark.parametrize("images", [{}, {"train": "x", "test": 1}, None])
def test_a_line_that_does_not_tell_how_it_was_measured_is_damaged(images, tmp_path):
    write_measured(tmp_path, DIGITS, 0.1)
    path = tmp_path / SHARPNESS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"how": {"images": images}}))
    problems = []
    assert not read_sharpness(path, problems) and len(problems) == 1


def test_a_radius_of_which_a_run_failed_is_not_the_best(tmp_path):
    for seed in (0, 1):
        run_files.write(tmp_path, change(DIGITS, rho=0.1, seed=seed), 0.8)
    run_files.write(tmp_path, change(DIGITS, rho=1.6), 0.9)
    failed = run_files.record(change(DIGITS, rho=1.6, seed=1), name="failed")
    write_record(tmp_path, run_files.cut_short(failed, 1, status="failed"))
    rows = rows_of(read_folder(tmp_path)[0])[0]
    (row,) = sharp_pictures.best_of_each(rows)
    assert row.settings["rho"] == 0.1


def test_names_of_files_are_short_and_no_two_are_the_same(tmp_path):
    for value in ("a b", "a/b", "x" * 80):
        run_files.write(tmp_path, DIGITS, extra={"note": value, "y" * 80: value})
    losses, _ = pictures_of(tmp_path)
    assert len(losses) == 3 and all(len(name) < 200 and "/" not in name for name in losses)


def test_what_is_not_whole_is_not_drawn_and_what_is_damaged_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(filter_figure, "draw_example", Figure)
    made = run_files.record(DIGITS, name="short")
    write_record(tmp_path, run_files.cut_short(made, 1, status="failed"))
    (tmp_path / "bad.json").write_text("{}")
    assert exit_code("figures", tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"zsharp-bench: skipped {tmp_path}/bad.json: not a run file")
    assert printed.out == f"Written to {tmp_path}: 1 picture, PNG, SVG and PDF\n"
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png", ".svg", ".pdf"}


@pytest.mark.parametrize("loss, norm", [(0.0, 0.0), (5e-324, 5e-324), (3e38, 1e-30), (1, 3e38)])
@pytest.mark.fast_for("1-3e+38")
def test_any_finite_figures_are_drawn(loss, norm, tmp_path, monkeypatch):
    monkeypatch.setattr(filter_figure, "draw_example", Figure)
    for seed in (0, 1):
        run_files.write(tmp_path, change(DIGITS, seed=seed), 1.0 * seed, loss, loss, norm)
    assert exit_code("figures", tmp_path) == 0  # a warning would be an error here


def test_too_many_pictures_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "MOST_PICTURES", 2)
    for epochs in (3, 4, 5):
        run_files.write(tmp_path, change(DIGITS, epochs=epochs))
    assert exit_code("figures", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`FOLDER` must call for at most 2 pictures of a train loss, got 3" in line


@pytest.fixture(scope="module")
def trained():
    return small_network.train(epochs=2)


def test_the_filter_figure_shows_what_the_filter_does(trained):
    gradient = np.asarray(small_network.gradients_at(trained)["layer_2"]["kernel"])
    figure = filter_figure.draw_filter(gradient, 0.9)
    before, after, choice = figure.axes[:3]
    outstanding = zscore_filter(0.9)
    kept, _ = outstanding.update(gradient, outstanding.init(gradient))
    np.testing.assert_array_equal(before.images[0].get_array(), gradient)
    np.testing.assert_array_equal(after.images[0].get_array(), kept)
    counted = sum(bar.get_height() for bar in choice.patches)
    assert counted == gradient.size
    coloured = sum(
        bar.get_height() for bar in choice.patches if bar.get_facecolor()[0] != 127 / 255
    )
    assert coloured == np.count_nonzero(kept)
    assert rendered(figure, "png").startswith(b"\x89PNG")


def test_the_small_network_learns(trained):
    losses = [small_network.loss_fn(p, *small_network.digits()) for p in (
        small_network.init_params(0), trained
    )]  # fmt: skip
    assert losses[1] < losses[0] / 2
