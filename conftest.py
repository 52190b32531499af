"""Every test runs on eight CPU devices with strict ranks; the README's Python blocks are tests."""

import fnmatch
import importlib.metadata
import os
import shutil

# Most of a test's time goes to XLA's compiler, which takes a third less without LLVM's
# optimizations, and half of the rest without MLIR. Newer versions cannot do without that, and a
# flag that is not known ends a process. In the environment, so that what a test starts has it too;
# the gate tests optimized programs as well. Where cores are few and busy, a device may also be late
# where all of them meet.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import jax
import jax.numpy as jnp
import optax
import pytest
import sybil
import sybil.parsers.markdown

import zsharp_jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # lowering takes less time

COMPILED, MOST_COMPILED = "compiled", 2**28  # in pytest's cache; bytes
ABOUT = {
    "not slow": "All but the slow tests: 4 to 5 minutes on two cores, less the second time.",
    "slow": "The slow tests: 4 to 6 minutes on two cores, less the second time.",
}


def pytest_sessionstart(session):
    config = session.config
    everything = config.args_source is not pytest.Config.ArgsSource.ARGS
    terminal = config.pluginmanager.get_plugin("terminalreporter")  # a worker has none
    if everything and terminal and config.option.markexpr in ABOUT:
        terminal.write_line(ABOUT[config.option.markexpr])
    if terminal and config.pluginmanager.has_plugin("cacheprovider"):
        compiled = config.cache.mkdir(COMPILED)
        if sum(path.stat().st_size for path in compiled.iterdir()) > MOST_COMPILED:
            shutil.rmtree(compiled)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Where many parameters test one law, `fast_for` names those that are not slow."""
    for item in items:
        mark = item.get_closest_marker("fast_for")
        if mark and not any(fnmatch.fnmatchcase(item.callspec.id, each) for each in mark.args):
            item.add_marker("slow")


pytest_collect_file = sybil.Sybil(
    parsers=[sybil.parsers.markdown.PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"]
).pytest()


@pytest.fixture(autouse=True, scope="session")
def _each_program_compiled_once(pytestconfig, tmp_path_factory):
    """Tests trace many programs again that another test, process, command or run has compiled."""
    has_cache = pytestconfig.pluginmanager.has_plugin("cacheprovider")
    folder = pytestconfig.cache.mkdir(COMPILED) if has_cache else tmp_path_factory.mktemp(COMPILED)
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.fixture(autouse=True)
def _public_names_in_doctests(doctest_namespace):
    """Docstring examples read as after `import jax, optax` and `from zsharp_jax import *`."""
    public = {name: getattr(zsharp_jax, name) for name in dir(zsharp_jax) if name[0] != "_"}
    doctest_namespace.update(public, jax=jax, jnp=jnp, optax=optax)


@pytest.fixture(scope="session")
def compilations():
    """Grows by one at each program that XLA compiles."""
    seen = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seen
