"""Makes small archives in the official layouts, whole and broken."""

import dataclasses
import hashlib
import io
import tarfile
import warnings
import zipfile

import numpy as np
import PIL.Image

from zsharp_jax.benchmark.datasets import cifar
from zsharp_jax.benchmark.datasets import tiny_imagenet as tiny
from zsharp_jax.benchmark.datasets.catalog import SOURCES


def whole_contents(layout=cifar.CIFAR10, records_per_file=20):
    """The files of a CIFAR archive."""
    rng = np.random.default_rng(0)
    contents = {
        f"{layout.folder}/{name}": "".join(f"{label} {n}\n".replace(" ", "_") for n in range(count))
        .encode()
        for (label, name), count in zip(
            layout.name_files.items(), layout.labels.values(), strict=True
        )
    }  # fmt: skip
    for name in layout.train_files + layout.test_files:
        labels = [rng.integers(0, n, (records_per_file, 1)) for n in layout.labels.values()]
        pixels = rng.integers(0, 256, (records_per_file, cifar.PIXEL_BYTES))
        record = np.concatenate([*labels, pixels], axis=1).astype(np.uint8)
        contents[f"{layout.folder}/{name}"] = record.tobytes()
    return contents


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


def jpeg(rng, mode="RGB", size=(64, 64)):
    """A JPEG of random patches."""
    width, height = size
    shape = (8, 8, 3) if mode == "RGB" else (8, 8)
    image = PIL.Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    file = io.BytesIO()
    image.resize((width, height)).save(file, "JPEG")
    return file.getvalue()


CLASSES = ("n00000003", "n00000001", "n00000002")


def zip_contents():
    """The files of a Tiny-ImageNet archive: three classes, the first training image is grey."""
    rng = np.random.default_rng(0)
    contents = {"wnids.txt": "\n".join(CLASSES).encode(), "words.txt": b"n00000001\tegg\n"}
    for name in CLASSES:
        contents[f"train/{name}/{name}_boxes.txt"] = b""
        for number in range(4):
            mode = "L" if (name, number) == (CLASSES[0], 0) else "RGB"
            contents[f"train/{name}/images/{name}_{number}.JPEG"] = jpeg(rng, mode)
    labels = [CLASSES[number % 3] for number in range(5)]
    lines = [f"val_{number}.JPEG\t{name}\t0\t0\t9\t9\n" for number, name in enumerate(labels)]
    contents["val/val_annotations.txt"] = "".join(lines).encode()
    for number in reversed(range(5)):
        contents[f"val/images/val_{number}.JPEG"] = jpeg(rng)
    contents["test/images/test_0.JPEG"] = jpeg(rng)
    return {f"{tiny.FOLDER}/{name}": content for name, content in contents.items()}


def write_zip(path, contents, more=()):
    """Writes a zip of {name: content}, and of further (ZipInfo or name, content)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in [*contents.items(), *more]:
            archive.writestr(name, content)
    return path


def write_official(name, folder):
    """Writes an archive, and tells the dataset whose official archive it is."""
    source = SOURCES[name]
    path = folder / source.archive_name
    if name == "tiny_imagenet":
        write_zip(path, zip_contents())
        counts = {"train": 12, "test": 5}
    else:
        layout = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[name]
        write_archive(path, whole_contents(layout))
        counts = {"train": 20 * len(layout.train_files), "test": 20}
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, dataclasses.replace(source, sha256=sha256, counts=counts)
