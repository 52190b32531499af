"""How many tensors of weights a network has, without training it."""

import functools

import jax
import jax.numpy as jnp

from zsharp_jax.benchmark.datasets.images import image_shape
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.methods import Tensors
from zsharp_jax.benchmark.training.steps import filtered_tensors
from zsharp_jax.models import MODELS


@functools.cache
def tensors_of(model: str, dataset: str) -> Tensors:
    """The tensors of a network for the images of a dataset.

    Raises:
        RequestError: If it does not take images of their size.
    """
    network = MODELS[model](num_classes=10)
    images = jax.ShapeDtypeStruct((1, *image_shape(dataset)), jnp.float32)
    try:
        initialise = functools.partial(network.init, train=False)
        params = jax.eval_shape(initialise, jax.random.key(0), images)["params"]
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise RequestError(f"{model} does not fit {dataset}: {reason}") from None
    return Tensors(filtered_tensors(params), len(jax.tree.leaves(params)))
