"""The cells of a table of results: means over seeds, the paper's figures, and how they differ."""

import re

from zsharp_jax.benchmark.paper import Measure, Published
from zsharp_jax.benchmark.rows import Row

RESULTS = (
    "seeds", "test acc. %", "paper", "diff. / std",
    "clean loss", "sharp loss", "paper", "diff. / std", "‖ε‖",
)  # fmt: skip
BESIDE_PAPER = ("paper", "diff. / std")


def results_of(row: Row | None, published: Published | None) -> tuple[str, ...]:
    """The cells under `RESULTS`, of a row of ours and of the paper, as far as there are any."""

    def found(curve: str) -> Measure | None:
        return row.measure(curve) if row else None

    accuracy, sharp = found("test_accuracy"), found("sharp_loss")
    norm = found("perturbation_norm")
    return (
        _seeds(row) if row else "",
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


def escaped(text: str) -> str:
    """Text from outside, so that Markdown shows it as it is and in one line."""
    visible = "".join(c if c.isprintable() else "?" for c in text)
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", visible)
