"""Digits as people write them: images, cut into patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ablab.tasks.images import Images, load_images


class Handwriting:
    """Images of digits by split; no image is in two.

    Args:
        path: as `load_images` takes it.
        patches: along each side of an image.
        fractions: expected shares of the images for validation and test.

    Raises:
        ValueError: the images cannot be cut so.
        UserError: they are missing or damaged.
    """

    def __init__(self, path: str | None, *, patches: int, fractions: tuple[float, float]) -> None:
        images, levels, self.corpus = load_images(path, *fractions)
        self._patches = {split: _cut(its, patches, levels) for split, its in images.items()}
        self._rows = {
            split: [np.flatnonzero(its.labels == digit) for digit in range(10)] for split, its in images.items()
        }

    @property
    def training(self) -> NDArray[np.float32]:
        """The patches of all training images (N, patches^2, pixels of a patch), within [0, 1]."""
        return self._patches["train"]

    def draw(self, generator: np.random.Generator, digits: NDArray[np.int64], split: str) -> NDArray[np.float32]:
        """An image of each of the digits (N,), as its patches in raster order (N, patches^2, pixels of a patch)."""
        return self._patches[split][choose(generator, digits, self._rows[split])]


def choose(
    generator: np.random.Generator, digits: NDArray[np.int64], rows: list[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """For each of the digits (N,) one of its rows."""
    chances = generator.random(len(digits))
    picked = [rows[digit][int(chance * len(rows[digit]))] for digit, chance in zip(digits, chances, strict=True)]
    return np.array(picked, dtype=np.int64)


def _cut(images: Images, patches: int, levels: int) -> NDArray[np.float32]:
    count, height, width = images.pixels.shape
    if height % patches or width % patches:
        raise ValueError(f"task.patches={patches} does not divide the images' sides of {height} and {width} pixels")
    grid = images.pixels.reshape(count, patches, height // patches, patches, width // patches)
    cut = grid.transpose(0, 1, 3, 2, 4).reshape(count, patches**2, -1)
    scaled: NDArray[np.float32] = cut.astype(np.float32) / np.float32(levels - 1)
    return scaled
