"""Datasets that come as an official archive: CIFAR-10, CIFAR-100 and Tiny-ImageNet-200.

Images take one way, and each station of it is a module:

    archive (archive, download) -> reader (cifar, tiny_imagenet) -> TFDS folder (builders) -> cache

- An archive is never unpacked to disk. The readers check it and give its images and labels; they
  need neither tensorflow-datasets nor TensorFlow.
- Where tensorflow-datasets is installed, the reader feeds a builder of the stock name, version and
  features, so that `tfds.data_source("cifar10")` finds what was prepared. Where it is not, the
  reader feeds the cache.
- The cache holds plain `.npy` files in the order of the archive. All that trains reads the cache,
  and needs nothing else.

`obtain` decides where on this way to begin.
"""
