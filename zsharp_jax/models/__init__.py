"""Flax linen ports of the networks of the paper's benchmark, by name."""

from zsharp_jax.models import resnet, vgg, vit

MODELS = {**resnet.MODELS, **vgg.MODELS, **vit.MODELS}
