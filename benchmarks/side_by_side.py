"""Timing in turn, and what every benchmark writes: a Markdown table and a JSON file.

A machine is faster in one minute than in the next, so contenders take turns, and a ratio is the
median over turns of what two of them took in the same turn.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

PACKAGES = ("zsharp-jax", "jax", "jaxlib", "numpy", "optax", "flax", "torch")
LEAST_TURNS = 3

Seconds = dict[str, list[float]]  # of each contender, one for each turn it took


def time_in_turn(
    contenders: Mapping[str, Callable[[], Any]], turns: int, most_seconds: float
) -> Seconds:
    """Runs every contender once to warm up, then in turn.

    Args:
        contenders: What to run; whatever it returns is waited for.
        turns: How many turns each takes.
        most_seconds: After so many seconds in all a contender takes no more turns, but for the
            first three.

    Returns:
        What each turn took.
    """
    seconds: Seconds = {name: [] for name in contenders}
    for run in contenders.values():
        jax.block_until_ready(run())
    for _ in range(turns):
        for name, run in contenders.items():
            if len(seconds[name]) < LEAST_TURNS or sum(seconds[name]) < most_seconds:
                started = time.perf_counter()
                jax.block_until_ready(run())
                seconds[name].append(time.perf_counter() - started)
    return seconds


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """How much memory a compiled function takes beside what goes in and comes out."""
    return _memory(compiled).temp_size_in_bytes


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """How much memory a compiled function takes in all; what is taken over counts once."""
    memory = _memory(compiled)
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return total - memory.alias_size_in_bytes


def _memory(compiled: jax.stages.Compiled) -> Any:
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError("this backend does not tell how much memory a compiled function takes")
    return analysis


def ratio(seconds: Seconds, name: str, over: str) -> float:
    """The median over common turns of the seconds of `name` over those of `over`."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[over], strict=False))


def spread(values: Sequence[float], scale: float, digits: int) -> list[str]:
    """The cells median, lower and upper quartile, and count."""
    low, middle, high = statistics.quantiles(values, n=4)
    cells = [f"{scale * each:.{digits}f}" for each in (middle, low, high)]
    return [cells[0], f"{cells[1]} to {cells[2]}", str(len(values))]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_json(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes results with what made them: device, versions and command line."""
    device = jax.devices()[0]
    about = {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "machine": platform.machine(),
        "cpu_cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **_versions()},
    }
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps({"about": about, **results}, indent=1) + "\n")
    temporary.replace(path)


def _versions() -> dict[str, str]:
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
