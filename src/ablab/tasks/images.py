"""Small grey pictures with labels, read and split: digits that every installation has, or a folder of your own.

The folder holds files in the format of MNIST (LeCun et al. 1998; the format, "idx", is on its page): a header of big
endian integers, then one unsigned byte for each pixel or label. Fashion-MNIST, KMNIST and others come in it as well.
"""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError
from ablab.results.record import Corpus
from ablab.tasks.corpus import SourceFile, fingerprint, unit_hash
from ablab.tasks.plain_files import read_plain

CLASSES = 10  # labels are 0..9

_DIGITS_LEVELS = 17
_BYTE_LEVELS = 256
_PREFIXES = {"train": "train", "test": "t10k"}  # of the names of files
_MAGIC = {"images": 0x803, "labels": 0x801}  # unsigned bytes, and the number of dimensions
_READ_ERRORS = (OSError, EOFError, zlib.error)  # the last two of a damaged gzip


@dataclass(frozen=True)
class Images:
    """Pictures with their labels."""

    pixels: NDArray[np.uint8]  # (N, H, W), grey levels from 0 on
    labels: NDArray[np.int64]  # (N,), 0..CLASSES-1

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Images:
        """Those for which `chosen` (N,) is true, or those of such numbers, in order."""
        return Images(self.pixels[chosen], self.labels[chosen])


def load_images(path: str | None, val_fraction: float, test_fraction: float) -> tuple[dict[str, Images], int, Corpus]:
    """Images by split, the number of grey levels, and what was read.

    A hash of an image's own pixels says which split it goes to, so that equal images share one, and more images move
    none. A folder's own test set stays the test split, whole, and then `test_fraction` counts for nothing.

    Args:
        path: a folder with files in MNIST's format, `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` or
            `t10k-...` or both, each of them also with `.gz`; a relative one starts at the working directory. None:
            the 1,797 digits of 8x8 pixels and 17 levels that come with scikit-learn.
        val_fraction, test_fraction: expected shares; without a test share there is no "test".

    Raises:
        UserError: a file is missing or damaged, or a split gets no image.
    """
    found, levels, corpus = _digits() if path is None else _read_folder(Path(os.path.expanduser(path)))
    if len(found) == 2:
        splits = _split(found["train"], val_fraction, 0.0) | {"test": found["test"]}
    else:
        (images,) = found.values()
        splits = _split(images, val_fraction, test_fraction)
    for split, images in splits.items():
        if not len(images):
            raise UserError(
                f"{corpus.name}: no image for the {split} split: give more images, or change task.val_fraction and "
                f"task.test_fraction"
            )
    return splits, levels, corpus


def _split(images: Images, val: float, test: float) -> dict[str, Images]:
    place = np.array([unit_hash("image", pixels.tobytes().decode("latin-1")) for pixels in images.pixels])
    splits = {"train": images.take(place >= val + test), "val": images.take(place < val)}
    return splits | ({"test": images.take((place >= val) & (place < val + test))} if test else {})


def _digits() -> tuple[dict[str, Images], int, Corpus]:
    from sklearn.datasets import load_digits  # takes seconds, which a folder of one's own need not wait for

    read = load_digits()
    images = Images(read.images.astype(np.uint8), read.target.astype(np.int64))
    files = [SourceFile("images", images.pixels.tobytes()), SourceFile("labels", images.labels.tobytes())]
    return {"train": images}, _DIGITS_LEVELS, _corpus("the digits of scikit-learn", files)


def _corpus(name: str, files: list[SourceFile]) -> Corpus:
    size_bytes = sum(len(file.data) for file in files)
    return Corpus(name=name, sha256=fingerprint(files), size_bytes=size_bytes, files=len(files))


def _read_folder(folder: Path) -> tuple[dict[str, Images], int, Corpus]:
    """The sets that are there, "train", "test" or both."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder in {Path.cwd()}: mend task.path")
    folder = _within(folder)
    found: dict[str, Images] = {}
    files: list[SourceFile] = []
    for kind, prefix in _PREFIXES.items():
        paths = {what: _find(folder, prefix, what) for what in _MAGIC}
        pixels, labels = paths["images"], paths["labels"]
        if pixels and labels:
            read = [_read(pixels), _read(labels)]
            found[kind] = _images(pixels, read[0].data, labels, read[1].data)
            files += read
        elif pixels or labels:
            missing = "labels" if pixels else "images"
            raise UserError(f"{pixels or labels}: its {missing} are not there: add {_names(prefix, missing)[0]}[.gz]")
    if not found:
        raise UserError(
            f"{folder}: holds no images in MNIST's format: it needs {_names('train', 'images')[0]}[.gz] and "
            f"{_names('train', 'labels')[0]}[.gz], or the same of t10k"
        )
    shapes = {kind: images.pixels.shape[1:] for kind, images in found.items()}
    if len(set(shapes.values())) > 1:
        sizes = " and ".join(f"{height}x{width} pixels in {kind}" for kind, (height, width) in shapes.items())
        raise UserError(f"{folder}: images of {sizes}: give sets of one size")
    return found, _BYTE_LEVELS, _corpus(str(folder), files)


def _within(folder: Path) -> Path:
    """The folder itself, or the one in it that has the files, as torchvision lays them out: `MNIST/raw`."""
    places = [folder, folder / "raw", *sorted(folder.glob("*/raw"))]
    found = [
        place for place in places if any(_find(place, prefix, what) for prefix in _PREFIXES.values() for what in _MAGIC)
    ]
    if len(found) > 1 and found[0] != folder:
        raise UserError(f"{folder}: holds several sets ({', '.join(str(each) for each in found)}): give one of these")
    return found[0] if found else folder


def _names(prefix: str, what: str) -> list[str]:
    """The names by which such a file goes."""
    dimensions = _MAGIC[what] & 0xFF
    return [f"{prefix}-{what}{mark}idx{dimensions}-ubyte" for mark in "-."]


def _find(folder: Path, prefix: str, what: str) -> Path | None:
    paths = (folder / f"{name}{suffix}" for name in _names(prefix, what) for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path) -> SourceFile:
    """The content, unpacked, so that a set is the same corpus packed or not."""
    name = path.name.removesuffix(".gz").replace(".idx", "-idx")
    try:
        data = read_plain(path)
        return SourceFile(name, gzip.decompress(data) if path.suffix == ".gz" else data)
    except _READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}): fetch it again") from error


def _images(pixels: Path, pixel_data: bytes, labels: Path, label_data: bytes) -> Images:
    images, numbers = _parse(pixels, pixel_data, "images"), _parse(labels, label_data, "labels").astype(np.int64)
    if len(images) != len(numbers):
        raise UserError(f"{pixels}: {len(images)} images, but {len(numbers)} labels in {labels.name}: fetch both again")
    if images.size == 0:
        raise UserError(f"{pixels}: holds no pixel: fetch it again")
    if numbers.max() >= CLASSES:
        raise UserError(f"{labels}: label {numbers.max()}: labels must be 0 to {CLASSES - 1}; give a set of 10 classes")
    return Images(images, numbers)


def _parse(path: Path, data: bytes, what: str) -> NDArray[np.uint8]:
    """The array in an idx file: images (N, H, W) or labels (N,)."""
    magic = _MAGIC[what]
    dimensions = magic & 0xFF
    start = 4 * (1 + dimensions)
    if len(data) < start:
        raise UserError(f"{path}: {len(data)} bytes, too few for a header: fetch it again")
    first, *shape = (int(number) for number in np.frombuffer(data, ">u4", 1 + dimensions))
    if first != magic:
        raise UserError(f"{path}: starts with {first}, not with {magic} as {what} in MNIST's format do")
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise UserError(
            f"{path}: {len(data)} bytes, but its header ({' x '.join(map(str, shape))}) says {expected}: fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
