"""Digits as they sound when one dials them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ablab.tasks.multimodal.spectrogram import RATE, Spectrogram

# Frequencies in hertz (ITU-T Recommendation Q.23, table 1), by digit.
_LOW = np.array([941, 697, 697, 697, 770, 770, 770, 852, 852, 852])
_HIGH = np.array([1336, 1209, 1336, 1477, 1209, 1336, 1477, 1209, 1336, 1477])

_QUIETEST_DB = -20.0  # of a tone, below full scale


class Dialling:
    """Dual-tone dialling signals (ITU-T Q.23) in noise, drawn anew each time: phases, level and noise are random.

    Args:
        snr_db: lowest and highest ratio of the tones' power to that of the noise, in decibels.

    Raises:
        ValueError: these are not two numbers in order.
    """

    name = "dialling tones"
    sha256 = ""  # it reads nothing
    files = size_bytes = 0

    def __init__(self, spectrogram: Spectrogram, *, snr_db: tuple[float, float]) -> None:
        if len(snr_db) != 2 or not snr_db[0] <= snr_db[1]:
            raise ValueError(f"task.snr_db={list(snr_db)}: must be the lowest and the highest ratio")
        self._spectrogram, self._snr_db = spectrogram, snr_db
        angles = 2 * np.pi * np.arange(spectrogram.samples) / RATE * np.stack([_LOW, _HIGH])[..., None]
        self._waves = np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)  # (2, 2, digits, samples)

    def waves(self, generator: np.random.Generator, digits: NDArray[np.int64]) -> NDArray[np.float32]:
        """The sound of digits (N,): (N, samples) within [-1, 1], but for the noise."""
        count = len(digits)
        phases = generator.uniform(0, 2 * np.pi, (2, count)).astype(np.float32)
        level = 10 ** (generator.uniform(_QUIETEST_DB, 0, count) / 20) / 2  # two tones reach full scale
        snr = 10 ** (generator.uniform(*self._snr_db, count) / 10)
        # sin(a + phase) = cos(phase) sin(a) + sin(phase) cos(a), with the waves of every digit at hand.
        turned = np.stack([np.cos(phases), np.sin(phases)], axis=1)  # (tones, parts, N)
        tones = np.einsum("tpn,tpns->ns", turned, self._waves[:, :, digits])
        # The power of a sine of amplitude one is a half; there are two.
        noise = generator.standard_normal(tones.shape, dtype=np.float32)
        noise /= np.sqrt(snr).astype(np.float32)[:, None]
        sound: NDArray[np.float32] = (tones + noise) * level.astype(np.float32)[:, None]
        return sound

    def draw(
        self, generator: np.random.Generator, digits: NDArray[np.int64], split: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Tokens (N, length, features) of the sound of digits (N,), and where there is none (N, length): nowhere."""
        tokens = self._spectrogram.tokens(self.waves(generator, digits))
        return tokens, np.zeros(tokens.shape[:2], dtype=bool)
