"""Digits as people write and say them: images, cut into patches, and a folder of recordings."""

from __future__ import annotations

import os
import re
import struct
import warnings
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

from ablab.errors import UserError, one_line
from ablab.tasks.cache import Arrays, cached
from ablab.tasks.corpus import SourceFile, fingerprint, unit_hash
from ablab.tasks.images import Images, load_images
from ablab.tasks.multimodal.sounds import RATE, Spectrogram
from ablab.tasks.plain_files import read_plain

_NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<index>[0-9]+)\.wav")
_SPLITS = ("val", "test", "train")
_CUT_OFF = (wavfile.WavFileWarning, struct.error, EOFError)
_RATES = range(1000, 1_000_000)  # samples a second; with others, resampling could take any memory
_CHECKED = 2  # what is checked of recordings; with more, those that are kept are read anew


class Handwriting:
    """Images of digits by split; no image is in two.

    Args:
        path: as `load_images` takes it.
        patches: along each side of an image.
        fractions: expected shares of the images for validation and test.

    Raises:
        ValueError: the images cannot be cut so.
        UserError: they are missing or damaged, or a split lacks a digit.
    """

    def __init__(self, path: str | None, *, patches: int, fractions: tuple[float, float]) -> None:
        images, levels, self.corpus = load_images(path, *fractions)
        self._patches = {split: _cut(its, patches, levels) for split, its in images.items()}
        self._rows = {
            split: [np.flatnonzero(its.labels == digit) for digit in range(10)] for split, its in images.items()
        }
        for split, rows in self._rows.items():
            if missing := _missing(rows):
                raise UserError(
                    f"{self.corpus.name}: no image of {missing} in the {split} split, and each needs all ten: "
                    "give more images, or change task.val_fraction and task.test_fraction"
                )

    @property
    def training(self) -> NDArray[np.float32]:
        """The patches of all training images (N, patches^2, pixels of a patch), within [0, 1]."""
        return self._patches["train"]

    def draw(self, generator: np.random.Generator, digits: NDArray[np.int64], split: str) -> NDArray[np.float32]:
        """Draw an image of each of the digits (N,): patches in raster order (N, patches^2, pixels of a patch)."""
        return self._patches[split][choose(generator, digits, self._rows[split])]


def _missing(rows: list[NDArray[np.int64]]) -> str:
    return ", ".join(str(digit) for digit, its in enumerate(rows) if not len(its))


def choose(
    generator: np.random.Generator, digits: NDArray[np.int64], rows: list[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Draw one of its rows for each of the digits (N,)."""
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


class Speech:
    """The recordings `{digit}_{speaker}_{index}.wav` of a folder, as the free spoken digits data set names them.

    A hash of the speakers' names puts one of them into the validation split, one into the test split and the others
    into training, so that no speaker is in two. Spectrograms are made once and kept (`ablab.tasks.cache`).

    Raises:
        UserError: no folder, no such recording, a damaged one, fewer than three speakers, or one that lacks a digit.
    """

    name = "speech"

    def __init__(self, folder: str, spectrogram: Spectrogram) -> None:
        self._spectrogram = spectrogram
        files = _read(Path(os.path.expanduser(folder)))
        self.sha256, self.files = fingerprint(files), len(files)
        self.size_bytes = sum(len(file.data) for file in files)
        settings = {
            "sha256": self.sha256,
            "checked": _CHECKED,
            "seconds": spectrogram.seconds,
            "frames": spectrogram.frames,
            "n_fft": spectrogram.n_fft,
            "hop": spectrogram.hop,
        }
        root = Path(os.path.expanduser(folder))
        arrays = cached("spectrograms", settings, lambda: _analysed(root, files, spectrogram))
        self._tokens, self._padding = arrays["tokens"], arrays["padding"]
        named = [_parts(file.name) for file in files]
        speakers = [speaker for _, speaker in named]
        self.splits = split_speakers(sorted(set(speakers)), folder)
        digits = np.array([digit for digit, _ in named])
        of = np.array([self.splits[speaker] for speaker in speakers])
        self._rows = {
            split: [np.flatnonzero((of == split) & (digits == digit)) for digit in range(10)] for split in _SPLITS
        }
        for split, rows in self._rows.items():
            if missing := _missing(rows):
                who = ", ".join(speaker for speaker, its in self.splits.items() if its == split)
                raise UserError(f"{folder}: no recording of {missing} by {who}: every split needs each digit")

    def draw(
        self, generator: np.random.Generator, digits: NDArray[np.int64], split: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Draw a recording of each digit (N,): tokens (N, length, features), and true where none (N, length)."""
        rows = choose(generator, digits, self._rows[split])
        return self._tokens[rows], self._padding[rows]


def split_speakers(speakers: list[str], folder: str) -> dict[str, str]:
    """Assign each speaker to a split. Raises UserError where there are too few."""
    if len(speakers) < 3:
        raise UserError(
            f"{folder}: {len(speakers)} speakers: each of train, val and test needs at least one of its own"
        )
    order = sorted(speakers, key=lambda speaker: (unit_hash("speaker", speaker), speaker))
    return {speaker: _SPLITS[min(place, 2)] for place, speaker in enumerate(order)}


def _parts(name: str) -> tuple[int, str]:
    found = _NAME.fullmatch(name)
    assert found is not None
    return int(found["digit"]), found["speaker"]


def _read(folder: Path) -> list[SourceFile]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: mend task.audio_path, or null for dialling tones")
    paths = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    if not paths:
        raise UserError(
            f"{folder}: no recordings named {{digit}}_{{speaker}}_{{index}}.wav in it: mend task.audio_path"
        )
    try:
        return [SourceFile(path.name, read_plain(path)) for path in paths]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _analysed(folder: Path, files: list[SourceFile], spectrogram: Spectrogram) -> Arrays:
    waves = np.zeros((len(files), spectrogram.samples), dtype=np.float32)
    sizes = np.zeros(len(files), dtype=np.int64)
    for row, file in enumerate(files):
        wave = read_wave(folder / file.name)[: spectrogram.samples]
        waves[row, : len(wave)], sizes[row] = wave, len(wave)
    return {"tokens": spectrogram.tokens(waves), "padding": spectrogram.padding(sizes)}


def read_wave(path: Path) -> NDArray[np.float32]:
    """Read the sound in a WAV file, within [-1, 1], at `RATE` samples a second; channels are averaged.

    Raises:
        UserError: it is damaged, empty or silent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no sound
        warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
        try:
            rate, data = wavfile.read(path)
        except Exception as error:  # of a damaged header nearly anything
            reason = "it ends too early" if isinstance(error, _CUT_OFF) else one_line(error)
            raise UserError(f"{path}: not a WAV file that can be read ({reason}): replace or remove it") from error
    if rate not in _RATES:
        raise UserError(f"{path}: {rate:,} samples a second are no rate of a recording: replace or remove it")
    if not data.size:
        raise UserError(f"{path}: holds no sound: replace or remove it")
    if not np.isfinite(data).all():
        raise UserError(f"{path}: holds samples that are no numbers: replace or remove it")
    if data.min() == data.max():
        raise UserError(f"{path}: is silent from beginning to end: replace or remove it")
    wave = data.astype(np.float64)
    if data.dtype == np.uint8:
        wave = wave / 128 - 1
    elif np.issubdtype(data.dtype, np.integer):
        wave = wave / -float(np.iinfo(data.dtype).min)
    wave = wave if wave.ndim == 1 else wave.mean(axis=1)
    if rate != RATE:
        shared = gcd(rate, RATE)
        wave = resample_poly(wave, RATE // shared, rate // shared)
    return wave.astype(np.float32)
