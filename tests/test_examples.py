"""Every example runs, and learns what it is about."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import jax
import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def run(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


CHECKS = {
    "quickstart": lambda loss: loss < 0.3,
    "optax_loop": lambda loss: loss < 0.2,
    "flax_linen": lambda accuracy: accuracy > 0.9,
    "flax_nnx": lambda accuracy: accuracy > 0.9,
    "nnx_optimizer": lambda accuracy: accuracy > 0.9,
    "equinox_loop": lambda accuracy: accuracy > 0.9,
    "pmap_train": lambda accuracy: accuracy > 0.9,
}
QUICK = {"quickstart", "equinox_loop"}
NEEDS = {name: "flax" for name in ("flax_linen", "flax_nnx", "nnx_optimizer", "pmap_train")}
NEEDS |= {"language_model": "flax", "many_hosts": "flax", "equinox_loop": "equinox"}
BY_THEMSELVES = {"language_model", "many_hosts"}  # the latter in `test_many_hosts.py`


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CHECKS) | BY_THEMSELVES


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CHECKS],
)
def test_example(name, capsys, monkeypatch):
    # Steps that many devices on few cores take at the same time may wait for each other for ever.
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert CHECKS[name](run(name))
    capsys.readouterr().out.encode("ascii")  # what any terminal can show


@pytest.mark.slow
def test_the_language_model_learns_its_grammar():
    """Its steps take long where programs are not optimized, as in the process of these tests."""
    learn = "import language_model; print(language_model.main(steps=60)[0])"
    # On one device: with two, exchanges within a step may take all threads of two cores, and wait
    # for each other for ever. Meshes of several devices have tests of their own.
    environment = os.environ | {"XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    told = subprocess.check_output(
        [sys.executable, "-c", learn], cwd=EXAMPLES, env=environment, encoding="ascii"
    )
    # A model that knows all of the grammar but which verb goes with which noun is 0.13 above.
    assert float(told.splitlines()[-1]) < 0.1


@pytest.mark.parametrize("name, package", NEEDS.items(), ids=NEEDS)
def test_an_example_says_which_extra_is_missing(name, package, monkeypatch):
    for module in [package, *(m for m in sys.modules if m.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stopped:
        run(name)
    (extra,) = re.findall(r'^\w+.* is missing: pip install -e "\.\[(\w+)\]"$', str(stopped.value))
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    assert any(need.startswith(package) for need in project["optional-dependencies"][extra])


def test_the_nnx_statistics_move_once_per_step():
    """As one plain forward pass moves them, to the last digits."""
    import jax
    import optax
    from flax import nnx

    from zsharp_jax import init_state, sam_step, zsharp

    spec = importlib.util.spec_from_file_location("flax_nnx", EXAMPLES / "flax_nnx.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    inputs, labels = example.rings(jax.random.key(1), 64)
    graphdef, params, rest = nnx.split(example.Classifier(nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params, rest):
        model = nnx.merge(graphdef, params, rest, copy=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels).mean()
        return loss, nnx.split(model, nnx.Param, ...)[2]

    optimizer, ascent = optax.sgd(0.1), zsharp(rho=5.0)
    state = init_state(params, optimizer, ascent)
    _, info = sam_step(loss_fn, optimizer, ascent, has_aux=True)(state, rest)

    once = nnx.merge(graphdef, params, rest, copy=True)
    once(inputs)
    assert jax.numpy.allclose(
        info.aux["norm"]["mean"].get_value(), once.norm.mean.get_value(), atol=1e-6
    )
    assert jax.numpy.allclose(
        info.aux["norm"]["var"].get_value(), once.norm.var.get_value(), atol=1e-6
    )
