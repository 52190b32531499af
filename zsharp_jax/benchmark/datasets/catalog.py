"""Which datasets come as an archive, where it is found, and how much is in it."""

import dataclasses

TIMEOUT = 10.0  # seconds that a download waits for an answer


@dataclasses.dataclass(frozen=True)
class Source:
    """One dataset.

    Attributes:
        name: Its name in `zsharp-bench`.
        url: Where the official archive is found.
        size: How many bytes the official archive has.
        sha256: The digest of the official archive.
        num_classes: How many classes there are; labels are 0 to `num_classes` - 1.
        image_shape: Height, width and channels of every image.
        counts: How many images the official archive has to train on and to test on.
    """

    name: str
    url: str
    size: int
    sha256: str
    num_classes: int
    image_shape: tuple[int, int, int]
    counts: dict[str, int]

    @property
    def archive_name(self) -> str:
        """The file name of the official archive."""
        return self.url.rsplit("/", 1)[1]


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="cifar10",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            num_classes=10,
            image_shape=(32, 32, 3),
            counts={"train": 50_000, "test": 10_000},
        ),
        Source(
            name="cifar100",
            url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            size=168_513_733,
            sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            num_classes=100,
            image_shape=(32, 32, 3),
            counts={"train": 50_000, "test": 10_000},
        ),
        Source(
            name="tiny_imagenet",
            url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            size=248_100_043,
            sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            num_classes=200,
            image_shape=(64, 64, 3),
            counts={"train": 100_000, "test": 10_000},  # its test split has no labels
        ),
    )
}
