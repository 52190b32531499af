"""The interval of gradients that is cut holds just those whose |z| lies below the cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax._stack import stacked
from zsharp_jax._zscore import interval_below, order_of, statistics_of, zscore_bits

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(40, 50))
LAYERS = {
    "normal": NORMAL,
    "skewed": np.exp(NORMAL),
    "far from 0": 1e4 + NORMAL,
    "tiny": NORMAL * 1e-25,
    "subnormal": NORMAL * 1e-41,
    "of every scale": 10.0 ** RNG.integers(-43, 30, (40, 50)) * NORMAL,
    "tied": RNG.integers(-2, 3, (40, 50)),
    "constant": np.full((40, 50), 0.1),
    "zero": np.zeros((40, 50)),
    "nan": np.where(NORMAL > 2, np.nan, NORMAL),
    "infinite": np.where(NORMAL > 3, np.inf, NORMAL),
}


compiled_interval = jax.jit(interval_below, static_argnums=2)


@pytest.mark.parametrize("with_std", [False, True])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_interval_is_what_the_bits_tell(dtype, name, with_std):
    with jax.enable_x64(dtype is np.float64):
        layer = jnp.asarray(LAYERS[name], dtype)
        statistics = statistics_of(stacked([layer]), with_std=with_std)
        bits = zscore_bits(layer[None], statistics)[0]
        infinity = order_of(jnp.asarray(jnp.inf, dtype))
        candidates = np.quantile(np.minimum(bits, infinity), [0, 0.1, 0.5, 0.95, 1], method="lower")
        for candidate in (0, 1, *candidates, *(candidates + 1)):
            cut = jnp.asarray([candidate], bits.dtype)
            interval = jax.tree.map(lambda each: each[0], compiled_interval(cut, statistics, dtype))
            np.testing.assert_array_equal(interval.holds(layer), bits < cut[0])


def test_order_is_that_of_the_numbers():
    numbers = np.array([-np.inf, -1, -1e-40, -1e-45, -0.0, 0, 1e-45, 1e-40, 1, np.inf], np.float32)
    assert np.all(np.diff(np.asarray(order_of(jnp.asarray(numbers)))) > 0)


@pytest.mark.parametrize("name", ["normal", "far from 0", "tiny", "tied"])
def test_mean_and_std_are_numpys(name):
    layer = LAYERS[name].astype(np.float32)
    found = statistics_of(stacked([jnp.asarray(layer)]), with_std=True)
    scale = 2.0**100 if name == "tiny" else 1.0  # by which it is lifted
    np.testing.assert_allclose(found.mean[0] / scale, layer.mean(dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(
        1 / found.inverse_std[0] / scale, layer.std(dtype=np.float64), rtol=1e-4
    )
