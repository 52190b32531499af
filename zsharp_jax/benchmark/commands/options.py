"""The options that several commands have, and what they ask for."""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zsharp_jax.benchmark.datasets.catalog import TIMEOUT
from zsharp_jax.benchmark.errors import RequestError, known
from zsharp_jax.benchmark.runs.fields import Record
from zsharp_jax.benchmark.runs.methods import ETA, METHODS
from zsharp_jax.benchmark.runs.networks import NETWORKS
from zsharp_jax.benchmark.runs.settings import (
    DEFAULTS,
    OPTIMIZERS,
    RECIPES,
    Settings,
    recipe_values,
)

if TYPE_CHECKING:
    from zsharp_jax.benchmark.datasets.obtain import Origin
    from zsharp_jax.benchmark.training.trainer import Request

MOST_SEEDS = 1000
WIDTH = 79  # of descriptions, where argparse leaves lines as they are for the lists below


def add_origin_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `origin` reads."""
    parser.add_argument(
        "--data-dir", type=pathlib.Path, metavar="FOLDER",
        help="where prepared datasets lie (default: the environment variable TFDS_DATA_DIR, or "
        "~/tensorflow_datasets)",
    )  # fmt: skip
    parser.add_argument(
        "--archive", type=pathlib.Path, metavar="FILE",
        help="the official archive of the dataset, to prepare it from (default: the one in "
        "downloads/manual of the data folder, or else downloaded)",
    )  # fmt: skip
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false",
        help="accept an archive whose sha256 is not the official one (default: refuse it)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, metavar="SECONDS",
        help="how long a download waits for an answer (default: %(default)s)",
    )  # fmt: skip


def origin(options: argparse.Namespace) -> "Origin":
    """Where the options say that a dataset may come from."""
    from zsharp_jax.benchmark.datasets.obtain import Origin

    return Origin(options.data_dir, options.archive, options.verify, options.timeout)


def _per_dataset(field: str) -> str:
    defaults = {dataset: getattr(each, field) for dataset, each in DEFAULTS.items()}
    (other,) = {value for dataset, value in defaults.items() if dataset != "digits"}
    return f"default: {defaults['digits']} for digits, {other} for the others"


def add_epochs(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--epochs", type=int, metavar="N", help=f"passes over the data ({_per_dataset('epochs')})"
    )


def add_methods(parser: argparse.ArgumentParser, methods: Sequence[str], seeds: int) -> None:
    parser.add_argument(
        "--methods", nargs="+", default=methods, metavar="METHOD",
        help="what to train, in this order, or all: see the list below "
        f"(default: {' '.join(methods)})",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, default=seeds, metavar="N",
        help="how many seeds each method is trained with: 0 to N - 1 (default: %(default)s)",
    )  # fmt: skip


def add_at_once(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N",
        help="train up to N runs of a method that differ in seed and radius alone as one program, "
        "without checkpoints: far faster on a GPU if the network is small (default: 1)",
    )  # fmt: skip


def add_common(parser: argparse.ArgumentParser, but: Sequence[str] = ()) -> None:
    add = parser.add_argument
    add(
        "--dataset", default="digits", metavar="NAME",
        help=f"what to train on: {', '.join(DEFAULTS)} (default: digits, needs no download)",
    )  # fmt: skip
    add_origin_options(parser)
    add(
        "--model", metavar="NAME", help=f"the network: see the list below ({_per_dataset('model')})"
    )
    add(
        "--train-images", type=int, metavar="N",
        help="train only on the first N training images (default: all)",
    )  # fmt: skip
    add(
        "--label-noise", type=float, default=0.0, metavar="P",
        help="replace this part of the training labels by another class, drawn for each seed; "
        "labels to validate and test on stay right (default: 0)",
    )  # fmt: skip
    add(
        "--validation-images", type=int, metavar="N",
        help="hold out N training images, equally many of every class, drawn for each seed; they "
        "are looked at after every epoch, and the test images once, at the end (default: none)",
    )  # fmt: skip
    add(
        "--split-seed", action="store_true",
        help="split all 1,797 digits anew for each seed: three fifths to train on, a fifth to "
        "validate on and a fifth to test on, once, at the end (default: the fixed split, without "
        "validation images)",
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
        help="methods that filter leave out entries below this quantile of |z| "
        "(default: %(default)s)",
    )  # fmt: skip
    add(
        "--out", type=pathlib.Path, default=pathlib.Path("runs"), metavar="FOLDER",
        help="where results are written (default: %(default)s)",
    )  # fmt: skip
    add(
        "--checkpoint-every", type=int, metavar="N",
        help="keep a checkpoint after every N epochs, and after the last (default: only if "
        "SIGTERM or Ctrl-C ends the run while it trains)",
    )  # fmt: skip
    add(
        "--tensorboard", type=pathlib.Path, metavar="FOLDER",
        help="also write the curves there for TensorBoard, a folder per run (default: do not)",
    )  # fmt: skip
    add(
        "--keep-weights", action="store_true",
        help="keep the last weights of each run in weights/ beside its run file, for `sharpness` "
        "and `figures`; with --resume, finished runs without weights are trained again "
        "(default: do not)",
    )  # fmt: skip
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true",
        help="keep finished runs; go on with interrupted runs, and with runs that had fewer "
        "epochs, from their newest checkpoint (default: stop if there are runs already)",
    )  # fmt: skip
    again.add_argument(
        "--overwrite", action="store_true",
        help="remove runs that are there, and train them again (default: stop if there are any)",
    )  # fmt: skip
    _add_recipe(parser, but)


def _add_recipe(parser: argparse.ArgumentParser, but: Sequence[str]) -> None:
    parser.add_argument(
        "--recipe", default="paper", metavar="NAME",
        help="where the values below come from: paper is the paper's text, reference the authors' "
        "code (default: %(default)s)",
    )  # fmt: skip
    values = parser.add_argument_group("values of the recipe")
    for option, field, kind, meaning in _RECIPE_OPTIONS:
        if option in but:
            continue
        defaults = {name: getattr(recipe, field) for name, recipe in RECIPES.items()}
        each = ", ".join(f"{value} with {name}" for name, value in defaults.items())
        default = each if len(set(defaults.values())) > 1 else defaults["paper"]
        values.add_argument(
            option,
            dest=field,
            type=kind,
            metavar="NAME" if kind is str else "N" if kind is int else "X",
            help=f"{meaning} (default: {default})",
        )

    add = values.add_argument
    add(
        "--crop-padding", type=int, metavar="N",
        help="pixels around an image before a random crop (default: 1 for digits, 4 for the "
        "others)",
    )  # fmt: skip
    add(
        "--flip", action=argparse.BooleanOptionalAction,
        help="mirror images at random (default: no for digits, yes for the others)",
    )  # fmt: skip
    add("--eta", type=float, metavar="X", help=f"eta of asam (default: {ETA})")


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


def settings_of(options: argparse.Namespace, method: str, seed: int) -> Settings:
    defaults = DEFAULTS[known("dataset", options.dataset, DEFAULTS)]
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
        label_noise=options.label_noise,
        split_seed=options.split_seed,
        validation_images=options.validation_images,
        **recipe_values(options.recipe, method)
        | {name: value for name, value in asked.items() if value is not None},
    )


def named_methods(names: Sequence[str]) -> list[str]:
    """The names, each once, whether they were given one by one or with commas; `all`: all."""
    methods = dict.fromkeys(name for part in names for name in part.split(",") if name)
    for name in methods:
        known("method", name, (*METHODS, "all"))
    if "all" in methods:
        methods = METHODS
    if not methods:
        raise RequestError("`methods` must name at least one method")
    return list(methods)


def checked_seeds(seeds: int) -> range:
    if not 1 <= seeds <= MOST_SEEDS:
        raise RequestError(f"`seeds` must be at least 1 and at most {MOST_SEEDS}, got {seeds}")
    return range(seeds)


def request_of(
    options: argparse.Namespace,
    command: list[str],
    tables: Sequence[str] = (),
    *,
    one_plan: bool = False,
    budget: float | None = None,
) -> "Request":
    """How the options say that runs are carried out; `tables` are made of all of them."""
    from zsharp_jax.benchmark.training import events
    from zsharp_jax.benchmark.training.trainer import Request

    every = options.checkpoint_every
    if every is not None and every < 1:
        raise RequestError(f"`checkpoint_every` must be at least 1, got {every}")
    at_once = getattr(options, "at_once", 1)
    if at_once < 1:
        raise RequestError(f"`at_once` must be at least 1, got {at_once}")
    if at_once > 1 and every is not None:
        raise RequestError(
            f"`checkpoint_every` must be left out where runs are trained at once, got {every}: "
            "they keep no checkpoints; what has finished is kept, and --resume goes on from there"
        )
    if options.tensorboard is not None:
        events.check_installed()
    return Request(
        command,
        origin(options),
        options.out,
        checkpoint_every=every,
        resume=options.resume,
        overwrite=options.overwrite,
        keep_weights=options.keep_weights,
        tensorboard=options.tensorboard,
        tables=tables,
        one_plan=one_plan,
        budget=budget,
        at_once=at_once,
    )


def tell_written(records: Sequence[Record], folder: pathlib.Path, and_more: str = "") -> int:
    files = f"{len(records)} run file" + "s" * (len(records) > 1)
    print(f"Written to {folder}: {files}{and_more}")
    return 0 if all(record["status"] == "finished" for record in records) else 1


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds the option that allows to write over what is there."""
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace files that are there already (default: stop if there are any)",
    )  # fmt: skip


def list_names() -> str:
    """All methods and networks with a line each, for the end of a help."""
    lines = ["methods:"]
    lines += [f"  {name:18}{method.about}" for name, method in METHODS.items()]
    lines += ["", "networks:"]
    lines += [f"  {name:18}{about}" for name, about in NETWORKS.items()]
    return "\n".join(lines)


def tell_skipped(problems: Sequence[str]) -> None:
    """Says in a line each which files were skipped, and why."""
    for problem in problems:
        visible = "".join(c if c.isprintable() else "?" for c in problem)
        print(f"zsharp-bench: skipped {visible}", file=sys.stderr, flush=True)
