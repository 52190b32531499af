"""Layers come out of their stacks as they went in."""

import jax.numpy as jnp
import numpy as np

from zsharp_jax import _stack
from zsharp_jax._stack import stacked


def layers():
    shapes = [(2, 3), (4,), (2, 3), (), (4,), (2, 3)]
    arrays = [jnp.full(shape, float(i)) for i, shape in enumerate(shapes)]
    return [*arrays, jnp.full((2, 3), 6.0, jnp.bfloat16)]


def test_layers_of_one_shape_and_dtype_are_together():
    assert stacked(layers()).members == ((0, 2, 5), (1, 4), (3,), (6,))


def test_what_belongs_to_a_layer_comes_back_in_its_place():
    stacks = stacked(layers())
    highest = stacks.reduce(lambda stack: jnp.max(stack, axis=tuple(range(1, stack.ndim))))
    assert highest.dtype == jnp.float32
    assert [float(each) for each in stacks.unstacked(highest)] == [0, 1, 2, 3, 4, 5, 6]


def test_each_stack_gets_its_own_part():
    stacks = stacked(layers())
    own = jnp.arange(7.0)
    found = stacks.reduce(lambda stack, own: own + 10 * len(stack), own)
    np.testing.assert_array_equal(found, np.arange(7) + 10 * np.array([3, 3, 3, 2, 2, 1, 1]))


def test_a_large_layer_stays_alone(monkeypatch):
    monkeypatch.setattr(_stack, "STACKED_ENTRIES", 4)
    assert stacked(layers()).members == ((0,), (1, 4), (2,), (3,), (5,), (6,))
