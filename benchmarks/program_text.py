"""Reads the text of a program that XLA has compiled for a GPU: what a call of it launches.

Each instruction of the program's computations is one launch, but for those that only name memory,
and those that call other computations: a loop launches its body as often as it goes round, a branch
its longer side. What is inside a fusion is one kernel.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

# They name, view or wait for memory.
NOT_LAUNCHED = {
    "after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter", "tuple",
}  # fmt: skip
# A loop that looks at its data, where XLA cannot tell how often it goes round: as often as an
# integer has bits.
UNKNOWN_TRIPS = 32

BITS = {"pred": 8, "token": 0, "s4": 4, "u4": 4}  # all other types have their bits in their names
SHAPE = re.compile(r"\b([a-z]+\d*)(?:\d*[a-z]\w*)?\[([\d,]*)\]")
SLICES = {"slice", "dynamic-slice", "gather"}


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: Its name within the computation.
        shape: The shape of its result, as text; a tuple in parentheses.
        kind: What it does, such as `fusion`; an asynchronous one without `-start`.
        operands: The names of what it gets.
        text: The rest of the line, from the operands on.
        is_root: Whether it is the computation's result.
    """

    name: str
    shape: str
    kind: str
    operands: Sequence[str]
    text: str
    is_root: bool


class Program(NamedTuple):
    """The computations of a program, by name, and the name of the one that is called first."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


def read(text: str) -> Program:
    """Reads `compiled.as_text()`."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations.setdefault(match[2], {})
            entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$", line)
    if match is None:
        return None
    rest = match[3]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    kind, bracket, _ = rest.partition("(")
    if not bracket:
        return None
    rest = rest[len(kind) :]
    operands = re.findall(r"%([\w.\-]+)", rest[: _closing(rest)])
    is_root = match[1] is not None
    return Instruction(match[2], shape, kind.removesuffix("-start"), operands, rest, is_root)


def _closing(text: str) -> int:
    """Where the bracket ends that the text starts with."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    raise ValueError(f"a bracket is never closed in {text[:80]!r}.")


def launches(program: Program) -> int:
    """How many launches one call makes."""
    return _total(program, program.entry, lambda *_: 1)


def calls(program: Program, kind: str) -> int:
    """How many instructions of a kind one call runs."""
    return _total(program, program.entry, lambda _, instruction: instruction.kind == kind)


def gathered_sizes(program: Program) -> list[int]:
    """How many entries each tensor has that the program gathers from several devices."""
    gathers = [each for each in _all(program) if each.kind == "all-gather"]
    # An asynchronous one has what it gathers and the result, which is the larger, in a tuple.
    return [max(math.prod(shape) for _, shape in _shapes(each.shape)) for each in gathers]


def bytes_moved(program: Program) -> int:
    """How many bytes the launches of one call read and write.

    Of what a kernel only slices, the slices count. What a cache keeps from one kernel to the next
    counts as read again.
    """

    def moved(computation, instruction):
        fused = program.computations.get(_called(instruction, "calls"), {})
        operands = [computation[name].shape for name in instruction.operands]
        read = [_read(shape, i, fused) for i, shape in enumerate(operands)]
        return sum(read) + _written(instruction, fused)

    return _total(program, program.entry, moved)


def _read(shape: str, operand: int, fused: dict[str, Instruction]) -> int:
    parameter = next(
        (name for name, each in fused.items()
         if each.kind == "parameter" and each.text.startswith(f"({operand})")), None,
    )  # fmt: skip
    if parameter is None:
        return _bytes(shape)
    users = [each for each in fused.values() if parameter in each.operands]
    if users and all(each.kind in SLICES and each.operands[0] == parameter for each in users):
        return sum(_bytes(each.shape) for each in users)
    # What is updated in place is neither read nor written but for the update.
    if users and all(_is_updated(each, parameter) for each in users):
        return 0
    return _bytes(shape)


def _written(instruction: Instruction, fused: dict[str, Instruction]) -> int:
    root = next((each for each in fused.values() if each.is_root), instruction)
    if root.kind == "dynamic-update-slice" and root.operands[1] in fused:
        return _bytes(fused[root.operands[1]].shape)
    return _bytes(instruction.shape)


def _is_updated(user: Instruction, name: str) -> bool:
    return user.kind == "dynamic-update-slice" and user.operands[0] == name


def _total(
    program: Program,
    name: str,
    worth: Callable[[dict[str, Instruction], Instruction], int],
) -> int:
    """The sum of what each launch of a computation is worth, with all that it calls."""
    total = 0
    computation = program.computations[name]
    for instruction in computation.values():
        kind = instruction.kind
        called = {each: _total(program, each, worth) for each in _control_flow(instruction)}
        if kind == "while":
            total += _trips(instruction) * sum(called.values())
        elif kind == "conditional":
            total += max(called.values())
        elif called:
            total += sum(called.values())
        elif kind not in NOT_LAUNCHED and not kind.endswith(("-done", "-update")):
            total += worth(computation, instruction)
    return total


def _control_flow(instruction: Instruction) -> list[str]:
    """The computations that an instruction runs launch by launch."""
    match instruction.kind:
        case "while":
            roles = ("body", "condition")
        case "conditional":
            roles = ("true_computation", "false_computation")
        case "call":
            roles = ("to_apply",)
        case "async":
            roles = ("calls",)
        case _:
            return []
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.text)
    several = re.findall(r"[\w.\-]+", branches[1]) if branches else []
    return several + [name for role in roles if (name := _called(instruction, role))]


def _called(instruction: Instruction, role: str) -> str:
    match = re.search(rf"\b{role}=%?([\w.\-]+)", instruction.text)
    return match[1] if match else ""


def _trips(loop: Instruction) -> int:
    match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
    return int(match[1]) if match else UNKNOWN_TRIPS


def _all(program: Program) -> Iterator[Instruction]:
    for computation in program.computations.values():
        yield from computation.values()


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (dtype, tuple(int(side) for side in sides.split(",") if side))
        for dtype, sides in SHAPE.findall(text)
    ]


def _bytes(shape: str) -> int:
    return sum(math.prod(sides) * _bits(dtype) // 8 for dtype, sides in _shapes(shape))


def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    return int("".join(character for character in dtype if character.isdigit()))
