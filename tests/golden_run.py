"""The golden run: its loss and optimizer, and the numbers of the authors' code in float64."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax import asam, friendly_sam, sam, zsharp_reference

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "reference_run.npz")
RHO, STEPS = float(GOLDEN["rho"]), int(GOLDEN["steps"])
ASCENTS = {
    "sam": sam(RHO),
    "asam": asam(float(GOLDEN["asam_rho"]), eta=float(GOLDEN["asam_eta"])),
    "friendly": friendly_sam(RHO, sigma=1.0, decay=0.9),
    "zsharp": zsharp_reference(RHO, float(GOLDEN["quantile"])),
}


def tree(prefix):
    """The arrays PREFIX/LAYER/KIND as {layer: {kind: array}}."""
    arrays = {}
    for key in GOLDEN.files:
        if key.startswith(f"{prefix}/"):
            layer, kind = key.removeprefix(f"{prefix}/").split("/")
            arrays.setdefault(layer, {})[kind] = jnp.asarray(GOLDEN[key])
    return arrays


def loss_fn(w):
    """The analytic loss of the golden run."""

    def bowl(w, a, c):
        return jnp.sum(a * (w - c) ** 2) / 2 + jnp.sum(jnp.sin(3 * w)) / 10

    total = sum(jax.tree.leaves(jax.tree.map(jnp.sum, w)))
    size = sum(leaf.size for leaf in jax.tree.leaves(w))
    return (
        sum(jax.tree.leaves(jax.tree.map(bowl, w, tree("a"), tree("c")))) + 0.05 * total**2 / size
    )


def optimizer():
    """PyTorch's Adam, whose weight decay is added to the gradient."""
    decay, rate = float(GOLDEN["weight_decay"]), float(GOLDEN["learning_rate"])
    return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate))


def assert_close(found, prefix):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, tree(prefix))
