"""An H100 that is only described: programs are compiled for it on a machine without one.

XLA needs to know a GPU, not to have one. What a program launches, reads, writes and exchanges can
be read from what it compiles to, and so can its memory. How long it takes cannot. Two things are
not what a real H100 would get: nothing is tuned by trying it out, and launches are not yet gathered
into CUDA graphs, which make each of them cheaper.
"""

import atexit
import contextlib
import functools
import importlib.util
import resource
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import program_text
import side_by_side
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

EXTRA = "gpu-programs"
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")

# XLA would compile kernels to choose from, without a GPU to time them on.
UNTUNED = {"xla_gpu_autotune_level": "0"}

# As XLA describes it: GPU_SPECS of its test data, an H100 SXM of 80 GB.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 12 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""


class Costs(NamedTuple):
    """What can be read from a compiled program, of one device.

    Attributes:
        launches: How many kernels, copies and collectives one call launches.
        bytes_moved: How many bytes they read and write, but for what caches hold.
        all_reduces: How many all-reduces one call makes.
        all_gathers: How many all-gathers one call makes.
        largest_gathered: How many entries the largest tensor that is gathered has, 0 without any.
        temporary_bytes: The memory beside what goes in and comes out.
        compile_seconds: The processor time that compiling took, of all cores together.
    """

    launches: int
    bytes_moved: int
    all_reduces: int
    all_gathers: int
    largest_gathered: int
    temporary_bytes: int
    compile_seconds: float


def why_not() -> str | None:
    """Why nothing can be compiled for a GPU here, and the way out; None where it can."""
    if any(importlib.util.find_spec(plugin) for plugin in PLUGINS):
        return None
    return (
        f'JAX cannot compile for a GPU here: run `pip install -e ".[{EXTRA}]"` (Linux, no GPU and '
        "no driver needed)."
    )


def mesh(devices: int) -> jax.sharding.Mesh:
    """A mesh of H100s of one host, with one automatic axis named `data`."""
    described = topologies.get_topology_desc(
        "h100", "cuda", target_config=H100, topology=f"1x{devices}x1"
    )
    return topologies.make_mesh(described, (devices,), ("data",))


def costs(function: Callable[..., Any], *args: Any, quick: bool = False, **options: Any) -> Costs:
    """Compiles a function and reads what it costs.

    Args:
        function: What to compile.
        *args: Trees of `jax.ShapeDtypeStruct` with shardings over a `mesh`.
        quick: Whether to leave out of compiling what changes no figure but `compile_seconds`.
        **options: For `jax.jit`.

    Returns:
        The costs on one device of the mesh.
    """
    with _not_from_the_cache():
        lowered = jax.jit(function, **options).lower(*args)
        started = _processor_seconds()
        compiled = lowered.compile(compiler_options=UNTUNED | (_quick_options() if quick else {}))
        seconds = _processor_seconds() - started
    program = program_text.read(compiled.as_text() or "")
    gathered = program_text.gathered_sizes(program)
    return Costs(
        launches=program_text.launches(program),
        bytes_moved=program_text.bytes_moved(program),
        all_reduces=program_text.calls(program, "all-reduce"),
        all_gathers=program_text.calls(program, "all-gather"),
        largest_gathered=max(gathered, default=0),
        temporary_bytes=side_by_side.temporary_bytes(compiled),
        compile_seconds=seconds,
    )


@functools.cache
def _quick_options() -> dict[str, Any]:
    # Compiling takes less time so, above all for kernels seen before; what is launched stays.
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return {
        "xla_backend_optimization_level": "0",
        "xla_gpu_kernel_cache_file": f"{folder}/kernels",
    }


def _processor_seconds() -> float:
    # XLA has its assembler run in processes of its own.
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextlib.contextmanager
def _not_from_the_cache():
    """A program for a GPU that is not there can be written to the cache on disk, but not read."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    _enable_cache(False)
    try:
        yield
    finally:
        _enable_cache(before)


def _enable_cache(is_enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", is_enabled)
    compilation_cache.reset_cache()  # JAX asks for the setting only once otherwise
