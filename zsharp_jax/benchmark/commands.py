"""What `zsharp-bench` can be asked for: its commands and their options."""

import argparse
import dataclasses
import pathlib
from typing import NoReturn

import zsharp_jax
from zsharp_jax.benchmark import draw, report, session
from zsharp_jax.benchmark.errors import RequestError, known
from zsharp_jax.benchmark.settings import DEFAULTS, Settings

PROGRAM = "zsharp-bench"
MOST_SEEDS = 1000
COMPARED = ("adamw", "sam", "asam", "friendly_sam", "zsharp", "zsharp_reference")


def execute(arguments: list[str]) -> int:
    """Carries out what the arguments ask for and returns the exit code."""
    options = _parser().parse_args(arguments)
    return options.run(options, [PROGRAM, *arguments])


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no option for another that begins alike."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Trains sharpness-aware methods and compares them.")
    parser.add_argument("--version", action="version", version=zsharp_jax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    compare = commands.add_parser(
        "compare",
        help="train several methods with several seeds; write a table and a picture",
        description="Trains several methods with several seeds each. Writes one JSON per run, "
        "table.md and curves.png.",
    )
    _add_common_options(compare)
    _add_epochs(compare)
    compare.add_argument(
        "--methods", nargs="+", default=COMPARED, metavar="METHOD",
        help=f"what to compare, in this order (default: {' '.join(COMPARED)})",
    )  # fmt: skip
    compare.add_argument(
        "--seeds", type=int, default=3, metavar="N",
        help="how many seeds each method is trained with: 0 to N - 1 (default: 3)",
    )  # fmt: skip
    compare.set_defaults(run=_compare, steps=None)

    train = commands.add_parser(
        "train",
        help="train one method once",
        description="Trains one method once; writes its JSON.",
    )
    _add_common_options(train)
    length = train.add_mutually_exclusive_group()
    _add_epochs(length)
    train.add_argument("--method", default="zsharp", help="what to train (default: zsharp)")
    train.add_argument("--seed", type=int, default=0, help="the seed (default: 0)")
    length.add_argument(
        "--steps", type=int, metavar="N", help="take N steps (default: as --epochs says)"
    )
    train.set_defaults(run=_train)

    report.add_parser(commands)
    draw.add_parser(commands)
    return parser


def _per_dataset(field: str) -> str:
    values = (f"{getattr(value, field)} for {name}" for name, value in DEFAULTS.items())
    return f"default: {', '.join(values)}"


def _add_epochs(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--epochs", type=int, metavar="N", help=f"passes over the data ({_per_dataset('epochs')})"
    )


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    paper = {field.name: field.default for field in dataclasses.fields(Settings)}
    add = parser.add_argument
    add(
        "--dataset", default="digits", metavar="NAME",
        help=f"what to train on: {' or '.join(DEFAULTS)} (default: digits, needs no download)",
    )  # fmt: skip
    add(
        "--archive", type=pathlib.Path, metavar="FILE",
        help="the official archive cifar-10-binary.tar.gz, for cifar10 (default: none)",
    )  # fmt: skip
    add(
        "--no-verify", dest="verify", action="store_false",
        help="accept an archive whose sha256 is not the official one (default: refuse it)",
    )  # fmt: skip
    add("--model", metavar="NAME", help=f"the network ({_per_dataset('model')})")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"images per step ({_per_dataset('batch_size')})",
    )
    add(
        "--rho", type=float, default=paper["rho"],
        help="length of the perturbation, for all methods (default: %(default)s)",
    )  # fmt: skip
    add(
        "--quantile", type=float, default=paper["quantile"], metavar="Q",
        help="quantile of |z| that zsharp and zsharp_reference filter at (default: %(default)s)",
    )  # fmt: skip
    add(
        "--lr", type=float, default=paper["learning_rate"], metavar="RATE",
        help="learning rate of AdamW at the start (default: %(default)s)",
    )  # fmt: skip
    add(
        "--out", type=pathlib.Path, default=pathlib.Path("runs"), metavar="FOLDER",
        help="where results are written (default: %(default)s)",
    )  # fmt: skip


def _settings(options: argparse.Namespace, method: str, seed: int) -> Settings:
    defaults = DEFAULTS[known("dataset", options.dataset, DEFAULTS)]
    epochs = defaults.epochs if options.epochs is None else options.epochs
    return Settings(
        dataset=options.dataset,
        model=defaults.model if options.model is None else options.model,
        method=method,
        seed=seed,
        epochs=epochs if options.steps is None else None,
        batch_size=defaults.batch_size if options.batch_size is None else options.batch_size,
        steps=options.steps,
        rho=options.rho,
        quantile=options.quantile,
        learning_rate=options.lr,
    )


def _compare(options: argparse.Namespace, command: list[str]) -> int:
    if not 1 <= options.seeds <= MOST_SEEDS:
        raise RequestError(
            f"`seeds` must be at least 1 and at most {MOST_SEEDS}, got {options.seeds}"
        )
    methods = dict.fromkeys(name for part in options.methods for name in part.split(",") if name)
    if not methods:
        raise RequestError("`methods` must name at least one method")
    runs = [
        [_settings(options, method, seed) for seed in range(options.seeds)] for method in methods
    ]
    return _run(options, command, runs, compares=True)


def _train(options: argparse.Namespace, command: list[str]) -> int:
    runs = [[_settings(options, options.method, options.seed)]]
    return _run(options, command, runs, compares=False)


def _run(
    options: argparse.Namespace, command: list[str], runs: list[list[Settings]], compares: bool
) -> int:
    records = session.run(runs, command, options.archive, options.verify, options.out)
    files = f"{len(records)} run file" + "s" * (len(records) > 1)
    if compares:
        session.write_comparison(records, options.out)
        files += ", table.md, curves.png"
    session.show_table(records)
    print(f"Written to {options.out}: {files}")
    return 0 if all(record["status"] == "finished" for record in records) else 1
