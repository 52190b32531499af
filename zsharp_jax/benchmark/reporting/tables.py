"""The paper's tables 1 and 2 as Markdown, with what the paper reports beside what we found."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from zsharp_jax.benchmark.reporting import paper
from zsharp_jax.benchmark.reporting.cells import (
    BESIDE_PAPER,
    NOTE_OF_SHARPNESS,
    RESULTS,
    SHARPNESS,
    results_of,
)
from zsharp_jax.benchmark.reporting.markdown import markdown_lines
from zsharp_jax.benchmark.reporting.paper import Published
from zsharp_jax.benchmark.reporting.rows import Row, own_settings, shared_settings, told
from zsharp_jax.benchmark.runs.fields import Value
from zsharp_jax.benchmark.runs.methods import METHODS, filters

_TABLE_1 = ("network", "method", "settings", *RESULTS)
_TABLE_2 = ("method", "Q_p", "settings", *RESULTS)
_WORDS = 3  # columns to the left
_THE_PAPERS = "the paper's"

Settings = Mapping[str, Value]

_NOTES = (
    "Mean ± sample std over seeds of what the last epoch ends with: accuracy on all test images; "
    "clean loss at w and sharp loss at w + ε on augmented training images; ‖ε‖, the mean length of "
    "the perturbation at the steps that have one.",
    "Runs share a row where nothing but their seed differs. Those that failed or were cut short "
    "are counted in brackets and are in no average.",
    "*paper* stands beside rows with the paper's settings alone: 200 epochs, batch 256, learning "
    "rate 1e-3 times 0.75 every 10 epochs, weight decay 5e-5, rho 0.05, all training images. Where "
    "we have no such row, it has one of its own, with our cells empty. What of its tables has no "
    "run at all is left out unless `--whole-tables` asks for it.",
    "*diff. / std* is ours less the paper's, in units of the larger of both stds.",
    "The paper's train loss stands beside the sharp loss, which is what the authors' code logs for "
    "all methods but AdamW, where both are the clean loss.",
    "The paper's ZSharp stands beside `zsharp`, which is what its text describes, and beside "
    "`zsharp_reference`, which is what the authors' code does.",
)


_NOTE_OF_ONE_PASS = (
    "Methods of one pass a step ({}) take no loss at w, so their clean loss is the sharp loss."
)


def notes(rows: Sequence[Row]) -> list[str]:
    """How to read the tables of these rows."""
    found = {row.method for row in rows} & set(METHODS)
    of_one_pass = [name for name in METHODS if name in found and METHODS[name].step.get("one_pass")]
    more = [_NOTE_OF_ONE_PASS.format(", ".join(of_one_pass))] if of_one_pass else []
    if any(row.sharpness("trace") for row in rows):
        more.append(NOTE_OF_SHARPNESS)
    return [*_NOTES, *more]


def table_1(rows: Sequence[Row], whole: bool) -> list[str]:
    """The lines of table 1: network, method and dataset, a section for each dataset.

    Args:
        rows: What we have.
        whole: Whether networks and methods of the paper have rows without a run, too.
    """
    lines = ["## Table 1: networks and methods", ""]
    for dataset in _distinct(row.dataset for row in rows):
        its_rows = [row for row in rows if row.dataset == dataset]
        shared = shared_settings(its_rows)
        table = [
            (network, method, *cells)
            for network in _networks(dataset, its_rows, whole)
            for method in _methods(dataset, network, its_rows, whole)
            for cells in _cell_rows(
                method,
                [row for row in its_rows if (row.model, row.method) == (network, method)],
                shared,
                paper.published(dataset, network, method),
            )
        ]
        lines += [f"### {dataset}", "", _in_all_rows(shared), "", *_table(_TABLE_1, table), ""]
    return [*lines, *_not_trained(rows)]


def _not_trained(rows: Sequence[Row]) -> list[str]:
    """Names those of the paper's datasets that have no section, where others have one."""
    trained = {row.dataset for row in rows}
    missing = [dataset for dataset in paper.IMAGES if dataset not in trained]
    if not missing or len(missing) == len(paper.IMAGES):
        return []
    return [f"The paper's other datasets have no run here: {', '.join(missing)}.", ""]


def table_2(rows: Sequence[Row], whole: bool) -> list[str]:
    """The lines of table 2: Q_p, a section for each network and dataset that it was varied on.

    Args:
        rows: What we have.
        whole: Whether methods and quantiles of the paper have rows without a run, too.
    """
    lines = ["## Table 2: the quantile Q_p", ""]
    pairs = [pair for pair in _distinct((r.dataset, r.model) for r in rows) if _has_2(pair, rows)]
    for dataset, network in pairs:
        its_rows = [
            row
            for row in rows
            if (row.dataset, row.model) == (dataset, network) and _is_in_table_2(row.method)
        ]
        shared = shared_settings(its_rows)
        shared.pop("quantile", None)  # has a column of its own
        table = [
            (method, *cells)
            for method in _methods(dataset, network, its_rows, whole)
            if _is_in_table_2(method)
            for cells in _quantile_rows(
                dataset,
                network,
                method,
                [row for row in its_rows if row.method == method],
                shared,
                quantiles=paper.QUANTILES if whole else (),
            )
        ]
        lines += [f"### {network} on {dataset}", "", _in_all_rows(shared), ""]
        lines += [*_table(_TABLE_2, table), ""]
    return lines if pairs else [*lines, "No network was trained at more than one Q_p.", ""]


def _in_all_rows(shared: Settings) -> str:
    return f"All of our rows: {told(shared)}." if shared else "No setting is that of all our rows."


def _quantile_rows(
    dataset: str,
    network: str,
    method: str,
    rows: Sequence[Row],
    shared: Settings,
    *,
    quantiles: Sequence[float],
) -> Iterator[tuple[str, ...]]:
    """Q_p, settings and results of each row of one method, at our quantiles and at these."""
    if not filters(method):
        if rows and "quantile" in shared_settings(rows):  # has no use for it
            shared = {**shared, "quantile": None}
        for cells in _cell_rows(method, rows, shared, paper.published(dataset, network, method)):
            yield ("N/A", *cells)
        return
    own = {_number(row.settings.get("quantile")) for row in rows}
    wanted = quantiles if method == "zsharp" or len(own) > 1 else ()
    for quantile in sorted(own.union(wanted), reverse=True):
        found = _cell_rows(
            method,
            [row for row in rows if _number(row.settings.get("quantile")) == quantile],
            {**shared, "quantile": quantile},
            paper.published(dataset, network, method, quantile),
            departing={"quantile"},
        )
        for cells in found or [("", *results_of(None, None))]:
            yield (_told_quantile(quantile), *cells)


def _number(quantile: Value) -> float:
    """Q_p, or -1 where a file has none that is a number."""
    if isinstance(quantile, bool) or not isinstance(quantile, int | float):
        return -1.0
    return float(quantile)


def _told_quantile(quantile: float) -> str:
    if quantile < 0:
        return "not given"
    return f"{quantile:.2f}" if round(quantile, 2) == quantile else f"{quantile}"


def _has_2(pair: tuple[str, str], rows: Sequence[Row]) -> bool:
    """Whether the paper varies Q_p there, or we have."""
    dataset, network = pair
    if dataset == "cifar10" and network in paper.TABLE_2_NETWORKS:
        return True
    found = [r for r in rows if (r.dataset, r.model) == pair and filters(r.method)]
    return any(
        len({row.settings.get("quantile") for row in found if row.method == method}) > 1
        for method in {row.method for row in found}
    )


def _is_in_table_2(method: str) -> bool:
    return method in ("adamw", "sam") or filters(method)


def _networks(dataset: str, rows: Sequence[Row], whole: bool) -> list[str]:
    """Those of the paper, if they are wanted, then ours."""
    reported = paper.NETWORKS if whole and dataset in paper.IMAGES else ()
    return _distinct((*reported, *(row.model for row in rows)))


def _methods(dataset: str, network: str, rows: Sequence[Row], whole: bool) -> list[str]:
    """Those of the paper, if they are wanted, then ours."""
    reported = [m for m in paper.METHODS if whole and paper.published(dataset, network, m)]
    return _distinct((*reported, *(row.method for row in rows if row.model == network)))


def _cell_rows(
    method: str,
    rows: Sequence[Row],
    shared: Settings,
    published: Published | None,
    departing: Collection[str] = (),
) -> list[tuple[str, ...]]:
    """Settings and results of each row of one cell, and of the paper where no row is like it.

    Args:
        method: What the cell is about.
        rows: What we have of it.
        shared: The settings that need not be told.
        published: What the paper has of it.
        departing: Settings that may depart from the paper's, since the cell is about them.
    """
    like_paper = [row for row in rows if set(row.departures) <= set(departing)]
    lines = []
    if published and not like_paper and method in paper.METHODS:
        lines.append((_THE_PAPERS, *results_of(None, published)))
    for row in rows:
        beside = published if row in like_paper else None
        lines.append((told(own_settings(row, shared)), *results_of(row, beside)))
    return lines


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table.

    It has no columns of the paper where the paper has nothing to say, and none of the sharpness
    where it was not measured.
    """
    for some in (BESIDE_PAPER, SHARPNESS):
        places = [i for i, name in enumerate(names) if name in some]
        if not any(row[i] for row in rows for i in places):
            names = [name for i, name in enumerate(names) if i not in places]
            rows = [[cell for i, cell in enumerate(row) if i not in places] for row in rows]
    return markdown_lines(names, rows, _WORDS)


def _distinct(names: Iterable) -> list:
    return list(dict.fromkeys(names))
