"""The networks that benchmarks train: losses and shapes, and arrays where something is run."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax import zsharp
from zsharp_jax.models import MODELS
from zsharp_jax.models.vit import ViT

SIDE = 32
CLASSES = 10
OPTIMIZER = optax.adamw(1e-3, weight_decay=5e-5)
TRANSFORMER = "transformer_1b"
TINY = "tiny"  # to see that a benchmark works
_TINY = functools.partial(ViT, layers=1, width=8, heads=2, mlp_width=8, grid=2)
SHALLOW = "vit_1_8_8_384"  # the ViT with one layer
_MODELS = {
    **MODELS,
    SHALLOW: functools.partial(MODELS["vit_7_8_8_384"], layers=1),
    TINY: _TINY,
}


class Training(NamedTuple):
    """What a network is trained on, as shapes or as arrays.

    Attributes:
        loss_fn: `loss_fn(params, *inputs)` returns `(loss, aux)`.
        params: The parameters.
        inputs: The inputs: first what does not belong to the batch, such as BatchNorm's statistics.
        batch_inputs: How many of the inputs, from the last, belong to the batch.
        ascent_options: Arguments that `zsharp` and `zsharp_reference` need for this network.
    """

    loss_fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    batch_inputs: int = 2
    ascent_options: dict[str, Any] = {}  # noqa: RUF012


def training_shapes(network: str, dtype: Any = jnp.bfloat16, batch_size: int = 256) -> Training:
    """A network's loss and the shapes of its parameters and inputs; nothing is allocated.

    Args:
        network: A name from `zsharp_jax.models.MODELS` or `SHALLOW`, `TRANSFORMER` or `TINY`.
        dtype: What the network computes in; its parameters are float32.
        batch_size: The number of images; the transformer always has 8 sequences.
    """
    if network == TRANSFORMER:
        return _transformer(dtype)
    model, variables = _model_and_shapes(network, dtype)
    loss_fn = _image_loss(model)
    batch_stats = variables.get("batch_stats", {})  # a vision transformer has none
    inputs = (batch_stats, *_image_shapes(batch_size))
    return Training(loss_fn, variables["params"], inputs)


def training_arrays(network: str, dtype: Any, batch_size: int) -> Training:
    """A network with random parameters, images and labels, for none of which XLA compiles."""
    training = training_shapes(network, dtype, batch_size)
    random = np.random.default_rng(0)

    def parameter(path, shape):
        if len(shape.shape) > 1:
            inputs = math.prod(shape.shape[:-1])
            return random.standard_normal(shape.shape, np.float32) / np.float32(math.sqrt(inputs))
        return np.full(shape.shape, path[-1].key in ("scale", "var"), np.float32)

    batch_stats, images, labels = training.inputs
    params, batch_stats = jax.tree.map_with_path(parameter, (training.params, batch_stats))
    images = random.standard_normal(images.shape, np.float32)
    labels = random.integers(0, CLASSES, labels.shape, np.int32)
    inputs = (batch_stats, images, labels)
    return training._replace(
        params=jax.tree.map(jnp.asarray, params), inputs=jax.tree.map(jnp.asarray, inputs)
    )


def filtered_shapes(network: str) -> list[jax.ShapeDtypeStruct]:
    """The shapes of the tensors that ZSharp filters."""
    _, variables = _model_and_shapes(network, jnp.float32)
    return [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1]


def _model_and_shapes(network: str, dtype: Any) -> tuple[Any, Any]:
    model = _MODELS[network](num_classes=CLASSES, dtype=jnp.dtype(dtype))
    images, _ = _image_shapes(1)
    init = functools.partial(model.init, train=False)
    return model, jax.eval_shape(init, jax.random.key(0), images)


def _image_shapes(batch_size: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    images = jax.ShapeDtypeStruct((batch_size, SIDE, SIDE, 3), jnp.float32)
    return images, jax.ShapeDtypeStruct((batch_size,), jnp.int32)


def _image_loss(model: Any) -> Callable[..., Any]:
    def loss_fn(params, batch_stats, images, labels):
        logits, moved = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), moved.get("batch_stats", {})

    return loss_fn


def _transformer(dtype: Any) -> Training:
    """Decoder blocks of 1.007 billion parameters that predict their own inputs.

    Its layers are stacked and run in a scan where the ascents can be told so, else it is a list.
    """
    layers, width, heads, batch_size, tokens = 20, 2048, 16, 8, 1024
    float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    block = {
        "attention": {
            "bias": float32((4 * width,)),
            "in": float32((width, 3 * width)),
            "out": float32((width, width)),
        },
        "mlp": {"in": float32((width, 4 * width)), "out": float32((4 * width, width))},
        "norms": {"scale": float32((2 * width,))},
    }
    can_stack = "stacked" in inspect.signature(zsharp).parameters

    @jax.checkpoint
    def run_block(hidden, block):
        attention, mlp = block["attention"], block["mlp"]
        first, second = jnp.split(block["norms"]["scale"].astype(dtype), 2)
        bias, bias_out = jnp.split(attention["bias"].astype(dtype), [3 * width])
        joined = _normalised(hidden) * first @ attention["in"].astype(dtype) + bias
        query, key, value = (
            each.reshape(*each.shape[:2], heads, width // heads)
            for each in jnp.split(joined, 3, axis=-1)
        )
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.reshape(hidden.shape) @ attention["out"].astype(dtype) + bias_out
        hidden = hidden + mixed
        inner = jax.nn.gelu(_normalised(hidden) * second @ mlp["in"].astype(dtype))
        return hidden + inner @ mlp["out"].astype(dtype), None

    def loss_fn(params, inputs, targets):
        hidden = inputs.astype(dtype)
        if can_stack:
            hidden, _ = jax.lax.scan(run_block, hidden, params["blocks"])
        else:
            for block in params["blocks"]:
                hidden, _ = run_block(hidden, block)
        return jnp.mean((hidden.astype(jnp.float32) - targets) ** 2), {}

    stacked = jax.tree.map(lambda leaf: float32((layers, *leaf.shape)), block)
    params = {"blocks": stacked if can_stack else [block] * layers}
    sequences = float32((batch_size, tokens, width))
    options = {"stacked": 1} if can_stack else {}
    return Training(loss_fn, params, (sequences, sequences), 2, options)


def _normalised(hidden: jax.Array) -> jax.Array:
    wide = hidden.astype(jnp.float32)
    mean_square = jnp.mean(wide**2, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + 1e-6)).astype(hidden.dtype)
