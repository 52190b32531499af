"""The report of a study: is it the filter or the radius?

Every method is trained at several radii, so that it is judged at its best, and with the same seeds,
so that two methods are compared seed by seed.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from zsharp_jax.benchmark.reporting import questions
from zsharp_jax.benchmark.reporting.cells import NOTE_OF_SHARPNESS, SHARPNESS
from zsharp_jax.benchmark.reporting.contrasts import Contrast, Difference, difference, holm
from zsharp_jax.benchmark.reporting.markdown import markdown_lines, plain, short
from zsharp_jax.benchmark.reporting.parts import part_lines
from zsharp_jax.benchmark.reporting.provenance import devices_told, settings_told, versions_told
from zsharp_jax.benchmark.reporting.study_cells import Cell, best, cells_of, judged_on
from zsharp_jax.benchmark.runs.fields import Record
from zsharp_jax.benchmark.runs.methods import METHODS

_HEADER = ("what", "compared", "with", "‖ε‖", "n", "points", "95 % interval", "p", "p (Holm)")
_SECTIONS = (
    (
        "At equal length of ε",
        questions.at_equal_length,
        "Measured lengths that differ by less than 10 % count as equal.",
    ),
    (
        "Other quantiles at equal length of ε",
        questions.at_other_quantiles,
        "Each quantile against the lowest of the same method.",
    ),
    (
        "Each at its best radius",
        questions.each_at_its_best,
        "If a method only changed how far ε goes, its best would be SAM's, at another ‖ε‖.",
    ),
    (
        "When ε is far too long",
        questions.where_too_long,
        "What SAM loses from its best radius to the longest that both have, less what the method "
        "loses: above 0 where the method bears a long ε better.",
    ),
)


def study_markdown(
    records: Sequence[Record], command: Sequence[str], pictures: Mapping[str, str] | None = None
) -> str:
    """The tables of a study.

    Args:
        records: Run files of one dataset and network.
        command: What asked for them last; with `--resume` older ones may have had another.
        pictures: What each picture beside the tables shows, and the name of its PNG without `.png`.
    """
    settings, cells = records[0]["settings"], cells_of(records)
    return "\n".join([
        f"# What earns the gain: {settings['dataset']}, {settings['model']}",
        "",
        f"`{shlex.join(command)}`",
        "",
        f"Settings: {settings_told(records, but=['rho'])}.",
        "",
        f"Device: {devices_told(records)}; {versions_told(records)}.",
        "",
        *_shown(pictures or {}),
        "## Every method with every radius",
        "",
        *_all_rows(cells),
        "",
        _about(cells),
        *(["", NOTE_OF_SHARPNESS] if _has_sharpness(cells) else []),
        "",
        *_contrast_lines(cells),
        *(part_lines(cells) if judged_on(cells) == "test" else []),
    ])  # fmt: skip


def _shown(pictures: Mapping[str, str]) -> list[str]:
    return [line for about, file in pictures.items() for line in (f"![{about}]({file}.png)", "")]


def _about(cells: Sequence[Cell]) -> str:
    where = "the validation images; test images were looked at once, at the end"
    if judged_on(cells) == "test":
        where = "the test set, so its accuracy is optimistic by about as much for each method"
    return (
        "Accuracy on all test images after the last epoch, mean ± sample std over seeds. Losses "
        "are means over the last epoch on training images, with the labels and the augmentation "
        "that they were trained with, at w (clean) and at w + ε (sharp). ‖ε‖ is measured: its mean "
        "over the last epoch (of looksam, sam_late and zsharp_late, which do not have it at "
        "every step, it is rho). Best epoch "
        "and ECE (expected calibration error of the test images, 15 bins) are known of runs with "
        "validation images; the epoch is the one with the best validation accuracy. Passes are "
        "those over a batch that a step takes. The method's best radius is marked: it was chosen "
        f"on {where}."
    )


def _all_rows(cells: Sequence[Cell]) -> list[str]:
    is_held_out = judged_on(cells) == "validation"
    own = ("val. acc. %", "best epoch", "ECE") if is_held_out else ()
    header = ("method", "passes", "rho", "‖ε‖", "seeds", "test acc. %", *own,
              "clean loss", "sharp loss", "test loss",
              *(SHARPNESS if _has_sharpness(cells) else ()))  # fmt: skip
    best_of = {cell.name: best(cells, cell.name) for cell in cells}
    rows = []
    for cell in cells:
        seeds = str(len(cell.finals))
        if cell.unfinished:
            seeds += f"/{len(cell.finals) + cell.unfinished}"
        passes = f"{METHODS[cell.method].passes:g}" if cell.method in METHODS else ""
        row = [cell.name, passes, "" if cell.rho is None else f"{cell.rho:.4g}"]
        if not cell.finals:
            rows.append([*row, "", seeds, *[""] * (len(header) - len(row) - 2)])
            continue
        mark = " *" if cell is best_of[cell.name] and cell.rho is not None else ""
        row += [short(cell.length), seeds]
        row.append(_percent(cell, "test_accuracy") + mark)
        if is_held_out:
            row += [_percent(cell, "validation_accuracy"), f"{cell.mean('best_epoch'):.1f}"]
            row.append(f"{cell.mean('calibration_error'):.3f}")
        row += [short(cell.mean(loss)) for loss in ("train_loss", "sharp_loss", "test_loss")]
        if _has_sharpness(cells):
            row += [plain(cell.mean(measure)) for measure in ("lambda_max", "trace")]
        rows.append(row)
    return markdown_lines(header, rows)


def _has_sharpness(cells: Sequence[Cell]) -> bool:
    finals = [final for cell in cells for final in cell.finals.values()]
    return bool(finals) and all("trace" in final for final in finals)


def _percent(cell: Cell, figure: str) -> str:
    spread = f" ± {100 * cell.std(figure):.2f}" if len(cell.finals) > 1 else ""
    return f"{100 * cell.mean(figure):.2f}{spread}"


def _contrast_lines(cells: Sequence[Cell]) -> list[str]:
    """A table for each section that has contrasts, all corrected together."""
    asked = [(title, list(ask(cells)), about) for title, ask, about in _SECTIONS]
    contrasts = [contrast for _, own, _ in asked for contrast in own if contrast.figures]
    if not contrasts:
        return []
    found = [difference(contrast) for contrast in contrasts]
    corrected = holm([each.p for each in found])
    rows = iter(map(_row, contrasts, found, corrected))
    lines = [
        "## Contrasts: test accuracy, seed by seed",
        "",
        f"Contrasts looked at: {len(contrasts)}. Each is the mean over n seeds of the difference "
        "at the same seed, in percentage points, with its 95 % t-interval and the p of a paired "
        "t-test, as it is and corrected for all of them (Holm). Intervals are not corrected.",
        "",
    ]
    for title, own, about in asked:
        own_rows = [next(rows) for contrast in own if contrast.figures]
        if own_rows:
            lines += [f"### {title}", "", *markdown_lines(_HEADER, own_rows, words=3)]
            lines += ["", about, ""]
    return lines


def _row(contrast: Contrast, found: Difference, corrected: float) -> list[str]:
    interval, p = "", ("", "")
    if not math.isnan(found.low):
        interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
        p = (_p_value(found.p), _p_value(corrected))
    told: list[Any] = [contrast.what, contrast.first, contrast.second, contrast.at, found.n]
    return [*map(str, told), f"{100 * found.mean:+.2f}", interval, *p]


def _p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
