"""Random crops and flips inside the compiled step."""

import jax
import jax.numpy as jnp


def augment(key: jax.Array, images: jax.Array, crop_padding: int, flip: bool) -> jax.Array:
    """Crops each image at random from one padded with zeros, and mirrors half of them.

    Args:
        key: A PRNG key.
        images: Shape (batch, height, width, channels), of any dtype.
        crop_padding: By how many pixels an image is padded on each side; 0 for no crop.
        flip: Whether images are mirrored left to right.

    Returns:
        An array like `images`.
    """
    crop_key, flip_key = jax.random.split(key)
    if crop_padding:
        images = _random_crop(crop_key, images, crop_padding)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def _random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)
