"""The plain versions, in NumPy and for a reader; the library is tested against them."""

import numpy as np


def keep_mask(gradient, quantile):
    """Which entries have a |z-score| strictly above the quantile, in float64."""
    deviation = np.abs(np.float64(gradient) - np.float64(gradient).mean())
    return deviation > np.quantile(deviation, quantile)


def magnitude_mask(gradient, quantile):
    """Which entries are strictly above the quantile in size, in float64."""
    magnitude = np.abs(np.float64(gradient))
    return magnitude > np.quantile(magnitude, quantile)


def global_magnitude_masks(gradients, quantile):
    """The same with one quantile over the entries of all tensors."""
    magnitudes = [np.abs(np.float64(gradient)) for gradient in gradients]
    threshold = np.quantile(np.concatenate([each.ravel() for each in magnitudes]), quantile)
    return [magnitude > threshold for magnitude in magnitudes]


def global_keep_masks(gradients, quantile):
    """The same with one quantile over the |z-scores| of all tensors; a constant one has z = 0."""
    zscores = []
    for gradient in gradients:
        deviation = np.abs(np.float64(gradient) - np.float64(gradient).mean())
        std = np.sqrt(np.mean(deviation**2))
        zscores.append(deviation / std if np.ptp(gradient) > 0 else np.zeros_like(deviation))
    threshold = np.quantile(np.concatenate([z.ravel() for z in zscores]), quantile)
    return [z > threshold for z in zscores]


def kept_count(size, quantile):
    """How many of `size` entries without ties are kept."""
    return size - 1 - int(np.floor(quantile * (size - 1)))


def norm(tree_leaves):
    return np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in tree_leaves))


def zsharp(gradients, rho, quantile):
    """Paper, eq. 3 and 4, for a dict of NumPy arrays: layer-wise quantiles, one norm."""
    filtered = {
        name: np.where(keep_mask(g, quantile), g, 0) if g.ndim >= 2 else g
        for name, g in gradients.items()
    }
    if norm(filtered.values()) == 0:
        filtered = gradients
    length = norm(filtered.values())
    return {name: rho * np.float64(g) / (length + 1e-8) for name, g in filtered.items()}
