"""What is read from a program's text is what the program runs; the programs are for a CPU."""

import jax
import jax.numpy as jnp
import program_text


def compiled(function, *shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return program_text.read(jax.jit(function).lower(*args).compile().as_text())


def test_a_loop_launches_its_body_as_often_as_it_goes_round():
    def several(trips):
        return compiled(
            lambda x: jax.lax.fori_loop(0, trips, lambda _, x: jnp.sort(x + 1), x), (64,)
        )

    counts = [program_text.launches(several(trips)) for trips in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 10
    assert program_text.calls(several(7), "sort") == 7


def test_a_branch_launches_its_longer_side():
    def sorts(x):
        return jax.lax.cond(x[0] > 0, lambda x: jnp.sort(-jnp.sort(x)), jnp.sort, x)

    assert program_text.calls(compiled(sorts, (64,)), "sort") == 2


def test_collectives_are_counted_in_all_passes():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.ShapeDtypeStruct(
        (64, 4), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P("data"))
    )

    def sums(x):
        return jax.lax.fori_loop(0, 5, lambda _, total: total + jnp.sum(jnp.abs(x) > total), 0)

    def read(function, **options):
        return program_text.read(jax.jit(function, **options).lower(rows).compile().as_text())

    program = read(sums)
    assert program_text.calls(program, "all-reduce") == 5
    assert program_text.gathered_sizes(program) == []
    gathering = read(lambda x: x + 1, out_shardings=jax.NamedSharding(mesh, jax.P()))
    assert program_text.gathered_sizes(gathering) == [64 * 4]


def test_a_kernel_reads_its_operands_and_writes_its_result():
    moved = program_text.bytes_moved(compiled(lambda x, y: 2 * x + y, (64, 8), (64, 8)))
    assert moved == 3 * 4 * 64 * 8
    row = compiled(lambda x: jax.lax.dynamic_slice(x, (3, 0), (1, 8)) + 1, (64, 8))
    assert program_text.bytes_moved(row) == 2 * 4 * 8
