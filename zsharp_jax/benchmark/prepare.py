"""The command `zsharp-bench prepare`, and the options that say where a dataset comes from."""

import argparse
import pathlib
from typing import Any

from zsharp_jax.benchmark.datasets.cache import Cache
from zsharp_jax.benchmark.datasets.catalog import SOURCES
from zsharp_jax.benchmark.datasets.obtain import Origin, obtain
from zsharp_jax.benchmark.errors import known


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the command to those of `zsharp-bench`."""
    parser = commands.add_parser(
        "prepare",
        help="fetch a dataset and prepare it for training",
        description="Makes the cache of a dataset that train and compare read: from a folder that "
        "tensorflow-datasets has prepared, from the official archive, or from the network.",
    )
    parser.add_argument(
        "--dataset", required=True, metavar="NAME", help=f"what to prepare: {', '.join(SOURCES)}"
    )
    add_origin_options(parser)
    parser.set_defaults(run=_prepare)


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
        "--timeout", type=float, default=Origin.timeout, metavar="SECONDS",
        help="how long a download waits for an answer (default: %(default)s)",
    )  # fmt: skip


def origin(options: argparse.Namespace) -> Origin:
    """Where the options say that a dataset may come from."""
    return Origin(options.data_dir, options.archive, options.verify, options.timeout)


def _prepare(options: argparse.Namespace, command: list[str]) -> int:
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


def _how_sure(cache: Cache) -> str:
    if not cache.meta["verified"]:
        return "not verified"
    if cache.meta["archive_sha256"] is None:  # somebody else's folder
        return "as many as there should be, their archive is not known"
    return "verified"
