"""The command `zsharp-bench study`: each method at several radii, with several seeds."""

import argparse
import dataclasses
import itertools
import textwrap
from collections.abc import Iterator, Sequence

from zsharp_jax.benchmark.commands.durations import seconds_of
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
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.reporting.study_files import STUDY_FILES, write_study
from zsharp_jax.benchmark.runs.methods import METHODS
from zsharp_jax.benchmark.runs.settings import RECIPES, Settings

RHOS = (0.02, 0.05, 0.1)
STUDIED = (
    "adamw",
    "sam",
    "asam",
    "friendly_sam",
    "zsharp",
    "zsharp_reference",
    "sam_matched",
    "sam_layerwise",
    "zsharp_matched",
    "zsharp_global",
    "zsharp_random",
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "study",
        help="find out which part of the gain comes from the filter and which from the radius",
        description=textwrap.fill(
            "Trains each method with several radii and several seeds. A seed fixes the split, the "
            "wrong labels, the initial weights and the order of the images for all methods. Writes "
            "runs.jsonl, a line per run, study.md, which compares methods seed by seed, and "
            "pictures: the accuracy against the length of the perturbation, and what each method "
            "gains over adamw.",
            WIDTH,
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=list_names(),
    )
    add_common(parser, but=["--rho"])  # has --rhos
    add_epochs(parser)
    add_methods(parser, STUDIED, seeds=5)
    add_at_once(parser)
    radii = parser.add_mutually_exclusive_group()
    radii.add_argument(
        "--rhos", type=float, nargs="+", default=RHOS, metavar="X",
        help="values of rho for each method; for asam ten times as large with recipe reference "
        f"(default: {' '.join(map(str, RHOS))})",
    )  # fmt: skip
    radii.add_argument(
        "--epsilons", type=float, nargs="+", metavar="X",
        help="lengths of the perturbation, the same for each method: methods that scale each of K "
        "tensors to rho get this length divided by the square root of K; asam and unified_sam take "
        "it as rho, for their length depends on weights or gradients "
        "(default: as --rhos says)",
    )  # fmt: skip
    parser.add_argument(
        "--quantiles", type=float, nargs="+", metavar="Q",
        help="several values of --quantile, which it replaces, for each method that filters "
        "(default: that of --quantile)",
    )  # fmt: skip
    parser.add_argument(
        "--budget", metavar="TIME",
        help="stop after this time, for example 90m, 1h30m or 45s, write the tables of what there "
        "is, and say how to go on; seeds come one after the other, or with --at-once in groups, "
        "each with all methods and radii "
        "(default: until all runs are over)",
    )  # fmt: skip
    parser.set_defaults(run=_study, steps=None, rho=None)


def _study(options: argparse.Namespace, command: list[str]) -> int:
    from zsharp_jax.benchmark.training import interrupts, session

    _check(options)
    budget = None if options.budget is None else seconds_of("budget", options.budget)
    runs = list(_runs(options))
    request = request_of(options, command, STUDY_FILES, one_plan=True, budget=budget)
    try:
        records = session.run(runs, request)
    except interrupts.Terminated as stop:
        if finished := [record for record in stop.records if record["status"] == "finished"]:
            write_study(finished, options.out, command)
        raise
    written = write_study(records, options.out, command)
    return tell_written(records, options.out, f", {', '.join(written)}")


def _check(options: argparse.Namespace) -> None:
    """Refuses radii and quantiles by the names that they have here."""
    from zsharp_jax._checks import checked_nonnegative, checked_quantile  # imports JAX

    try:
        for name in ("rhos", "epsilons"):
            for value in getattr(options, name) or ():
                checked_nonnegative(name, value)
        for value in options.quantiles or ():
            checked_quantile(value, "quantiles")
    except ValueError as error:
        raise RequestError(str(error).rstrip(".")) from None


def _runs(options: argparse.Namespace) -> Iterator[Settings]:
    """All runs, seed by seed, so that a study that is cut off has the same seeds of all methods.

    Where runs are trained at once, so many seeds are taken together as fit with all their radii.
    """
    methods, seeds = named_methods(options.methods), checked_seeds(options.seeds)
    first = [settings_of(options, method, seeds[0]) for method in methods]
    radii = {like: _rhos(options, like) for like in first}
    together = max(1, options.at_once // max(map(len, radii.values())))
    for begin in range(0, len(seeds), together):
        for like in first:
            quantiles = [like.quantile]
            if METHODS[like.method].filters and options.quantiles:
                quantiles = dict.fromkeys(options.quantiles)
            for quantile, seed in itertools.product(quantiles, seeds[begin : begin + together]):
                for rho in radii[like]:
                    yield dataclasses.replace(like, quantile=quantile, seed=seed, rho=rho)


def _rhos(options: argparse.Namespace, like: Settings) -> Sequence[float]:
    """The values of rho that a method is trained with."""
    method = METHODS[like.method]
    if not method.perturbs:
        return [like.rho]
    if options.epsilons is None:
        unit = like.rho / RECIPES[like.recipe].rho  # asam may measure in other units
        return list(dict.fromkeys(rho * unit for rho in options.rhos))
    from zsharp_jax.benchmark.training.tensors import tensors_of

    times_rho = method.length(tensors_of(like.model, like.dataset))
    return list(dict.fromkeys(length / times_rho for length in options.epsilons))
