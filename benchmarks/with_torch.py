"""The same masks in PyTorch, for `filter.py`.

Tensors share the memory of JAX's arrays: nothing is copied while the clock runs.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

QUANTILE = 0.95


def finished(keep: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """Waits for a GPU, which PyTorch's functions do not."""

    @functools.wraps(keep)
    def kept_and_waited(gradients):
        kept = keep(gradients)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return kept

    return kept_and_waited


@finished
def torch_quantile(gradients: list[Any]) -> list[Any]:
    """The formula of the authors' code, with the population standard deviation."""

    def keep(gradient):
        zscores = _zscores(gradient)
        return gradient * (zscores > torch.quantile(zscores, QUANTILE))

    return [keep(torch.from_dlpack(gradient)) for gradient in gradients]


@finished
def torch_kthvalue(gradients: list[Any]) -> list[Any]:
    """The cheapest that PyTorch offers: one order statistic of the deviations."""

    def keep(gradient):
        deviation = (gradient - gradient.mean()).abs()
        rank = math.floor(QUANTILE * (gradient.numel() - 1))
        threshold = torch.kthvalue(deviation.flatten(), rank + 1).values
        return torch.where(deviation > threshold, gradient, 0)

    return [keep(torch.from_dlpack(gradient)) for gradient in gradients]


@finished
def torch_quantile_over_all(gradients: list[Any]) -> list[Any]:
    tensors = [torch.from_dlpack(gradient) for gradient in gradients]
    zscores = [_zscores(tensor) for tensor in tensors]
    threshold = torch.quantile(torch.cat([each.flatten() for each in zscores]), QUANTILE)
    return [tensor * (z > threshold) for tensor, z in zip(tensors, zscores, strict=True)]


def _zscores(gradient: Any) -> Any:
    std, mean = torch.std_mean(gradient, correction=0)
    return ((gradient - mean) / std).abs()
