"""The command `zsharp-bench prepare`: makes the cache of a dataset."""

import argparse
from typing import TYPE_CHECKING, Any

from zsharp_jax.benchmark.commands.options import add_origin_options, origin
from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.benchmark.errors import known

if TYPE_CHECKING:
    from zsharp_jax.benchmark.datasets.cache import Cache


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "prepare",
        help="fetch a dataset and prepare it for training",
        description="Makes the cache of a dataset that train, compare and study read: from a "
        "folder that tensorflow-datasets has prepared, from the official archive, or from the "
        "network.",
    )
    parser.add_argument(
        "--dataset", required=True, metavar="NAME", help=f"what to prepare: {', '.join(SOURCES)}"
    )
    add_origin_options(parser)
    parser.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace, command: list[str]) -> int:
    from zsharp_jax.benchmark.datasets.obtain import obtain

    del command
    source = SOURCES[known("dataset", options.dataset, SOURCES)]
    cache = obtain(source, origin(options))
    height, width, _ = source.image_shape
    counts = cache.meta["counts"]
    print(
        f"{source.name}: {counts['train']} train and {counts['test']} test images of "
        f"{height} x {width} pixels from {cache.meta['source']} ({_how_sure(cache)})\n"
        f"Cache: {cache.folder}"
    )
    return 0


def _how_sure(cache: "Cache") -> str:
    if not cache.meta["verified"]:
        return "not verified"
    if cache.meta["archive_sha256"] is None:  # somebody else's folder
        return "as many as there should be, their archive is not known"
    return "verified"
