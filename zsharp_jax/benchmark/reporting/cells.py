"""The cells of a table of results: means over seeds, the paper's figures, and how they differ."""

from zsharp_jax.benchmark.reporting.markdown import plain
from zsharp_jax.benchmark.reporting.paper import Measure, Published
from zsharp_jax.benchmark.reporting.rows import Row

SHARPNESS = ("λ_max", "trace")
RESULTS = (
    "seeds", "test acc. %", "paper", "diff. / std",
    "clean loss", "sharp loss", "paper", "diff. / std", "‖ε‖", *SHARPNESS,
)  # fmt: skip
BESIDE_PAPER = ("paper", "diff. / std")

NOTE_OF_SHARPNESS = (
    "λ_max and trace: largest eigenvalue and sum of all eigenvalues of the Hessian of the train "
    "loss at the last weights, on the first training images, without augmentation and with "
    "BatchNorm in evaluation mode; `sharpness.jsonl` tells how many. Sharpness is not "
    "generalisation (arXiv 2302.07011), and networks with other norms of their weights cannot be "
    "compared by it."
)


def results_of(row: Row | None, published: Published | None) -> tuple[str, ...]:
    """The cells under `RESULTS`, of a row of ours and of the paper, as far as there are any."""

    def found(curve: str) -> Measure | None:
        return row.measure(curve) if row else None

    accuracy, sharp = found("test_accuracy"), found("sharp_loss")
    norm = row.length() if row else None
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
        _sharpness(row and row.sharpness("lambda_max")),
        _sharpness(row and row.sharpness("trace")),
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


def _sharpness(measure: Measure | None) -> str:
    if measure is None:
        return ""
    std = "" if measure.std is None else f" ± {plain(measure.std)}"
    return f"{plain(measure.mean)}{std}"


def _loss(measure: Measure | None) -> str:
    if measure is None:
        return ""
    digits = ".4f" if max(measure.mean, measure.std or 0) < 1000 else ".3e"
    std = "" if measure.std is None else f" ± {measure.std:{digits}}"
    return f"{measure.mean:{digits}}{std}"
