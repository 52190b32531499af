"""The command `zsharp-bench train`: one method once."""

import argparse

from zsharp_jax.benchmark.commands.options import (
    add_common,
    add_epochs,
    list_names,
    request_of,
    settings_of,
    tell_written,
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "train",
        help="train one method once",
        description="Trains one method with one seed, and writes one run file (JSON).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=list_names(),
    )
    add_common(parser)
    length = parser.add_mutually_exclusive_group()
    add_epochs(length)
    parser.add_argument(
        "--method", default="zsharp", help="what to train: see the list below (default: zsharp)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed of the run (default: 0)")
    length.add_argument(
        "--steps", type=int, metavar="N", help="take N steps (default: as --epochs says)"
    )
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace, command: list[str]) -> int:
    from zsharp_jax.benchmark.reporting.comparison import show_table
    from zsharp_jax.benchmark.training import session

    settings = settings_of(options, options.method, options.seed)
    records = session.run([settings], request_of(options, command))
    show_table(records)
    return tell_written(records, options.out)
