"""The library imports jax and optax and nothing else; imports run one way."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import zsharp_jax

PACKAGE = pathlib.Path(zsharp_jax.__file__).parent
LAYERS = ["_checks", "_mesh", "_precision", "_norm", "_per_leaf", "_selection", "_ascents"]
SELECTION_LAYERS = ["_search", "_threshold", "_in_place", "_rows", "_sharded", "_filter"]
STEP_LAYERS = ["_checks", "_mesh", "_precision", "_norm", "_trees", "_info", "_placement", "_batch"]
STEP_LAYERS += ["_extra_args", "_direction", "_links", "_roles", "_refusals", "_mean_gradient"]
STEP_LAYERS += ["_perturb", "_one_pass", "_sharp_gradient", "_sharpness_aware", "_skips", "_step"]
DATASET_LAYERS = ["catalog", "contents", "progress", "download", "archive", "cifar"]
DATASET_LAYERS += ["tiny_imagenet", "cache", "builders", "prepared", "obtain", "images", "splits"]


def imports_in(path, at_once=False):
    """The import statements of a file; `at_once`: those that run as soon as it is imported."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_once else ast.walk(tree)
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported_modules(path, at_once=False):
    for node in imports_in(path, at_once):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        else:
            yield from (alias.name for alias in node.names)


def test_the_library_loads_neither_flax_nor_the_benchmark():
    unwanted = ["flax", "chex", "matplotlib", "rich", "sklearn", "zsharp_jax.models"]
    script = (
        f"import sys; from zsharp_jax import *; print([m for m in {unwanted} if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_the_library_names_no_other_package():
    for path in (*PACKAGE.glob("*.py"), *PACKAGE.glob("[_s]*/*.py")):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        foreign = roots - set(sys.stdlib_module_names) - {"jax", "optax", "numpy", "zsharp_jax"}
        assert not foreign, (path.name, foreign)  # numpy comes with jax


@pytest.mark.parametrize("layers", [LAYERS, STEP_LAYERS], ids=["ascents", "steps"])
def test_imports_run_one_way(layers):
    for position, name in enumerate(layers):
        own = own_modules(name)
        assert own <= set(layers[:position]), (name, own)


def test_in_the_selection_too():
    folder = PACKAGE / "_selection"
    assert {path.stem for path in folder.glob("*.py")} == {*SELECTION_LAYERS, "__init__"}
    for position, name in enumerate(SELECTION_LAYERS):
        modules = [m for m in imported_modules(folder / f"{name}.py") if "zsharp_jax." in m]
        inside = {m.split(".")[2] for m in modules if m.startswith("zsharp_jax._selection.")}
        outside = {m.split(".")[1] for m in modules} - {"_selection"}
        assert inside <= set(SELECTION_LAYERS[:position]), (name, inside)
        assert outside <= {"_checks", "_mesh", "_per_leaf", "_precision"}, (name, outside)


def test_steps_know_no_ascent_and_models_nothing_of_the_benchmark():
    assert not set(STEP_LAYERS) & {"_selection", "_ascents", "_per_leaf"}
    for path in (PACKAGE / "models").glob("*.py"):
        assert not any("benchmark" in module for module in imported_modules(path)), path


def test_sharpness_stands_on_the_core_alone_and_the_core_not_on_it():
    below = {f"zsharp_jax.{name}" for name in STEP_LAYERS[: STEP_LAYERS.index("_sharp_gradient")]}
    for path in (PACKAGE / "sharpness").glob("*.py"):
        own = {module for module in imported_modules(path) if module.startswith("zsharp_jax.")}
        assert {m for m in own if not m.startswith("zsharp_jax.sharpness.")} <= below, path
    for path in PACKAGE.glob("_*.py"):
        if path.name != "__init__.py":
            assert not any("sharpness." in module for module in imported_modules(path)), path


def own_modules(name):
    folder = PACKAGE / name
    paths = folder.glob("*.py") if folder.is_dir() else [PACKAGE / f"{name}.py"]
    modules = {module for path in paths for module in imported_modules(path)}
    return {module.split(".")[1] for module in modules if "zsharp_jax." in module} - {name}


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


# Which rooms of the benchmark each of them may enter, beside itself.
ROOMS = {
    "errors": set(),
    "datasets": {"errors"},
    "runs": {"errors"},
    "training": {"errors", "datasets", "runs"},
    "measuring": {"errors", "datasets", "runs", "training"},
    "reporting": {"errors", "datasets", "runs"},
    "commands": {"errors", "datasets", "runs", "training", "measuring", "reporting"},
    "cli": {"errors", "training", "commands"},
    "__main__": {"cli"},
}


def module_file(name):
    path = PACKAGE.parent / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def modules_used_by(name, at_once=False):
    """Modules of the benchmark that one of them imports by name, whichever way it is written."""
    for node in imports_in(module_file(name), at_once):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("zsharp_jax.benchmark"):
            within = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (n if module_file(n).exists() else str(node.module) for n in within)


def benchmark_modules():
    for path in (PACKAGE / "benchmark").rglob("*.py"):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def test_rooms_of_the_benchmark_are_entered_one_way():
    for name in benchmark_modules():
        room = name.split(".")[2]
        entered = {used.split(".")[2] for used in modules_used_by(name)} - {room}
        assert entered <= ROOMS[room], (name, entered)


def test_files_of_the_benchmark_import_one_another_one_way():
    left = {name: set(modules_used_by(name)) for name in benchmark_modules()}
    while left:
        bottom = {name for name, used in left.items() if not used & left.keys()}
        assert bottom, f"import one another in a circle: {sorted(left)}"
        left = {name: used for name, used in left.items() if name not in bottom}


def test_a_report_needs_neither_flax_nor_matplotlib():
    left, seen = ["zsharp_jax.benchmark.reporting.report"], set()
    while left:
        name = left.pop()
        seen.add(name)
        left += set(modules_used_by(name, at_once=True)) - seen
        packages = {str(m).split(".")[0] for m in imported_modules(module_file(name), at_once=True)}
        assert not packages & {"flax", "matplotlib", "jax", "optax"}, name


def test_every_public_function_has_an_example():
    public = {name: getattr(zsharp_jax, name) for name in dir(zsharp_jax) if name[0] != "_"}
    modules = {name for name, value in public.items() if inspect.ismodule(value)}
    assert modules <= {"models", "benchmark", "sharpness"}
    functions = {public[name] for name in public.keys() - modules if name[0].islower()}
    functions |= {
        value for value in vars(zsharp_jax.sharpness).values() if inspect.isfunction(value)
    }
    for function in functions:
        assert "Example:" in function.__doc__, function
    assert (PACKAGE / "py.typed").exists()
