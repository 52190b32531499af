"""What `zsharp-bench` can be asked for: its commands and their options."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NoReturn

import zsharp_jax
from zsharp_jax.benchmark import draw, events, prepare, report, results, session
from zsharp_jax.benchmark.errors import RequestError, known
from zsharp_jax.benchmark.methods import ETA
from zsharp_jax.benchmark.results import Record
from zsharp_jax.benchmark.settings import DEFAULTS, OPTIMIZERS, RECIPES, Settings
from zsharp_jax.benchmark.study import STUDIED, study_markdown

PROGRAM = "zsharp-bench"
MOST_SEEDS = 1000
RHOS = (0.02, 0.05, 0.1)
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
    _add_methods(compare, COMPARED, seeds=3)
    compare.set_defaults(run=_compare, steps=None)

    study = commands.add_parser(
        "study",
        help="find out which part of the gain comes from the filter and which from the radius",
        description="Trains each method with several values of rho and several seeds. Writes one "
        "JSON per run, and study.md, which tells part by part what changes the accuracy.",
    )
    _add_common_options(study, but=["--rho"])  # has --rhos
    _add_epochs(study)
    _add_methods(study, STUDIED, seeds=5)
    study.add_argument(
        "--rhos", type=float, nargs="+", default=RHOS, metavar="X",
        help="values of rho for each method; for asam ten times as large with recipe reference "
        f"(default: {' '.join(map(str, RHOS))})",
    )  # fmt: skip
    study.set_defaults(run=_study, steps=None, rho=None)

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

    prepare.add_parser(commands)
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


def _add_methods(parser: argparse.ArgumentParser, methods: Sequence[str], seeds: int) -> None:
    parser.add_argument(
        "--methods", nargs="+", default=methods, metavar="METHOD",
        help=f"what to train, in this order (default: {' '.join(methods)})",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, default=seeds, metavar="N",
        help="how many seeds each method is trained with: 0 to N - 1 (default: %(default)s)",
    )  # fmt: skip


def _add_common_options(parser: argparse.ArgumentParser, but: Sequence[str] = ()) -> None:
    add = parser.add_argument
    add(
        "--dataset", default="digits", metavar="NAME",
        help=f"what to train on: {', '.join(DEFAULTS)} (default: digits, needs no download)",
    )  # fmt: skip
    prepare.add_origin_options(parser)
    add("--model", metavar="NAME", help=f"the network ({_per_dataset('model')})")
    add(
        "--train-images", type=int, metavar="N",
        help="train on the first N training images alone (default: all)",
    )  # fmt: skip
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"images per step ({_per_dataset('batch_size')})",
    )
    add(
        "--dtype", default="float32", metavar="NAME",
        help="what the network computes in: float32 or bfloat16 (default: %(default)s)",
    )  # fmt: skip
    add(
        "--quantile", type=float, default=0.95, metavar="Q",
        help="quantile of |z| that methods filter at (default: %(default)s)",
    )  # fmt: skip
    add(
        "--out", type=pathlib.Path, default=pathlib.Path("runs"), metavar="FOLDER",
        help="where results are written (default: %(default)s)",
    )  # fmt: skip
    add(
        "--checkpoint-every", type=int, metavar="N",
        help="keep a checkpoint after every N epochs, and after the last (default: only where "
        "SIGTERM ends the run)",
    )  # fmt: skip
    add(
        "--tensorboard", type=pathlib.Path, metavar="FOLDER",
        help="also write the curves there for TensorBoard, a folder per run (default: do not)",
    )  # fmt: skip
    add(
        "--resume", action="store_true",
        help="take runs that have finished from their files, and go on with one that was broken "
        "off from its newest checkpoint (default: train anew)",
    )  # fmt: skip
    _add_recipe(parser, but)


def _add_recipe(parser: argparse.ArgumentParser, but: Sequence[str]) -> None:
    parser.add_argument(
        "--recipe", default="paper", metavar="NAME",
        help="where the values below come from: paper, or reference, which is what the authors' "
        "code does (default: %(default)s)",
    )  # fmt: skip
    values = parser.add_argument_group("values of the recipe")
    for option, field, kind, meaning in _RECIPE_OPTIONS:
        if option in but:
            continue
        defaults = ", ".join(str(getattr(recipe, field)) for recipe in RECIPES.values())
        values.add_argument(
            option,
            dest=field,
            type=kind,
            metavar="NAME" if kind is str else "N" if kind is int else "X",
            help=f"{meaning} ({' and '.join(RECIPES)}: {defaults})",
        )

    add = values.add_argument
    add(
        "--crop-padding", type=int, metavar="N",
        help="pixels around an image before a random crop (paper and reference: 4, 4; digits: 1)",
    )  # fmt: skip
    add(
        "--flip", action=argparse.BooleanOptionalAction,
        help="mirror images at random (paper and reference: yes, yes; digits: no)",
    )  # fmt: skip
    add("--eta", type=float, metavar="X", help=f"eta of asam (paper and reference: {ETA}, {ETA})")


_RECIPE_OPTIONS: tuple[tuple[str, str, type, str], ...] = (
    (
        "--rho",
        "rho",
        float,
        "length of the perturbation, for all methods; reference has 0.5 for asam",
    ),
    ("--optimizer", "optimizer", str, f"{' or '.join(OPTIMIZERS)}"),
    ("--lr", "learning_rate", float, "learning rate after the warm-up"),
    ("--weight-decay", "weight_decay", float, "weight decay"),
    ("--decay-rate", "decay_rate", float, "factor of the learning rate every --decay-epochs"),
    ("--decay-epochs", "decay_epochs", int, "epochs between two decays"),
    ("--warmup-epochs", "warmup_epochs", int, "epochs over which the learning rate rises from 0"),
)


def _settings(options: argparse.Namespace, method: str, seed: int) -> Settings:
    defaults = DEFAULTS[known("dataset", options.dataset, DEFAULTS)]
    recipe = RECIPES[known("recipe", options.recipe, RECIPES)]
    asked = {field: getattr(options, field) for _, field, *_ in _RECIPE_OPTIONS}
    epochs = defaults.epochs if options.epochs is None else options.epochs
    return Settings(
        dataset=options.dataset,
        model=defaults.model if options.model is None else options.model,
        method=method,
        seed=seed,
        epochs=epochs if options.steps is None else None,
        batch_size=defaults.batch_size if options.batch_size is None else options.batch_size,
        steps=options.steps,
        train_images=options.train_images,
        dtype=options.dtype,
        quantile=options.quantile,
        recipe=options.recipe,
        crop_padding=options.crop_padding,
        flip=options.flip,
        eta=options.eta,
        **recipe.values(method)
        | {name: value for name, value in asked.items() if value is not None},
    )


def _compare(options: argparse.Namespace, command: list[str]) -> int:
    methods, seeds = _named_methods(options.methods), _checked_seeds(options.seeds)
    runs = [_settings(options, method, seed) for method in methods for seed in seeds]
    records = session.run(runs, _request(options, command))
    session.write_comparison(records, options.out)
    session.show_table(records)
    return _told(records, options.out, ", table.md, curves.png")


def _train(options: argparse.Namespace, command: list[str]) -> int:
    settings = _settings(options, options.method, options.seed)
    records = session.run([settings], _request(options, command))
    session.show_table(records)
    return _told(records, options.out)


def _study(options: argparse.Namespace, command: list[str]) -> int:
    methods, seeds = _named_methods(options.methods), _checked_seeds(options.seeds)
    runs = []
    for method in methods:
        like = [_settings(options, method, seed) for seed in seeds]
        unit = like[0].rho / RECIPES[options.recipe].rho  # asam may measure in other units
        scaled = dict.fromkeys(rho * unit for rho in options.rhos)
        rhos = [like[0].rho] if method == "adamw" else scaled
        runs += [dataclasses.replace(run, rho=rho) for rho in rhos for run in like]
    records = session.run(runs, _request(options, command))
    text = study_markdown(records, command)
    results.write_whole(options.out / "study.md", text.encode())
    print(text)
    return _told(records, options.out, ", study.md")


def _named_methods(names: Sequence[str]) -> list[str]:
    """The names, each once, whether they were given one by one or with commas."""
    methods = dict.fromkeys(name for part in names for name in part.split(",") if name)
    if not methods:
        raise RequestError("`methods` must name at least one method")
    return list(methods)


def _checked_seeds(seeds: int) -> range:
    if not 1 <= seeds <= MOST_SEEDS:
        raise RequestError(f"`seeds` must be at least 1 and at most {MOST_SEEDS}, got {seeds}")
    return range(seeds)


def _request(options: argparse.Namespace, command: list[str]) -> session.Request:
    every = options.checkpoint_every
    if every is not None and every < 1:
        raise RequestError(f"`checkpoint_every` must be at least 1, got {every}")
    if options.tensorboard is not None:
        events.check_installed()
    return session.Request(
        command,
        prepare.origin(options),
        options.out,
        checkpoint_every=every,
        resume=options.resume,
        tensorboard=options.tensorboard,
    )


def _told(records: Sequence[Record], folder: pathlib.Path, and_more: str = "") -> int:
    files = f"{len(records)} run file" + "s" * (len(records) > 1)
    print(f"Written to {folder}: {files}{and_more}")
    return 0 if all(record["status"] == "finished" for record in records) else 1
