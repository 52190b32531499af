"""What `zsharp-bench` can be asked for."""

import argparse
import difflib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import Any, NoReturn

from zsharp_jax.benchmark.commands import (
    compare,
    figures,
    prepare,
    report,
    sharpness,
    study,
    train,
)
from zsharp_jax.benchmark.errors import RequestError, to_install

PROGRAM = "zsharp-bench"
_EXTRA = ("flax", "matplotlib", "orbax", "rich", "sklearn")  # packages of bench


def execute(arguments: list[str]) -> int:
    """Carries out what the arguments ask for and returns the exit code."""
    parser = _parser()
    if not arguments:
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    return options.run(options, [PROGRAM, *arguments])


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no option for another that begins alike."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def parse_known_args(self, *arguments: Any, **more: Any) -> Any:
        """Refuses here what is not known: the command that was asked for knows what is alike."""
        namespace, unknown = super().parse_known_args(*arguments, **more)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant_by(unknown)}")
        return namespace, unknown

    def _meant_by(self, unknown: Sequence[str]) -> str:
        option = unknown[0].split("=")[0]
        alike = difflib.get_close_matches(option, self._option_string_actions, n=1)
        return f"; did you mean {alike[0]}?" if option.startswith("-") and alike else ""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    parser = _Parser(
        prog=PROGRAM,
        description="Trains sharpness-aware methods and compares them.",
        epilog=f"Not installed: {', '.join(missing)}. To install: {to_install('bench')}"
        if missing
        else None,
    )
    parser.add_argument(
        "--version", action="version", version=importlib.metadata.version("zsharp-jax")
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for command in (compare, study, train, prepare, sharpness, report, figures):
        command.add_parser(commands)
    return parser
