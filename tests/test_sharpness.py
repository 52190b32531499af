"""How sharp a minimum is, against dense Hessians, closed forms and an independent library."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, network_loss, network_params
from scipy.optimize import brentq

import zsharp_jax
from zsharp_jax import asam, sam, zsharp
from zsharp_jax.sharpness import (
    average_loss,
    filter_normalized,
    hessian_spectrum,
    hessian_trace,
    loss_along,
    worst_loss,
)

KEY = jax.random.key(0)
PARAMS = network_params()
SIZE = 83
BALL = sam(0.5)


ASCENT = zsharp(0.1)
LAYER, OTHER_LAYER = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)


def layer_loss(w, inputs, targets):
    return jnp.mean((jnp.tanh(inputs @ w) - targets) ** 2)


def dense(loss_fn, params, *inputs):
    """The Hessian as a matrix, in float64."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda flat: loss_fn(unravel(flat), *inputs)))(flat)
    return np.asarray(hessian, np.float64)


@pytest.fixture(scope="module")
def network_hessian():
    return dense(network_loss, PARAMS, *BATCH)


def quadratic(seed, size, negative=0):
    """A symmetric matrix with eigenvalues of either sign, and a gradient at 0."""
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.normal(size=(size, size)))
    eigenvalues = rng.uniform(0.5, 1, size) * 2.0 ** -np.arange(size)
    eigenvalues[-negative:] *= -1 if negative else 1
    return (vectors * eigenvalues) @ vectors.T, rng.normal(size=size) / 3


def quadratic_loss(w, matrix, slope):
    return w @ matrix @ w / 2 + slope @ w


def as_inputs(matrix, slope):
    return jnp.asarray(matrix, jnp.float32), jnp.asarray(slope, jnp.float32)


def test_every_eigenvalue_of_a_network_is_that_of_its_dense_hessian(network_hessian):
    spectrum = hessian_spectrum(
        network_loss, PARAMS, *BATCH, key=KEY, steps=SIZE, eigenvectors=True
    )
    expected, tolerance = np.linalg.eigvalsh(network_hessian), 1e-6 * np.abs(network_hessian).max()
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=1e-4, atol=10 * tolerance)
    np.testing.assert_allclose(np.sum(spectrum.weights), 1, rtol=1e-5)

    chex.assert_trees_all_equal_structs(spectrum.eigenvectors, PARAMS)
    vectors = [np.reshape(leaf, (SIZE, -1)) for leaf in jax.tree.leaves(spectrum.eigenvectors)]
    vectors = np.concatenate(vectors, axis=1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(SIZE), atol=1e-5)
    images = vectors @ network_hessian
    np.testing.assert_allclose(images, spectrum.eigenvalues[:, None] * vectors, atol=20 * tolerance)


def test_few_steps_give_the_extremes_and_the_moments_of_the_density(network_hessian):
    steps = 30
    spectra = [
        hessian_spectrum(network_loss, PARAMS, *BATCH, key=jax.random.key(seed), steps=steps)
        for seed in range(20)
    ]
    expected = np.linalg.eigvalsh(network_hessian)
    for spectrum in spectra:
        assert spectrum.eigenvalues.shape == (steps,) and spectrum.eigenvectors is None
        np.testing.assert_allclose(spectrum.eigenvalues[-1], expected[-1], rtol=1e-4)
        np.testing.assert_allclose(spectrum.eigenvalues[0], expected[0], rtol=1e-4)
        assert np.all(np.diff(spectrum.eigenvalues) >= 0) and np.all(spectrum.weights >= 0)
    for power in (1, 2):
        draws = [np.sum(s.weights * s.eigenvalues**power) for s in spectra]
        error = np.std(draws, ddof=1) / np.sqrt(len(draws))
        assert abs(np.mean(draws) - np.mean(expected**power)) < 3 * error


def test_an_independent_library_finds_the_same():
    from matfree import decomp, eig, stochtrace

    steps = 30

    def product(vector):
        gradient = jax.grad(lambda params: network_loss(params, *BATCH))
        return jax.jvp(gradient, (PARAMS,), (vector,))[1]

    start = optax.tree.random_like(KEY, PARAMS, jax.random.normal)
    found = jax.jit(lambda v: eig.eigh_partial(decomp.tridiag_sym(steps))(product, v))(start)
    spectrum = hessian_spectrum(network_loss, PARAMS, *BATCH, key=KEY, steps=steps)
    np.testing.assert_allclose(spectrum.eigenvalues[-3:], np.sort(found[0])[-3:], rtol=1e-4)

    sampler = stochtrace.sampler_signs(PARAMS, num=300)
    estimator = stochtrace.estimator_monte_carlo_mean_and_sem(
        stochtrace.monte_carlo_trace(), sampler
    )
    mean, error = jax.jit(lambda key: estimator(product, key))(KEY)
    estimate = hessian_trace(network_loss, PARAMS, *BATCH, key=KEY, samples=300)
    np.testing.assert_allclose(estimate.standard_error, error, rtol=0.2)
    assert abs(mean - estimate.mean) < 3 * np.hypot(error, estimate.standard_error)


def test_the_trace_is_within_three_standard_errors(network_hessian):
    for seed in range(20):
        estimate = hessian_trace(network_loss, PARAMS, *BATCH, key=jax.random.key(seed))
        error = abs(estimate.mean - np.trace(network_hessian))
        assert 0 < error < 3 * estimate.standard_error


@pytest.mark.parametrize("matrix", [0 * np.eye(8), 3 * np.eye(8), np.diag([2.0] * 4 + [-1.0] * 4)])
def test_lanczos_goes_on_where_the_first_vector_reaches_no_further(matrix):
    inputs = as_inputs(matrix, np.zeros(8))
    spectrum = hessian_spectrum(quadratic_loss, jnp.zeros(8), *inputs, key=KEY, steps=8)
    np.testing.assert_allclose(spectrum.eigenvalues, np.linalg.eigvalsh(matrix), atol=3e-6)
    assert np.isclose(np.sum(spectrum.weights), 1)


def trust_region_maximum(matrix, slope, rho, metric=None):
    """The maximum of a quadratic over a ball in float64: (λ - H)ε = g with the λ of ||ε|| = ρ."""
    metric = np.ones(len(slope)) if metric is None else metric
    eigenvalues, vectors = np.linalg.eigh(metric[:, None] * matrix * metric)
    parts = vectors.T @ (metric * slope)

    def excess(shift):
        return np.linalg.norm(parts / (shift - eigenvalues)) - rho

    lowest = max(0, eigenvalues[-1])
    shift = brentq(excess, lowest + 1e-9, lowest + 1e3, xtol=1e-14)
    along = parts / (shift - eigenvalues)
    return eigenvalues @ along**2 / 2 + parts @ along


@pytest.mark.parametrize("size", [0.3, 3.0])  # of the slope: whether it or the matrix decides
@pytest.mark.parametrize("negative", [0, 3])
def test_the_worst_loss_of_a_quadratic_is_its_maximum_over_the_ball(negative, size):
    matrix, slope = quadratic(1, 8, negative)
    inputs = as_inputs(matrix, size * slope)
    found = worst_loss(quadratic_loss, jnp.zeros(8), *inputs, ascent=BALL, steps=60)
    np.testing.assert_allclose(found, trust_region_maximum(matrix, size * slope, 0.5), rtol=1e-5)


def test_the_worst_loss_of_asam_is_that_of_its_stretched_ball():
    matrix, slope = quadratic(2, 8)
    w = np.array([0.5, -1, 2, 1, 1, -2, 0.3, 0.7])
    params = jnp.asarray(w, jnp.float32)
    inputs = as_inputs(matrix, slope)
    found = worst_loss(quadratic_loss, params, *inputs, ascent=asam(0.3, eta=0.01), steps=60)
    gain = trust_region_maximum(matrix, slope + matrix @ w, 0.3, np.abs(w) + 0.01)
    np.testing.assert_allclose(found, w @ matrix @ w / 2 + slope @ w + gain, rtol=1e-5)


def test_at_a_stationary_point_the_search_still_finds_a_way_up():
    matrix = np.diag(2.0 ** -np.arange(8))
    inputs = as_inputs(matrix, np.zeros(8))
    found = worst_loss(quadratic_loss, jnp.zeros(8), *inputs, ascent=BALL, steps=60)
    np.testing.assert_allclose(found, 0.5**2 / 2, rtol=1e-4)
    still = worst_loss(quadratic_loss, jnp.zeros(8), *inputs, ascent=sam(0.0))
    assert still == 0


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.fast_for("4")
def test_one_step_is_the_sharp_pass_of_training_and_more_never_find_less(groups):
    ascend = jax.jit(zsharp_jax.sharp_value_and_grad(layer_loss, ASCENT, groups=groups))
    *_, info = ascend(LAYER, ASCENT.init(LAYER), *BATCH)
    found = [
        worst_loss(layer_loss, LAYER, *BATCH, ascent=ASCENT, steps=steps, groups=groups)
        for steps in (1, 3)
    ]
    np.testing.assert_allclose(found[0], info.sharp_loss, rtol=1e-5)
    assert info.loss < found[0] <= found[1]


def test_where_the_loss_only_falls_the_worst_is_the_clean_one():
    found = worst_loss(lambda w: -jnp.sum(w**2), jnp.zeros(3), ascent=sam(1.0))
    assert found == 0


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_average_loss_of_a_quadratic_is_known(rho):
    matrix, slope = quadratic(3, 8)
    inputs = as_inputs(matrix, slope)
    for seed in range(20):
        found = average_loss(
            quadratic_loss, jnp.zeros(8), *inputs, key=jax.random.key(seed), rho=rho
        )
        error = abs(found.mean - rho**2 * np.trace(matrix) / 16)
        assert error <= 3 * found.standard_error and (rho == 0 or found.standard_error > 0)


def test_a_direction_has_filters_as_long_as_those_of_the_weights():
    params = {**PARAMS, "conv": np.float32(np.arange(48)).reshape(2, 2, 3, 4)}
    direction = filter_normalized(KEY, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(direction, params)
    for name in ("hidden", "head"):
        assert not np.any(direction[name]["bias"])
        lengths = [
            np.linalg.norm(np.asarray(tree[name]["kernel"]), axis=0) for tree in (direction, params)
        ]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
    for axis in (-1, 0, 2):
        conv = filter_normalized(KEY, {"conv": params["conv"]}, axis)["conv"]
        others = tuple(set(range(4)) - {axis % 4})
        lengths = [np.sqrt(np.sum(np.square(leaf), axis=others)) for leaf in (conv, params["conv"])]
        np.testing.assert_allclose(*lengths, rtol=1e-5)


def test_losses_along_directions_are_those_at_the_points():
    directions = [filter_normalized(jax.random.key(seed), PARAMS) for seed in (1, 2)]
    grid = np.stack(np.meshgrid([-1.0, 0, 0.5], [0, 2.0], indexing="ij"), axis=-1)
    losses = loss_along(network_loss, PARAMS, directions, grid, *BATCH)
    assert losses.shape == (3, 2)
    for index in np.ndindex(3, 2):
        there = jax.tree.map(
            lambda w, one, two, at=grid[index]: w + at[0] * one + at[1] * two, PARAMS, *directions
        )
        np.testing.assert_allclose(losses[index], network_loss(there, *BATCH), rtol=1e-5)


MEASURES = {
    "spectrum": lambda *a, **k: hessian_spectrum(*a, key=KEY, steps=4, **k).eigenvalues,
    "trace": lambda *a, **k: hessian_trace(*a, key=KEY, samples=4, **k),
    "worst": lambda *a, **k: worst_loss(*a, ascent=ASCENT, steps=3, **k),
    "average": lambda *a, **k: average_loss(*a, key=KEY, rho=0.1, samples=4, **k),
    "along": lambda f, p, *a, **k: loss_along(f, p, [p], np.array([[-0.1], [0.2]]), *a, **k),
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@each_measure
@pytest.mark.fast_for("worst", "trace")
def test_a_batch_in_parts_with_aux_gives_the_same_and_nothing_compiles_twice(measure, compilations):
    options = {"has_aux": True, "microbatches": 4, "batch_argnums": (2, 3)}

    def loss_with_aux(w, statistics, inputs, targets):
        return layer_loss(w, inputs, targets), statistics + 1

    def measured(w):
        return measure(loss_with_aux, w, np.float32(1), *BATCH, **options)

    expected, found = measure(layer_loss, LAYER, *BATCH), measured(LAYER)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
    compiled = len(compilations)
    measured(OTHER_LAYER)
    chex.assert_trees_all_equal(measured(LAYER), found)
    assert len(compilations) == compiled


@each_measure
def test_narrow_parameters_are_measured_in_float32(measure):
    narrow = LAYER.astype(jnp.bfloat16)
    wide = narrow.astype(jnp.float32)
    chex.assert_trees_all_equal(
        measure(layer_loss, narrow, *BATCH), measure(layer_loss, wide, *BATCH)
    )


@each_measure
def test_what_cannot_be_measured_is_refused(measure):
    for leaf, rule in ((np.array(3), "hold arrays"), (abs, "hold arrays"), (1j, "be real here")):
        with pytest.raises(TypeError, match=rf"`params` must {rule}.* got .* at `\['n'\]`"):
            measure(layer_loss, {"n": leaf, "w": LAYER}, *BATCH)
    with pytest.raises(ValueError, match="`params` must hold at least one array, got none"):
        measure(layer_loss, {"frozen": None}, *BATCH)
    with pytest.raises(FloatingPointError, match=r"los.* must be finite, got (nan|inf)"):
        measure(lambda w: jnp.sum(w**2) / 0, jnp.ones(5))
    with pytest.raises(ValueError, match="`microbatches` must divide the batch"):
        measure(layer_loss, LAYER, *BATCH, microbatches=5)


@pytest.mark.parametrize("scale", [0, 1e-30, 1e-19, 1e-17, 1e19, 1e30])
def test_curvature_whose_squares_leave_float32_is_measured(scale):
    def bowl(w, scale):
        return scale * jnp.sum(jnp.array([1.0, 2.0, 4.0]) * w**2) / 2

    found = hessian_spectrum(bowl, jnp.full(3, 1e-3), scale, key=KEY, steps=3)
    np.testing.assert_allclose(found.eigenvalues, np.multiply(scale, [1, 2, 4]), rtol=1e-5)


def test_a_slope_whose_square_overflows_has_no_worst_loss():
    with pytest.raises(FloatingPointError, match="the norm of a gradient within the ball"):
        worst_loss(lambda w: 1e20 * jnp.sum(w), jnp.zeros(3), ascent=BALL)


def test_leaves_of_several_dtypes_are_measured_under_strict_promotion():
    def bowl(tree):
        return sum(jnp.sum(leaf.astype(jnp.float64) ** 2) for leaf in jax.tree.leaves(tree)) / 2

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        tree = {"narrow": jnp.ones(2, jnp.float32), "wide": jnp.ones(3, jnp.float64)}
        spectrum = hessian_spectrum(bowl, tree, key=KEY, steps=2)
        np.testing.assert_allclose(spectrum.eigenvalues, [1, 1], rtol=1e-5)
        assert hessian_trace(bowl, tree, key=KEY, samples=2).mean == 5


def test_they_can_be_compiled_with_what_is_around_them():
    @jax.jit
    def both(w):
        top = hessian_spectrum(jnp.linalg.norm, w, key=KEY, steps=2).eigenvalues[-1]
        return top, worst_loss(jnp.linalg.norm, w, ascent=BALL)

    np.testing.assert_allclose(both(jnp.array([3.0, 4.0])), (1 / 5, 5.5), rtol=1e-5)


def gathered_loss(params, inputs, targets):
    """Right under explicit axes too: weights that are split come together before they are used."""
    w = params["w"]
    mesh = jax.typeof(w).sharding.mesh
    if mesh.explicit_axes:
        w = jax.sharding.reshard(w, jax.NamedSharding(mesh, jax.P()))
    return jnp.mean((jnp.tanh(inputs @ w)[:, :3] - targets) ** 2)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.fast_for("Auto")
def test_sharded_parameters_are_measured_where_they_lie(kind):
    kinds = (jax.sharding.AxisType[kind],) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)
    home, stacked = (jax.NamedSharding(mesh, jax.P(*p, "model", "data")) for p in ((), (None,)))
    params = {"w": np.random.default_rng(4).normal(size=(6, 4)).astype(np.float32)}
    options = {"steps": 6, "eigenvectors": True}
    expected = hessian_spectrum(gathered_loss, params, *BATCH, key=KEY, **options)
    expected_loss = worst_loss(gathered_loss, params, *BATCH, ascent=BALL, groups=4)
    with jax.set_mesh(mesh):
        split = jax.device_put(params, home)
        batch = jax.device_put(BATCH, jax.NamedSharding(mesh, jax.P("data")))
        found = hessian_spectrum(gathered_loss, split, *batch, key=KEY, **options)
        loss = worst_loss(gathered_loss, split, *batch, ascent=BALL, groups=4)
    chex.assert_trees_all_close(found[:2], expected[:2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    assert found.eigenvectors["w"].sharding.is_equivalent_to(stacked, 3)


SPREAD = {
    "explicit": (("Explicit", "Explicit"), jax.P()),
    "explicit, sharded": (("Explicit", "Explicit"), jax.P("model")),
    "of both kinds": (("Explicit", "Auto"), jax.P(None, "model")),
}


@pytest.mark.parametrize("kinds, spec", SPREAD.values(), ids=SPREAD)
@pytest.mark.fast_for("explicit, sharded", "of both kinds")
def test_every_measure_takes_a_mesh_that_is_not_the_current_one(kinds, spec):
    axis_types = tuple(jax.sharding.AxisType[kind] for kind in kinds)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=axis_types)
    params = {"w": np.random.default_rng(4).normal(size=(6, 4)).astype(np.float32)}
    split = jax.device_put(params, jax.NamedSharding(mesh, spec))
    batch = jax.device_put(BATCH, jax.NamedSharding(mesh, jax.P("data")))

    def measured(params, inputs, targets):
        arguments = (gathered_loss, params, inputs, targets)
        direction = jax.tree.map(jnp.ones_like, params)
        return {
            "eigenvalues": hessian_spectrum(*arguments, key=KEY, steps=4).eigenvalues,
            "trace": hessian_trace(*arguments, key=KEY, samples=2),
            "average": average_loss(*arguments, key=KEY, rho=0.5, samples=2),
            "along": loss_along(*arguments[:2], [direction], [[0.0], [1.0]], *arguments[2:]),
            "worst": worst_loss(*arguments, ascent=BALL, steps=2),
            "worst of groups": worst_loss(*arguments, ascent=BALL, steps=2, groups=2),
        }

    found = jax.device_get(measured(split, *batch))
    chex.assert_trees_all_close(found, jax.device_get(measured(params, *BATCH)), rtol=1e-4)


@dataclasses.dataclass
class UnhashableLoss:
    scale: jax.Array

    def __call__(self, w, inputs, targets):
        return self.scale * layer_loss(w, inputs, targets)


def test_a_loss_function_that_cannot_be_hashed_is_measured_too():
    loss_fn = UnhashableLoss(jnp.ones([]))
    with pytest.raises(TypeError):
        hash(loss_fn)
    for _ in range(2):
        found = worst_loss(loss_fn, LAYER, *BATCH, ascent=BALL)
        np.testing.assert_array_equal(found, worst_loss(layer_loss, LAYER, *BATCH, ascent=BALL))


def test_bad_arguments_are_named():
    for steps in (0, 4):
        with pytest.raises(ValueError, match=f"`steps` must be .* got {steps}"):
            hessian_spectrum(jnp.sum, jnp.ones(3), key=KEY, steps=steps)
    with pytest.raises(TypeError, match="`key` must be a key"):
        hessian_trace(jnp.sum, jnp.ones(3), key=0)
    with pytest.raises(ValueError, match="`samples` must be an integer of at least 2, got 1"):
        hessian_trace(jnp.sum, jnp.ones(3), key=KEY, samples=1)
    with pytest.raises(FloatingPointError, match="the Hessian at `params` must be finite"):
        hessian_spectrum(lambda w: jnp.sum(jnp.abs(w) ** 1.5), jnp.zeros(3), key=KEY, steps=2)
    with pytest.raises(ValueError, match="`rho` must be finite and at least 0, got -1"):
        average_loss(jnp.sum, jnp.ones(3), key=KEY, rho=-1)
    with pytest.raises(FloatingPointError, match="the loss within the ball must be finite"):
        worst_loss(lambda w: -jnp.sum(jnp.log(w)), jnp.array([0.1, 0.1]), ascent=BALL)
    with pytest.raises(ValueError, match="`ascent` must go uphill"):
        worst_loss(jnp.linalg.norm, jnp.ones(2), ascent=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"`filter_axis` must be an axis .* at `\['w'\]`"):
        filter_normalized(KEY, {"w": jnp.ones((2, 2))}, 3)


def test_directions_that_do_not_fit_are_named():
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=r"like `params`, but at \['w'\] it has shape \(4,\), not"):
        loss_along(jnp.sum, params, [{"w": jnp.ones(4)}], [[0.0]])
    with pytest.raises(ValueError, match="`directions` must be a tree like `params`, but it is an"):
        loss_along(jnp.sum, params, [jnp.ones((2, 2))], [[0.0]])
    with pytest.raises(ValueError, match=r"so shape \(..., 1\), got \(1, 2\)"):
        loss_along(jnp.sum, params, [params], [[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"For one direction: `\[direction\]`"):
        loss_along(jnp.sum, params, params, [[0.0]])
    with pytest.raises(TypeError, match="`directions` must hold real numbers, got complex64"):
        loss_along(jnp.sum, params, [{"w": jnp.ones((2, 2), complex)}], [[0.0]])
    with pytest.raises(TypeError, match="`coefficients` must hold real numbers, got complex64"):
        loss_along(jnp.sum, params, [params], [[1.0j]])
    with pytest.raises(ValueError, match="`directions` must hold at least one tree"):
        loss_along(jnp.sum, params, [], jnp.zeros((5, 0)))


def test_arguments_in_the_wrong_place_are_named():
    with pytest.raises(TypeError, match=r"`loss_fn` must be a function .* got a `int`"):
        hessian_spectrum(3, LAYER, *BATCH, key=KEY)
    with pytest.raises(TypeError, match="`has_aux` must be True or False, got a `str`"):
        hessian_trace(layer_loss, LAYER, *BATCH, key=KEY, has_aux="no")
    with pytest.raises(TypeError, match="`eigenvectors` must be True or False, got a `str`"):
        hessian_spectrum(layer_loss, LAYER, *BATCH, key=KEY, eigenvectors="no")


def test_a_batch_that_is_no_argument_is_named():
    for measure in (
        lambda **options: worst_loss(layer_loss, LAYER, *BATCH, ascent=BALL, **options),
        lambda **options: average_loss(layer_loss, LAYER, *BATCH, key=KEY, rho=0.1, **options),
    ):
        with pytest.raises(ValueError, match=r"`batch_argnums` must name arguments .* 1 to 2"):
            measure(batch_argnums=3)


def test_a_direction_may_hold_integers():
    direction = {"w": np.array([[1, 0], [0, 2]])}
    losses = loss_along(
        lambda params: jnp.sum(params["w"]), {"w": jnp.zeros((2, 2))}, [direction], [[2.0]]
    )
    np.testing.assert_array_equal(losses, [6.0])


def test_points_at_which_the_loss_is_infinite_are_part_of_the_picture():
    def loss_fn(w):
        return jnp.log(jnp.abs(w[0]))

    ends = loss_along(loss_fn, jnp.zeros(1), [jnp.ones(1)], [[0.0], [1.0]])
    np.testing.assert_array_equal(ends, [-np.inf, 0])
    with pytest.raises(FloatingPointError, match="one loss at least must be finite, got -inf"):
        loss_along(loss_fn, jnp.zeros(1), [jnp.ones(1)], [[0.0]])
