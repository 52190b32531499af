"""The command `zsharp-bench compare`: several methods, several seeds, a table and a picture."""

import argparse
import textwrap

from zsharp_jax.benchmark.commands.options import (
    WIDTH,
    add_at_once,
    add_common,
    add_epochs,
    add_methods,
    checked_seeds,
    list_names,
    named_methods,
    request_of,
    settings_of,
    tell_written,
)
from zsharp_jax.benchmark.reporting.kinds import picture_files

FILES = ("table.md", *picture_files("curves"))
COMPARED = ("adamw", "sam", "asam", "friendly_sam", "zsharp", "zsharp_reference")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "compare",
        help="train several methods with several seeds; write a table and a picture",
        description=textwrap.fill(
            "Trains several methods with several seeds each. Writes runs.jsonl, a line per run, "
            f"{', '.join(FILES)}.",
            WIDTH,
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=list_names(),
    )
    add_common(parser)
    add_epochs(parser)
    add_methods(parser, COMPARED, seeds=3)
    add_at_once(parser)
    parser.set_defaults(run=_compare, steps=None)


def _compare(options: argparse.Namespace, command: list[str]) -> int:
    from zsharp_jax.benchmark.reporting.comparison import show_table, write_comparison
    from zsharp_jax.benchmark.training import session

    methods, seeds = named_methods(options.methods), checked_seeds(options.seeds)
    runs = [settings_of(options, method, seed) for method in methods for seed in seeds]
    records = session.run(runs, request_of(options, command, FILES))
    write_comparison(records, options.out)
    show_table(records)
    return tell_written(records, options.out, f", {', '.join(FILES)}")
