"""What a study asks: which cells are compared with which."""

from collections.abc import Iterator, Sequence

from zsharp_jax.benchmark.reporting.contrasts import Contrast
from zsharp_jax.benchmark.reporting.markdown import short
from zsharp_jax.benchmark.reporting.study_cells import Cell, are_equally_long, best

_FIGURE = "test_accuracy"

# At the same length of ε. Where the second has several names, the first that was trained: SAM of
# that length is what `sam_matched` is.
AT_EQUAL_LENGTH = (
    ("zsharp", ("sam",), "the z-score filter"),
    ("zsharp_reference", ("sam_matched", "sam"), "the filter and norms of the authors' code"),
    ("magnitude", ("zsharp",), "the largest entries, not those that stand out"),
    ("zsharp_random", ("zsharp",), "random entries, not those that stand out"),
    ("sam_layerwise", ("sam",), "a norm per tensor"),
    ("zsharp_reference", ("zsharp",), "a norm per tensor, with the filter"),
)


def at_equal_length(cells: Sequence[Cell]) -> Iterator[Contrast]:
    """Pairs of methods where their perturbations are equally long."""
    for method, others, what in AT_EQUAL_LENGTH:
        trained = {cell.method for cell in cells}
        other = next((name for name in others if name in trained), others[0])
        for first in (cell for cell in cells if cell.method == method):
            for second in (cell for cell in cells if cell.method == other):
                if _same_quantile(first, second) and are_equally_long(first, second):
                    yield _contrast(what, first, second)


def at_other_quantiles(cells: Sequence[Cell]) -> Iterator[Contrast]:
    """Each quantile of a method against its lowest, where perturbations are equally long."""
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method and cell.quantile is not None]
        lowest = min((cell.quantile for cell in own if cell.quantile is not None), default=None)
        for first in own:
            for second in own:
                is_other = second.quantile == lowest != first.quantile
                if is_other and are_equally_long(first, second):
                    yield _contrast("the quantile", first, second)


def each_at_its_best(cells: Sequence[Cell]) -> Iterator[Contrast]:
    """Every method against SAM and against the bare optimizer, each at its best radius."""
    names = list(dict.fromkeys(cell.name for cell in cells))
    for other in ("sam", "adamw"):
        second = best(cells, other)
        for name in names:
            first = best(cells, name)
            if first and second and name not in (other, "adamw"):
                yield _contrast(f"instead of {other}", first, second)


def where_too_long(cells: Sequence[Cell]) -> Iterator[Contrast]:
    """What a method loses less than SAM from its best radius to the longest that both have.

    A method is left out if one of its runs, or of SAM's, did not finish at that length: those that
    did are the luckier ones.
    """
    sam = best(cells, "sam")
    for name in dict.fromkeys(cell.name for cell in cells):
        own = best(cells, name)
        pairs = [
            (first, second)
            for first in cells
            for second in cells
            if (first.name, second.name) == (name, "sam") and are_equally_long(first, second)
        ]
        if name == "sam" or not (sam and own and pairs):
            continue
        first, second = max(pairs, key=lambda pair: pair[0].length)
        if first.unfinished or second.unfinished:
            continue
        seeds = set.intersection(*(set(cell.finals) for cell in (sam, own, first, second)))
        figures = [(_lost(sam, second, seed), _lost(own, first, seed)) for seed in sorted(seeds)]
        at = f"best to {short(first.length)}"
        yield Contrast("lost less than SAM", name, "sam", at, figures)


def _lost(chosen: Cell, longest: Cell, seed: int) -> float:
    return chosen.finals[seed][_FIGURE] - longest.finals[seed][_FIGURE]


def _same_quantile(cell: Cell, other: Cell) -> bool:
    return None in (cell.quantile, other.quantile) or cell.quantile == other.quantile


def _contrast(what: str, first: Cell, second: Cell) -> Contrast:
    seeds = sorted(first.finals.keys() & second.finals.keys())
    figures = [(first.finals[seed][_FIGURE], second.finals[seed][_FIGURE]) for seed in seeds]
    lengths = dict.fromkeys(short(cell.length) for cell in (first, second))
    at = " and ".join(lengths) if len(lengths) > 1 else next(iter(lengths))
    return Contrast(what, first.name, second.name, at, figures)
