"""The programs of sharpness leave parameters that are split over devices where they lie."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from zsharp_jax import zsharp
from zsharp_jax.sharpness import _spectrum, _worst_loss, hessian_spectrum, worst_loss

MEASURES = {
    "spectrum": lambda *inputs: hessian_spectrum(*inputs, key=jax.random.key(0), steps=4),
    "worst": lambda *inputs: worst_loss(*inputs, ascent=zsharp(0.1), steps=3),
}


def equations(jaxpr):
    """All of them, also those of the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            yield from equations(inner.jaxpr) if hasattr(inner, "jaxpr") else ()


def test_the_loop_of_the_spectrum_draws_no_random_numbers():
    """XLA takes minutes to compile the draws of a transformer's parameters there."""
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}

    def spectrum(key):
        return hessian_spectrum(
            lambda params: jnp.sum(params["w"] ** 2) + jnp.sum(params["b"] ** 4),
            params,
            key=key,
            steps=6,
        )

    whole = jax.make_jaxpr(spectrum)(jax.random.key(0)).jaxpr
    assert "random_bits" in {equation.primitive.name for equation in equations(whole)}
    (loop,) = (each for each in equations(whole) if each.primitive.name == "scan")
    within = {equation.primitive.name for equation in equations(loop.params["jaxpr"].jaxpr)}
    assert "sin" in within and not {"random_bits", "erf_inv"} & within


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.fast_for("worst")
def test_no_parameter_that_is_split_is_gathered(measure, monkeypatch):
    """The loss exchanges nothing but its mean, so what else is exchanged would be our doing."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("data"))
    programs = []

    def told(function):
        def called(*args, **options):
            programs.append(function.lower(*args, **options).compile().as_text())
            return function(*args, **options)

        return called

    for module, name in ((_spectrum, "_spectrum"), (_worst_loss, "_search")):
        monkeypatch.setattr(module, name, told(getattr(module, name)))

    def loss(w, inputs):
        return jnp.mean(jnp.tanh(w * inputs) ** 2) + jnp.mean(w**4)

    w = jax.device_put(jnp.linspace(-1.0, 1, 16 * 40).reshape(16, 40), split)
    inputs = jax.device_put(jnp.ones((16, 40)), split)
    measure(loss, w, inputs)
    (program,) = programs
    gathered = re.findall(r" = (.*?) (?:all-gather|all-to-all|collective-permute)", program)
    sizes = [
        math.prod(map(int, filter(None, shape.split(","))))
        for results in gathered
        for shape in re.findall(r"\w\[([\d,]*)\]", results)
    ]
    assert "all-reduce" in program and max(sizes, default=0) < w.size // 8, gathered
