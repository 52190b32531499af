"""The paper's tables 1 and 2 as Markdown, with what the paper reports beside what we found."""

import re
from collections.abc import Iterable, Sequence

from zsharp_jax.benchmark import paper
from zsharp_jax.benchmark.paper import Measure, Published
from zsharp_jax.benchmark.rows import Row, own_settings, shared_settings, told

_RESULTS = (
    "seeds", "test acc. %", "paper", "diff. / std",
    "clean loss", "sharp loss", "paper", "diff. / std", "‖ε‖",
)  # fmt: skip
_TABLE_1 = ("network", "method", "settings", *_RESULTS)
_TABLE_2 = ("method", "Q_p", "settings", *_RESULTS)
_THE_PAPERS = "the paper's"

NOTE = (
    "Mean ± sample std over seeds of what the last epoch ends with: accuracy on all test images; "
    "clean loss at w and sharp loss at w + ε on augmented training images; ‖ε‖, the mean length of "
    "the perturbation. Only runs that went to their end count, and only runs that differ in "
    "nothing but their seed share a row. *paper* is what the paper reports, set beside rows with "
    "the paper's settings alone (200 epochs, batch 256, learning rate 1e-3 times 0.75 every 10 "
    "epochs, weight decay 5e-5, rho 0.05, all training images); where there is no such row, it has "
    "one of its own, without a result of ours. *diff. / std* is ours less the paper's in units of "
    "the larger of both stds. The paper's train loss stands beside the sharp loss: that is the "
    "one the authors' code logs, except for AdamW, where both are the clean loss. The paper's "
    "ZSharp stands beside `zsharp`, which is what its text describes, and beside "
    "`zsharp_reference`, which is what the authors' code does."
)


def table_1(rows: Sequence[Row]) -> list[str]:
    """The lines of table 1: network, method and dataset, a section for each dataset."""
    lines = ["## Table 1: networks and methods", ""]
    for dataset in _distinct(row.dataset for row in rows):
        its_rows = [row for row in rows if row.dataset == dataset]
        shared = shared_settings(its_rows)
        lines += [f"### {dataset}", "", f"All of our rows: {told(shared) or 'nothing'}.", ""]
        lines += _header(_TABLE_1, words=3)
        for network in _networks(dataset, its_rows):
            for method in _methods(dataset, network, its_rows):
                of_cell = [row for row in its_rows if (row.model, row.method) == (network, method)]
                published = paper.published(dataset, network, method)
                for cells in _cell_rows(of_cell, shared, published, also_departing=set()):
                    lines.append(_line((network, method, *cells)))
        lines.append("")
    return lines


def table_2(rows: Sequence[Row]) -> list[str]:
    """The lines of table 2: Q_p, a section for each network and dataset that it was varied on."""
    lines = ["## Table 2: the quantile Q_p", ""]
    pairs = [pair for pair in _distinct((r.dataset, r.model) for r in rows) if _has_2(pair, rows)]
    for dataset, network in pairs:
        its_rows = [row for row in rows if (row.dataset, row.model) == (dataset, network)]
        methods = _methods(dataset, network, its_rows)
        its_rows = [row for row in its_rows if _is_in_table_2(row.method)]
        shared = shared_settings(its_rows)
        shared.pop("quantile", None)  # has a column of its own
        lines += [f"### {network} on {dataset}", ""]
        lines += [f"All of our rows: {told(shared) or 'nothing'}.", ""]
        lines += _header(_TABLE_2, words=3)
        for method in filter(_is_in_table_2, methods):
            of_method = [row for row in its_rows if row.method == method]
            lines += _quantile_lines(dataset, network, method, of_method, shared)
        lines.append("")
    return lines if pairs else [*lines, "No network was trained at more than one Q_p.", ""]


def _quantile_lines(
    dataset: str, network: str, method: str, rows: Sequence[Row], shared: dict
) -> list[str]:
    if not paper.is_filtered(method):
        published = paper.published(dataset, network, method)
        found = _cell_rows(rows, {**shared, "quantile": None}, published, also_departing=set())
        return [_line((method, "N/A", *cells)) for cells in found]
    lines = []
    quantiles = {row.settings.get("quantile") for row in rows}.union(paper.QUANTILES)
    for quantile in sorted((q for q in quantiles if isinstance(q, float)), reverse=True):
        found = _cell_rows(
            [row for row in rows if row.settings.get("quantile") == quantile],
            {**shared, "quantile": quantile},
            paper.published(dataset, network, method, quantile),
            also_departing={"quantile"},
        )
        lines += [_line((method, f"{quantile:.2f}".rstrip(), *cells)) for cells in found]
    return lines


def _has_2(pair: tuple[str, str], rows: Sequence[Row]) -> bool:
    """Whether the paper varies Q_p there, or we have."""
    dataset, network = pair
    if dataset == "cifar10" and network in paper.TABLE_2_NETWORKS:
        return True
    found = [r for r in rows if (r.dataset, r.model) == pair and paper.is_filtered(r.method)]
    return any(
        len({row.settings.get("quantile") for row in found if row.method == method}) > 1
        for method in {row.method for row in found}
    )


def _is_in_table_2(method: str) -> bool:
    return method in ("adamw", "sam") or paper.is_filtered(method)


def _networks(dataset: str, rows: Sequence[Row]) -> list[str]:
    """Those of the paper, then ours."""
    return _distinct(
        (*(paper.NETWORKS if dataset in paper.IMAGES else ()), *(r.model for r in rows))
    )


def _methods(dataset: str, network: str, rows: Sequence[Row]) -> list[str]:
    """Those of the paper, then ours."""
    reported = [m for m in paper.METHODS if paper.published(dataset, network, m)]
    return _distinct((*reported, *(row.method for row in rows if row.model == network)))


def _cell_rows(
    rows: Sequence[Row], shared: dict, published: Published | None, also_departing: set[str]
) -> list[tuple[str, ...]]:
    """Settings and results of each row of one cell, and of the paper where no row is like it."""
    like_paper = [row for row in rows if set(row.departures) <= also_departing]
    lines = []
    if published and not like_paper:
        lines.append((_THE_PAPERS, *_results(None, published)))
    for row in rows:
        beside = published if row in like_paper else None
        lines.append((told(own_settings(row, shared)), *_results(row, beside)))
    return lines


def _results(row: Row | None, published: Published | None) -> tuple[str, ...]:
    def found(curve: str) -> Measure | None:
        return row.measure(curve) if row else None

    accuracy, sharp = found("test_accuracy"), found("sharp_loss")
    norm = found("perturbation_norm")
    return (
        _seeds(row) if row else "0",
        _percent(accuracy),
        _percent(published and published.accuracy),
        difference(accuracy, published and published.accuracy),
        _loss(found("train_loss")),
        _loss(sharp),
        _loss(published and published.train_loss),
        difference(sharp, published and published.train_loss),
        "" if norm is None else f"{norm.mean:#.3g}" if norm.mean else "0",
    )


def difference(ours: Measure | None, theirs: Measure | None) -> str:
    """Ours less theirs in units of the larger std, as far as there is one."""
    if ours is None or theirs is None:
        return ""
    unit = max(ours.std or 0, theirs.std or 0)
    return f"{(ours.mean - theirs.mean) / unit:+.1f}" if unit else ""


def _seeds(row: Row) -> str:
    failed = sum(run.status == "failed" for run in row.others)
    short = len(row.others) - failed
    marks = [f"{n} {kind}" for n, kind in ((failed, "failed"), (short, "cut short")) if n]
    return f"{len(row.whole)} ({', '.join(marks)})" if marks else str(len(row.whole))


def _percent(measure: Measure | None) -> str:
    if measure is None:
        return ""
    std = "" if measure.std is None else f" ± {100 * measure.std:.2f}"
    return f"{100 * measure.mean:.2f}{std}"


def _loss(measure: Measure | None) -> str:
    if measure is None:
        return ""
    digits = ".4f" if max(measure.mean, measure.std or 0) < 1000 else ".3e"
    std = "" if measure.std is None else f" ± {measure.std:{digits}}"
    return f"{measure.mean:{digits}}{std}"


def _header(names: Sequence[str], words: int) -> list[str]:
    return [_line(names), _line(["---"] * words + ["---:"] * (len(names) - words))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _distinct(names: Iterable) -> list:
    return list(dict.fromkeys(names))


def escaped(text: str) -> str:
    """Text from outside, so that Markdown shows it as it is and in one line."""
    visible = "".join(c if c.isprintable() else "?" for c in text)
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", visible)
