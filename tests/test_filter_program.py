"""How often the compiled filter reads a gradient, and what it never does, read off the program."""

import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from zsharp_jax import zscore_filter, zsharp

SHAPE = (512, 1040)
LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)")
MOVES_NOTHING = {"bitcast", "call", "conditional", "constant", "get-tuple-element"}
MOVES_NOTHING |= {"parameter", "tuple", "while"}


def program_of(transformation, gradients):
    update = jax.jit(lambda gradients: transformation.update(gradients, optax.EmptyState())[0])
    return update.lower(gradients).compile().as_text()


def passes_over_memory(program, size):
    """For each computation that is no kernel: how many kernels read something of `size` entries or
    more, and how many write it."""
    computations, lines = {}, []
    for line in program.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            lines = computations.setdefault(head[1], [])
        elif found := LINE.match(line):
            lines.append(found.groups())
    kernels = {
        kernel
        for lines in computations.values()
        for _, _, operation, _, rest in lines
        if operation not in MOVES_NOTHING
        for kernel in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", rest)
    }
    passes = {}
    for name, lines in computations.items():
        shapes = {value: shape for value, shape, *_ in lines}
        moving = [line for line in lines if line[2] not in MOVES_NOTHING]
        reads = [
            any(entries(shapes.get(each, "")) >= size for each in re.findall(r"%([\w.\-]+)", own))
            for *_, own, _ in moving
        ]
        writes = [entries(shape) >= size for _, shape, *_ in moving]
        if name not in kernels and any(reads + writes):
            passes[name] = (sum(reads), sum(writes))
    return passes


def entries(shape):
    sides = re.findall(r"\[([\d,]*)\]", shape)
    return max((math.prod(map(int, filter(None, each.split(",")))) for each in sides), default=0)


@pytest.mark.parametrize("scope, reads", [("layer", 3), ("global", 5)])
def test_passes_over_a_gradient(scope, reads):
    """The mean and the counts, each in a loop, for z-scores two for the std, and the cut."""
    program = program_of(zscore_filter(0.95, scope=scope), jnp.zeros(SHAPE))
    passes = passes_over_memory(program, math.prod(SHAPE)).values()
    assert [sum(each) for each in zip(*passes, strict=True)] == [reads, 1]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_passes_do_not_grow_with_the_number_of_layers(scope):
    reads = []
    for layers in (4, 40):
        program = program_of(zscore_filter(0.95, scope=scope), [jnp.zeros((64, 32))] * layers)
        passes = passes_over_memory(program, layers * 64 * 32).values()  # over all at once
        reads.append(sum(each for each, _ in passes))
    assert reads[0] == reads[1] > 0


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_nothing_is_sorted_or_gathered_and_no_host_is_asked(scope):
    gradients = {"kernel": jnp.zeros(SHAPE), "bias": jnp.zeros(7)}
    ascent = zsharp(0.1, percentile_scope=scope)
    update = jax.jit(ascent.update)
    program = update.lower(gradients, ascent.init(gradients)).compile().as_text()
    for operation in ("sort", "all-gather", "topk", "outfeed", "callback"):
        assert not re.search(rf"\b{operation}\b", program), operation
