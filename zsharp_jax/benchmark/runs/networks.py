"""The networks by name, each with a line that tells it; their code is in `zsharp_jax.models`."""

# Parameters are those with 10 classes.
NETWORKS = {
    "resnet8": "ResNet of 8 layers, 0.08 million parameters, for a CPU",
    "resnet20": "ResNet of 20 layers, 0.27 million parameters",
    "resnet56": "ResNet of 56 layers, 0.85 million parameters (paper)",
    "resnet110": "ResNet of 110 layers, 1.7 million parameters (paper)",
    "vgg16_bn": "VGG-16 with BatchNorm, 14.7 million parameters (paper)",
    "vit_3_4_4_64": "ViT, MLP of width 64, 0.09 million parameters, for a CPU",
    "vit_7_8_8_384": "ViT, MLP of width 384, 6.3 million parameters (paper)",
    "vit_7_8_12_768": "ViT, MLP of width 768, 8.3 million parameters (paper)",
}
