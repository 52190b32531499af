"""The builders of tensorflow-datasets that prepare our datasets without TensorFlow.

The stock builders of CIFAR need TensorFlow to unpack the archive and to encode the images. Those
here keep the name, the version, the features and the address of the stock ones and take the images
from our readers, so that what they write is found by the stock name, as in
`tfds.data_source("cifar10")`. Tiny-ImageNet is not in the catalogue of tensorflow-datasets; its
builder is registered as `tiny_imagenet_200`, stores each JPEG untouched, and has no `test`, since
those images have no labels.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any

import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core import utils
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import cifar as stock

from zsharp_jax.benchmark.datasets.archive import Archive
from zsharp_jax.benchmark.datasets.catalog import SOURCES, Source
from zsharp_jax.benchmark.datasets.contents import Contents, Split
from zsharp_jax.benchmark.datasets.tiny_imagenet import Jpegs


class FromReader(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose examples come from one of our readers; another class tells their features.

    Attributes:
        source: The dataset.
        test_split: What tensorflow-datasets calls the split that is tested on.
    """

    source: Source
    test_split = "test"
    url_infos = None  # those of the stock builder lie beside its own file; see `feed`

    _contents: Contents
    _archive: Archive
    _advance: Callable[[int], None]

    def feed(self, contents: Contents, archive: Archive, advance: Callable[[int], None]) -> None:
        """Gives what is to be prepared.

        Args:
            contents: What the reader gives.
            archive: Where it comes from.
            advance: Is called with the number of images that are newly taken.
        """
        self._contents, self._archive, self._advance = contents, archive, advance
        size = utils.Size(archive.path.stat().st_size)
        found = checksums.UrlInfo(size, archive.sha256, filename=archive.path.name)
        self.url_infos = {self.source.url: found}

    def _info(self) -> tfds.core.DatasetInfo:
        """That of the stock builder, with room for the digest of the archive."""
        info = super()._info()  # pyright: ignore[reportAbstractUsage]
        return tfds.core.DatasetInfo(
            builder=self,
            description=info.description,
            features=info.features,
            supervised_keys=info.supervised_keys,
            homepage=info.homepage,
            citation=info.citation,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        dl_manager.download(self.source.url)  # it lies there: this notes its size and digest
        features: Any = self.info.features
        metadata: Any = self.info.metadata
        metadata["archive_sha256"] = self._archive.sha256
        for label, names in self._contents.names.items():
            if len(set(names)) == len(names) == features[label].num_classes:
                features[label].names = names
        splits = {"train": "train", self.test_split: "test"}
        return {
            name: self._generate_examples(name, self._contents.splits[split])
            for name, split in splits.items()
        }

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, name: str, split: Split
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for place in range(len(split.images)):
            labels = {label: int(values[place]) for label, values in split.labels.items()}
            yield place, {"id": f"{name}_{place:05d}", "image": _stored(split, place), **labels}
            self._advance(1)


def _stored(split: Split, place: int) -> Any:
    """What tensorflow-datasets stores of an image: a JPEG as it is, pixels as a PNG."""
    pixels = split.images[place]  # of a JPEG too, since this refuses a damaged one
    if isinstance(split.images, Jpegs):
        return io.BytesIO(split.images.jpeg(place))
    return PIL.Image.fromarray(pixels)


class Cifar10(  # pyright: ignore[reportIncompatibleMethodOverride]
    FromReader, stock.Cifar10, skip_registration=True
):
    """CIFAR-10 by its stock name."""

    name = "cifar10"
    source = SOURCES["cifar10"]


class Cifar100(  # pyright: ignore[reportIncompatibleMethodOverride]
    FromReader, stock.Cifar100, skip_registration=True
):
    """CIFAR-100 by its stock name."""

    name = "cifar100"
    source = SOURCES["cifar100"]


class TinyImagenet200(FromReader):
    """Tiny-ImageNet-200."""

    VERSION = tfds.core.Version("1.0.0")
    name = "tiny_imagenet_200"
    source = SOURCES["tiny_imagenet"]
    test_split = "validation"

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=self.source.image_shape, encoding_format="jpeg")
        label = tfds.features.ClassLabel(num_classes=self.source.num_classes)
        return tfds.core.DatasetInfo(
            builder=self,
            description="200 classes of ImageNet at 64 x 64 pixels; 500 images of each to train "
            "on and 50 to validate on.",
            features=tfds.features.FeaturesDict(
                {"id": tfds.features.Text(), "image": image, "label": label}
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
            citation="Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015",
            metadata=tfds.core.MetadataDict(),
        )


BUILDERS = {builder.source.name: builder for builder in (Cifar10, Cifar100, TinyImagenet200)}
