"""Run files: one small JSON per run, from which every table and figure is made."""

import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence

import jax

from zsharp_jax.benchmark.runs.fields import FORMAT, Record
from zsharp_jax.benchmark.runs.files import write_whole
from zsharp_jax.benchmark.runs.outcome import Outcome
from zsharp_jax.benchmark.runs.settings import Settings

_PACKAGES = ("zsharp-jax", "jax", "jaxlib", "optax", "flax", "numpy")


def make_record(
    settings: Settings,
    outcome: Outcome,
    command: Sequence[str],
    data_sha256: str,
    *,
    steps_per_epoch: int,
    compile_seconds: float,
) -> Record:
    """All that is needed to read a result and to doubt it."""
    device = jax.devices()[0]
    return {
        "format": FORMAT,
        "name": settings.run_name(data_sha256),
        "status": outcome.status,
        "error": outcome.error,
        "command": list(command),
        "settings": settings.as_dict(),
        "data_sha256": data_sha256,
        "commit": _commit(),
        "steps": outcome.steps,
        "steps_per_epoch": steps_per_epoch,
        "final": outcome.final(steps_per_epoch),
        "curves": outcome.curves,
        "step_losses": outcome.step_losses,
        "compile_seconds": compile_seconds,
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "machine": platform.machine(),
            "cpu_cores": os.cpu_count(),
            # What JAX_DEFAULT_MATMUL_PRECISION says: a GPU rounds factors to TF32 by default.
            "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore
        },
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
    }


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that the package lies in; None where it lies in none."""

    def git(*arguments: str) -> str:
        command, folder = ["git", *arguments], pathlib.Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # or the checkout may be somebody else's
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def write_record(folder: pathlib.Path, record: Record) -> None:
    """Writes a run file."""
    text = json.dumps(record, indent=1, allow_nan=False)
    write_whole(folder / f"{record['name']}.json", f"{text}\n".encode())
