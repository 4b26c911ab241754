"""Sound as tokens, patches of its log-spectrogram; and digits as they sound when one dials them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

RATE = 8000  # samples a second, as on a telephone
_QUIETEST_POWER = 1e-8  # added before the logarithm: below any sound, above rounding
_QUIETEST_DB = -20.0  # of a tone, below full scale
# Frequencies in hertz (ITU-T Recommendation Q.23, table 1), by digit.
_LOW = np.array([941, 697, 697, 697, 770, 770, 770, 852, 852, 852])
_HIGH = np.array([1336, 1209, 1336, 1477, 1209, 1336, 1477, 1209, 1336, 1477])


class Sounds(Protocol):
    """A source of the sounds of digits."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def files(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def draw(
        self, generator: np.random.Generator, digits: NDArray[np.int64], split: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]: ...


@dataclass(frozen=True, kw_only=True)
class Spectrogram:
    """Cut sound into frames of a short-time Fourier transform, and these into tokens of `frames` neighbours.

    Each token has all frequencies (Gong et al. 2021 cut these, too).

    Args:
        seconds: of sound that are looked at; what is longer is cut.
        frames: in a token.
        n_fft: samples in a frame.
        hop: samples from one frame to the next.

    Raises:
        ValueError: so little sound has no token.
    """

    seconds: float
    frames: int
    n_fft: int = 256
    hop: int = 128

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"task.frames={self.frames}: must be at least 1")
        if not self.seconds > 0 or self.length < 1:
            shortest = (self.n_fft + (self.frames - 1) * self.hop) / RATE
            raise ValueError(f"task.seconds={self.seconds}: a token of task.frames={self.frames} takes {shortest:.3f}")

    @property
    def samples(self) -> int:
        """Of sound that are looked at."""
        return round(self.seconds * RATE)

    @property
    def length(self) -> int:
        """Tokens."""
        return (1 + (self.samples - self.n_fft) // self.hop) // self.frames

    @property
    def bins(self) -> int:
        """Frequencies in a frame."""
        return self.n_fft // 2 + 1

    @property
    def features(self) -> int:
        """Numbers in a token."""
        return self.frames * self.bins

    def tokens(self, waves: NDArray[np.float32]) -> NDArray[np.float32]:
        """log(|STFT|^2 + 1e-8) of waves (N, samples) within [-1, 1], as (N, length, features)."""
        spectrum = torch.stft(
            torch.from_numpy(waves),
            self.n_fft,
            self.hop,
            window=torch.hann_window(self.n_fft, device="cpu"),
            center=False,
            return_complex=True,
        )  # (N, bins, frames)
        power = (spectrum.abs().square() + _QUIETEST_POWER).log().transpose(1, 2)
        return power[:, : self.length * self.frames].reshape(len(waves), self.length, self.features).numpy()

    def padding(self, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N, length): true where a token begins behind the end of a sound of `sizes` (N,) samples; never the first."""
        starts = np.arange(self.length) * self.frames * self.hop
        return (starts >= sizes[:, None]) & (starts > 0)


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
        """Return the sound of digits (N,): (N, samples) within [-1, 1], but for the noise."""
        count = len(digits)
        phases = generator.uniform(0, 2 * np.pi, (2, count)).astype(np.float32)
        level = 10 ** (generator.uniform(_QUIETEST_DB, 0, count) / 20) / 2  # two tones reach full scale
        snr = 10 ** (generator.uniform(*self._snr_db, count) / 10)
        # sin(a + phase) = cos(phase) sin(a) + sin(phase) cos(a), with the waves of every digit at hand.
        turned = np.stack([np.cos(phases), np.sin(phases)], axis=1)  # (tones, sine and cosine, N)
        tones = np.einsum("tpn,tpns->ns", turned, self._waves[:, :, digits])
        # The power of a sine of amplitude one is a half; there are two.
        noise = generator.standard_normal(tones.shape, dtype=np.float32)
        noise /= np.sqrt(snr).astype(np.float32)[:, None]
        sound: NDArray[np.float32] = (tones + noise) * level.astype(np.float32)[:, None]
        return sound

    def draw(
        self, generator: np.random.Generator, digits: NDArray[np.int64], split: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Draw tokens (N, length, features) of digits (N,), and where there is no sound (N, length): nowhere."""
        tokens = self._spectrogram.tokens(self.waves(generator, digits))
        return tokens, np.zeros(tokens.shape[:2], dtype=bool)
