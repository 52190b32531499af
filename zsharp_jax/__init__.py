"""Sharpness-aware minimisation with z-score gradient filtering, as Optax transformations."""

import ast
import importlib
import importlib.metadata
import pathlib

# The public names are those that `__init__.pyi` imports, for type checkers and for us. Each is
# imported when it is first used: `zsharp-bench --help` need not wait a second for JAX.
_MODULES = {
    alias.name: str(node.module)
    for node in ast.parse(pathlib.Path(__file__).with_suffix(".pyi").read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_MODULES)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value = importlib.metadata.version("zsharp-jax")
    elif _MODULES.get(name) == __name__:
        value = importlib.import_module(f"{__name__}.{name}")
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    hidden = {"ast", "importlib", "pathlib"}
    return sorted((globals().keys() | _MODULES.keys() | {"__version__"}) - hidden)
