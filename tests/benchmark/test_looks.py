"""Each method looks the same in every picture, and the usual ones differ in grey."""

import ast
import itertools
import json
import pathlib

import numpy as np
import pytest
from matplotlib import colors

from zsharp_jax.benchmark.reporting import run_figures
from zsharp_jax.benchmark.reporting.looks import LOOKS, look_of, looks_of
from zsharp_jax.benchmark.reporting.paper import Measure
from zsharp_jax.benchmark.runs.methods import METHODS

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "notebooks"
# What notebooks call methods.
CALLED = {
    "SGD": "adamw",
    "sam at rho sqrt(K)": "sam_matched",
    "zsharp at rho sqrt(K)": "zsharp_matched",
}
USUAL = ["adamw", "sam", "asam", "friendly_sam", "zsharp", "zsharp_reference", "sam_matched"]
USUAL += ["magnitude"]


def lightness(colour):
    """L* of CIELAB, which is even to the eye: 0 is black, 100 is white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * luminance ** (1 / 3) - 16


def test_the_usual_methods_are_told_apart_in_grey_and_from_the_paper():
    assert lightness((0.5, 0.5, 0.5)) == pytest.approx(53.4, abs=0.1)
    shades = sorted(lightness(colors.to_rgb(look_of(method).colour)) for method in USUAL)
    assert min(b - a for a, b in itertools.pairwise(shades)) > 8  # about 1 is seen side by side
    assert shades[-1] < 80
    assert len({look_of(method).marker for method in USUAL}) == len(USUAL)


def test_no_two_methods_look_alike_and_no_look_is_left_over():
    looks = [look_of(method)[:2] for method in METHODS]
    assert len(set(looks)) == len(METHODS), "a new method needs a line in LOOKS"
    assert LOOKS.keys() <= METHODS.keys()


def test_a_method_of_another_version_looks_the_same_in_every_picture():
    alone, among = looks_of({"new": "new"}), looks_of({"sam": "sam", "new": "new"})
    assert alone["new"] == among["new"] != look_of("newer")


def test_variants_of_a_method_share_its_marker_and_go_from_dark_to_light():
    looks = looks_of({"sam": "sam"} | {f"zsharp Q{i}": "zsharp" for i in range(7)})
    assert looks.pop("sam") == look_of("sam")
    assert looks["zsharp Q3"].colour == look_of("zsharp").colour
    shades = [lightness(colors.to_rgb(look.colour)) for look in looks.values()]
    assert min(b - a for a, b in itertools.pairwise(shades)) > 3 and shades[-1] < 85
    assert {look[1:3] for look in looks.values()} == {look_of("zsharp")[1:3]}


@pytest.mark.parametrize("among", [["zsharp"], ["sam", "zsharp"], ["adamw", "sam", "zsharp"]])
def test_pictures_draw_a_method_as_it_looks_whatever_is_beside_it(among):
    losses = {"train_loss": np.ones((2, 3)), "sharp_loss": np.ones((2, 3))}
    curves = {method: losses for method in among}
    points = {
        method: [run_figures.Point("", Measure(rho, None), Measure(0.9, 0.1)) for rho in (0.1, 1.0)]
        for method in among
    }
    for figure in (
        run_figures.draw_train_loss(curves, looks_of(dict(zip(among, among, strict=True))), ""),
        run_figures.draw_accuracy(points, ""),
    ):
        low, high = figure.axes[0].get_xlim()
        assert low < 1 < high  # in sight
        drawn = [each for each in figure.axes[0].get_lines() if each.get_marker() == "^"]
        assert drawn and all(each.get_color() == look_of("zsharp").colour for each in drawn)


def test_a_radius_that_all_points_have_is_in_the_title():
    point = run_figures.Point("rho 0.05", Measure(0.05, None), Measure(0.9, 0.1))
    figure = run_figures.draw_accuracy({"sam": [point], "zsharp": [point]}, "a network")
    assert figure.get_suptitle() == "a network, rho 0.05" and not figure.axes[0].texts
    figure = run_figures.draw_accuracy({"sam": [point, point._replace(name="rho 1")]}, "a network")
    assert figure.get_suptitle() == "a network" and len(figure.axes[0].texts) == 2


def styles_in(notebook):
    """What `STYLES` is in a notebook: there, only public names are used."""
    for cell in json.loads((NOTEBOOKS / notebook).read_text())["cells"]:
        for node in ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" else ():
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "STYLES":
                return ast.literal_eval(node.value)
    raise AssertionError(f"{notebook} has no STYLES")


@pytest.mark.parametrize("notebook", ["what_zsharp_keeps.ipynb", "loss_landscape.ipynb"])
def test_notebooks_draw_a_method_as_it_looks(notebook):
    for name, style in styles_in(notebook).items():
        assert style == look_of(CALLED.get(name) or name.lower())[:3], name


def test_a_legend_of_all_methods_stays_inside():
    losses = {"train_loss": np.ones((1, 2)), "sharp_loss": np.ones((1, 2))}
    figure = run_figures.draw_train_loss(
        dict.fromkeys(METHODS, losses), looks_of({method: method for method in METHODS}), ""
    )
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.y0 > 0 and box.y1 < figure.bbox.height and box.x1 < figure.bbox.width
