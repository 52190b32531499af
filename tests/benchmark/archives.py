"""Makes small CIFAR-10 archives, whole and broken."""

import io
import tarfile

import numpy as np

from zsharp_jax.benchmark import cifar


def batch_content(rng, count):
    labels = rng.integers(0, 10, (count, 1), dtype=np.uint8)
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return np.concatenate([labels, pixels], axis=1).tobytes()


def whole_contents(records_per_file=20):
    rng = np.random.default_rng(0)
    files = cifar.TRAIN_FILES + cifar.TEST_FILES
    contents = {f"{cifar.FOLDER}/{name}": batch_content(rng, records_per_file) for name in files}
    return {f"{cifar.FOLDER}/batches.meta.txt": b"airplane\n", **contents}


def write_archive(path, contents, links=()):
    """Writes a tar.gz of {name: content}, and symbolic links of (name, target)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, target in links:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
