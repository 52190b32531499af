"""The files that are made of a study: its tables and pictures."""

import pathlib
from collections.abc import Sequence

from zsharp_jax.benchmark.reporting.kinds import picture_files
from zsharp_jax.benchmark.runs.fields import Record
from zsharp_jax.benchmark.runs.files import write_whole
from zsharp_jax.benchmark.runs.sharpness import SHARPNESS, read_sharpness
from zsharp_jax.benchmark.runs.weights import SHA256

_PICTURE, _GAINS = "accuracy-against-length", "gain-against-passes"
STUDY_FILES = ("study.md", *picture_files(_PICTURE), *picture_files(_GAINS))


def write_study(
    records: Sequence[Record], folder: pathlib.Path, command: Sequence[str]
) -> list[str]:
    """Prints the tables and writes `STUDY_FILES`, gains only where there is adamw.

    Older pictures of gains are removed where there is none.

    Args:
        records: Run files of one dataset and network.
        folder: Where to write.
        command: What asked for the runs last.

    Returns:
        The names of the files that were written.
    """
    from zsharp_jax.benchmark.reporting.figures import subject_of, write_picture
    from zsharp_jax.benchmark.reporting.passes_figure import draw_gains
    from zsharp_jax.benchmark.reporting.study import study_markdown
    from zsharp_jax.benchmark.reporting.study_cells import cells_of
    from zsharp_jax.benchmark.reporting.study_figure import draw_against_length

    records = _with_sharpness(records, folder)
    settings, cells = records[0]["settings"], cells_of(records)
    seeds = max(len(cell.finals) for cell in cells)
    title = f"{subject_of(settings['model'], settings['dataset'], settings)}: "
    title += f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "one seed"
    pictures = {"Test accuracy against the length of ε": _PICTURE}
    write_picture(draw_against_length(cells, title), folder, _PICTURE)
    if gains := draw_gains(cells, title):
        pictures["Gain over adamw and passes a step"] = _GAINS
        write_picture(gains, folder, _GAINS)
    else:  # one of runs that have been replaced would mislead
        for name in picture_files(_GAINS):
            (folder / name).unlink(missing_ok=True)
    text = study_markdown(records, command, pictures)
    write_whole(folder / "study.md", text.encode(errors="backslashreplace"))
    print(text)
    return ["study.md", *(name for picture in pictures.values() for name in picture_files(picture))]


def _with_sharpness(records: Sequence[Record], folder: pathlib.Path) -> list[Record]:
    """The records; what they end with tells of the sharpness too where that was measured."""
    measured = read_sharpness(folder / SHARPNESS, problems=[])

    def added(record: Record) -> Record:
        sharpness = measured.get(record["name"])
        if sharpness is None or sharpness.weights_sha256 != record.get(SHA256):
            return record
        return {**record, "final": {**record["final"], **sharpness.measures["train"]}}

    return [added(record) for record in records]
