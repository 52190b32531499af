"""Every test runs on eight CPU devices with strict ranks; the README's Python blocks are tests."""

import jax
import jax.numpy as jnp
import optax
import pytest
import sybil
import sybil.parsers.markdown

import zsharp_jax
from zsharp_jax import _reduce

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

is_one_device = _reduce._is_one_device

pytest_collect_file = sybil.Sybil(
    parsers=[sybil.parsers.markdown.PythonCodeBlockParser()], patterns=["README.md"]
).pytest()


@pytest.fixture(autouse=True)
def _public_names_in_doctests(doctest_namespace):
    """Docstring examples read as after `import jax, optax` and `from zsharp_jax import *`."""
    public = {name: getattr(zsharp_jax, name) for name in dir(zsharp_jax) if name[0] != "_"}
    doctest_namespace.update(public, jax=jax, jnp=jnp, optax=optax)


@pytest.fixture(autouse=True, scope="session")
def sums_of_one_device():
    """The sums and counts that a CPU takes where it is alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_reduce, "_is_one_device", lambda: True)
        yield patch


@pytest.fixture(scope="module")
def sums_of_several_devices(sums_of_one_device):
    """Those that users with eight devices get, for a module that uses it."""
    with sums_of_one_device.context() as patch:
        patch.setattr(_reduce, "_is_one_device", is_one_device)
        jax.clear_caches()  # of what other tests have traced for one device
        yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def compilations():
    """Grows by one at each program that XLA compiles."""
    seen = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seen
