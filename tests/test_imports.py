"""The library imports jax and optax and nothing else; imports run one way."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import zsharp_jax

PACKAGE = pathlib.Path(zsharp_jax.__file__).parent
LAYERS = ["_checks", "_precision", "_order_statistic", "_stack", "_reduce", "_zscore", "_filter"]
LAYERS += ["_scale", "_ascent"]
STEP_LAYERS = ["_checks", "_precision", "_placement", "_batch", "_mean_gradient", "_perturb"]
STEP_LAYERS += ["_sharp_gradient", "_sharpness_aware", "_skips", "_step"]
DATASET_LAYERS = ["catalog", "contents", "progress", "download", "archive", "cifar"]
DATASET_LAYERS += ["tiny_imagenet", "cache", "builders", "prepared", "obtain"]


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_library_loads_neither_flax_nor_the_benchmark():
    unwanted = ["flax", "chex", "matplotlib", "rich", "sklearn", "zsharp_jax.models"]
    script = f"import sys, zsharp_jax; print([m for m in {unwanted} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_the_library_names_no_other_package():
    for path in PACKAGE.glob("*.py"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        foreign = roots - set(sys.stdlib_module_names) - {"jax", "optax", "numpy", "zsharp_jax"}
        assert not foreign, (path.name, foreign)  # numpy comes with jax


@pytest.mark.parametrize("layers", [LAYERS, STEP_LAYERS], ids=["ascents", "steps"])
def test_imports_run_one_way(layers):
    for position, name in enumerate(layers):
        own = own_modules(name)
        assert own <= set(layers[:position]), (name, own)


def test_steps_know_no_ascent_and_models_nothing_of_the_benchmark():
    assert not set(STEP_LAYERS) & {"_ascent", "_filter", "_scale", "_masked", "_periodic"}
    assert own_modules("_masked") == set() and own_modules("_periodic") == {"_checks"}
    for path in (PACKAGE / "models").glob("*.py"):
        assert not any("benchmark" in module for module in imported_modules(path)), path


def own_modules(name):
    modules = imported_modules(PACKAGE / f"{name}.py")
    return {module.split(".")[1] for module in modules if "zsharp_jax." in module}


def test_datasets_know_nothing_of_training_and_one_another_one_way():
    folder = PACKAGE / "benchmark" / "datasets"
    assert {path.stem for path in folder.glob("*.py")} == {*DATASET_LAYERS, "__init__"}
    for position, name in enumerate(DATASET_LAYERS):
        modules = set(imported_modules(folder / f"{name}.py"))
        own = {module for module in modules if module.startswith("zsharp_jax")}
        below = {f"zsharp_jax.benchmark.datasets.{layer}" for layer in DATASET_LAYERS[:position]}
        package = {"zsharp_jax.benchmark.datasets", "zsharp_jax.benchmark.errors"}
        assert own <= below | package, (name, own)
        # A machine that has a cache needs NumPy alone.
        if name not in ("builders", "prepared"):
            assert not {module.split(".")[0] for module in modules} & {"tensorflow_datasets"}, name


# From run files to a report: each imports those before it, and none of them what trains.
REPORT_LAYERS = [
    "errors",
    "paper",
    "results",
    "fields",
    "runs",
    "rows",
    "cells",
    "tables",
    "speed",
    "report",
]


def test_a_report_is_made_of_run_files_alone():
    for position, name in enumerate(REPORT_LAYERS):
        path = PACKAGE / "benchmark" / f"{name}.py"
        modules = {m for m in imported_modules(path) if m.startswith("zsharp_jax.benchmark.")}
        own = {module.split(".")[2] for module in modules}
        if name != "results":  # which also writes what was trained
            assert own <= set(REPORT_LAYERS[:position]), (name, own)
        assert "matplotlib" not in {m.split(".")[0] for m in imported_modules(path)}, name


def test_every_public_name_is_there_and_documented():
    names = {
        "SamInfo", "SamState", "Skips", "asam", "friendly_sam", "init_state", "masked_ascent",
        "mean_value_and_grad", "periodic_rho", "sam", "sam_step", "scale_to_norm",
        "sharp_value_and_grad", "sharpness_aware", "zscore_filter", "zsharp", "zsharp_reference",
    }  # fmt: skip
    public = {name for name in dir(zsharp_jax) if name[0] != "_"}
    assert {name for name in public if not inspect.ismodule(getattr(zsharp_jax, name))} == names
    assert public - names <= {"models", "benchmark"}
    for name in names - {"SamInfo", "SamState", "Skips"}:
        assert "Example:" in getattr(zsharp_jax, name).__doc__, name
    assert (PACKAGE / "py.typed").exists()
