"""Images as they come from disk: what a file says is what is read, and a damaged one is named."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ablab.errors import UserError
from ablab.tasks.images import Images, load_images

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"


def drawn(count: int, height: int = 5, width: int = 3, seed: int = 0) -> Images:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, height, width), dtype=np.uint8)
    return Images(pixels, generator.integers(0, 10, count))


def packed(array: NDArray[np.uint8], magic: int) -> bytes:
    """As the format's page says: the magic number and the sizes, big endian, then the bytes."""
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + bytes(array.ravel().tolist())


def write(folder: Path, images: Images, prefix: str = "train", *, suffix: str = "", mark: str = "-") -> Path:
    folder.mkdir(exist_ok=True)
    contents = {IMAGES: packed(images.pixels, 2051), LABELS: packed(images.labels.astype(np.uint8), 2049)}
    for name, data in contents.items():
        path = folder / (name.format(prefix).replace("-idx", f"{mark}idx") + suffix)
        path.write_bytes(gzip.compress(data) if suffix else data)
    return folder


def rows(images: Images) -> list[tuple[bytes, int]]:
    return [(pixels.tobytes(), int(label)) for pixels, label in zip(images.pixels, images.labels, strict=True)]


def test_digits_are_there_without_a_path() -> None:
    splits, levels, corpus = load_images(None, 0.1, 0.1)
    assert list(splits) == ["train", "val", "test"]
    assert sum(map(len, splits.values())) == 1797
    assert all(images.pixels.shape[1:] == (8, 8) for images in splits.values())
    assert levels == 17 == max(int(images.pixels.max()) for images in splits.values()) + 1
    assert all(np.unique(images.labels).tolist() == list(range(10)) for images in splits.values())
    assert 0.07 < len(splits["val"]) / 1797 < 0.13
    assert corpus.size_bytes > 1797 * 64


@pytest.mark.parametrize("below", ["raw", "MNIST/raw"])
def test_a_folder_is_read_at_its_top_as_torchvision_lays_it_out(tmp_path: Path, below: str) -> None:
    (tmp_path / "top" / below).parent.mkdir(parents=True)
    write(tmp_path / "top" / below, drawn(300))
    _, _, corpus = load_images(str(tmp_path / "top"), 0.2, 0.1)
    assert corpus.sha256 == load_images(str(tmp_path / "top" / below), 0.2, 0.1)[2].sha256


def test_of_several_sets_in_a_folder_one_must_be_named(tmp_path: Path) -> None:
    for name in ("MNIST", "KMNIST"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "raw", drawn(300))
    with pytest.raises(UserError, match=r"holds several sets \(.*KMNIST/raw, .*MNIST/raw\): give one of these"):
        load_images(str(tmp_path), 0.2, 0.1)


@pytest.mark.parametrize(("suffix", "mark"), [("", "-"), (".gz", "-"), ("", "."), (".gz", ".")])
def test_what_was_written_is_read(tmp_path: Path, suffix: str, mark: str) -> None:
    images = drawn(300)
    splits, levels, corpus = load_images(str(write(tmp_path, images, suffix=suffix, mark=mark)), 0.2, 0.1)
    assert levels == 256
    assert sorted(row for split in splits.values() for row in rows(split)) == sorted(rows(images))
    plain = load_images(str(write(tmp_path / "plain", images)), 0.2, 0.1)[2]
    assert (corpus.sha256, corpus.size_bytes) == (plain.sha256, plain.size_bytes)


def test_the_split_depends_on_an_images_own_pixels_alone(tmp_path: Path) -> None:
    """Shuffled, doubled and with others among them, every image stays in its split, and equal ones stay together."""
    few, others = drawn(200), drawn(150, seed=1)
    order = np.random.default_rng(2).permutation(550)
    many = Images(np.concatenate([few.pixels, few.pixels, others.pixels]), np.zeros(550, np.int64)).take(order)
    before = load_images(str(write(tmp_path / "few", few)), 0.2, 0.2)[0]
    after = load_images(str(write(tmp_path / "many", many)), 0.2, 0.2)[0]
    met = [{pixels for pixels, _ in rows(after[split])} for split in ("train", "val", "test")]
    assert sum(map(len, met)) == 350  # no image is in two
    for split, images in zip(("train", "val", "test"), met, strict=True):
        assert {pixels for pixels, _ in rows(before[split])} <= images


def test_a_test_set_of_its_own_stays_whole_and_either_set_does_alone(tmp_path: Path) -> None:
    train, test = drawn(200), drawn(60, seed=1)
    both = load_images(str(write(write(tmp_path / "both", train), test, "t10k", suffix=".gz")), 0.2, 0.3)[0]
    assert rows(both["test"]) == rows(test)
    assert sorted(rows(both["train"]) + rows(both["val"])) == sorted(rows(train))
    alone = load_images(str(write(tmp_path / "alone", test, "t10k")), 0.2, 0.2)[0]
    assert sorted(row for split in alone.values() for row in rows(split)) == sorted(rows(test))
    assert "test" not in load_images(str(tmp_path / "alone"), 0.2, 0.0)[0]


def damage(folder: Path, name: str, data: bytes) -> None:
    (folder / name.format("train")).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (IMAGES, b"", r"0 bytes, too few for a header"),
        (IMAGES, packed(drawn(9).pixels, 2049), r"starts with 2049, not with 2051"),
        (LABELS, packed(np.zeros(9, np.uint8), 2051), r"starts with 2051, not with 2049"),
        (IMAGES, packed(drawn(9).pixels, 2051)[:-1], r"150 bytes, but its header \(9 x 5 x 3\) says 151"),
        (IMAGES, packed(drawn(9).pixels, 2051) + b"x", r"152 bytes, but its header"),
        (IMAGES, struct.pack(">4I", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1), r"16 bytes, but its header"),
        (LABELS, packed(np.zeros(8, np.uint8), 2049), r"9 images, but 8 labels"),
        (LABELS, packed(np.full(9, 10, np.uint8), 2049), r"label 10: labels must be 0 to 9"),
        (IMAGES, packed(np.zeros((9, 0, 3), np.uint8), 2051), r"holds no pixel"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    damage(write(tmp_path, drawn(9)), name, data)
    with pytest.raises(UserError, match=message) as caught:
        load_images(str(tmp_path), 0.2, 0.2)
    assert "train-" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damaged", [lambda data: data[:-9], lambda data: b"x" + data, lambda data: data[:20] + b"!" * 9]
)
def test_a_damaged_archive_is_named(tmp_path: Path, damaged: Callable[[bytes], bytes]) -> None:
    write(tmp_path, drawn(400), suffix=".gz")
    path = tmp_path / (IMAGES.format("train") + ".gz")
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: cannot be read .*: fetch it again"):
        load_images(str(tmp_path), 0.2, 0.2)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_images(str(tmp_path / "nowhere"), 0.1, 0.1)
    with pytest.raises(UserError, match=r"no images in MNIST's format: it needs train-images-idx3-ubyte\[\.gz\]"):
        load_images(str(tmp_path), 0.1, 0.1)
    write(tmp_path, drawn(9))
    (tmp_path / LABELS.format("train")).unlink()
    with pytest.raises(UserError, match="its labels are not there: add train-labels-idx1-ubyte"):
        load_images(str(tmp_path), 0.1, 0.1)


def test_sets_of_two_sizes_and_too_few_images(tmp_path: Path) -> None:
    write(write(tmp_path / "two", drawn(9)), drawn(9, height=4), "t10k")
    with pytest.raises(UserError, match="images of 5x3 pixels in train and 4x3 pixels in test"):
        load_images(str(tmp_path / "two"), 0.1, 0.1)
    with pytest.raises(UserError, match="no image for the"):
        load_images(str(write(tmp_path / "few", drawn(1))), 0.1, 0.1)


@pytest.mark.skipif(not MNIST.is_dir(), reason="the files of MNIST are not at hand")
def test_mnist_itself() -> None:
    """Against what is known of its test set: how often each digit is in it, and where the first begins."""
    splits, levels, _ = load_images(str(MNIST), 0.1, 0.1)
    labels = np.concatenate([images.labels for images in splits.values()])
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert levels == 256
    assert all(images.pixels.shape[1:] == (28, 28) for images in splits.values())
    ones = splits["train"].pixels[splits["train"].labels == 1].mean(0)
    assert ones[:, 14].sum() > 10 * ones[:, 4].sum()  # a stroke in the middle
