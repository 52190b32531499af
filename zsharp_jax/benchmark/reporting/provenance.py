"""What made the runs of a table, in words: their settings, devices and versions."""

from collections.abc import Iterable, Sequence

from zsharp_jax.benchmark.runs.fields import Record
from zsharp_jax.benchmark.runs.methods import filters, perturbs

_IN_THE_TABLE = ("dataset", "model", "method", "seed")


def settings_told(records: Sequence[Record], but: Sequence[str] = ()) -> str:
    """Each setting with all values that it has, those of a method that has a use for it.

    Args:
        records: Run files of one dataset and network.
        but: Which settings the table tells itself.
    """
    names = dict.fromkeys(name for record in records for name in record["settings"])
    values = {
        name: [
            record["settings"].get(name)
            for record in records
            if _has_use_for(name, record["settings"]["method"])
        ]
        for name in names
        if name not in (*_IN_THE_TABLE, *but)
    }
    told = {name: _all_of(found) for name, found in values.items()}
    return ", ".join(f"{name} {each}" for name, each in told.items() if each)


def devices_told(records: Sequence[Record]) -> str:
    """Kind, platform and cores of all devices that runs were trained on."""
    return _all_of(
        f"{device['kind']} ({device['platform']}, {device['cpu_cores']} CPU cores)"
        for device in (record["device"] for record in records)
    )


def versions_told(records: Sequence[Record]) -> str:
    """Each package with all its versions."""
    names = dict.fromkeys(name for record in records for name in record["versions"])
    return ", ".join(
        f"{name} {_all_of(record['versions'].get(name) for record in records)}" for name in names
    )


def _all_of(values: Iterable[object]) -> str:
    return " / ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _has_use_for(name: str, method: str) -> bool:
    return {"quantile": filters, "rho": perturbs}.get(name, lambda method: True)(method)
