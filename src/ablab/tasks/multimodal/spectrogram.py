"""Sound as tokens: patches of its log-spectrogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

RATE = 8000  # samples a second, as on a telephone
_QUIETEST = 1e-8  # power that is added before the logarithm: below any sound, above rounding


@dataclass(frozen=True, kw_only=True)
class Spectrogram:
    """Cuts sound into frames of a short-time Fourier transform, and these into tokens of `frames` neighbours.

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
        power = (spectrum.abs().square() + _QUIETEST).log().transpose(1, 2)
        return power[:, : self.length * self.frames].reshape(len(waves), self.length, self.features).numpy()

    def padding(self, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N, length): true where a token begins behind the end of a sound of `sizes` (N,) samples; never the first."""
        starts = np.arange(self.length) * self.frames * self.hop
        return (starts >= sizes[:, None]) & (starts > 0)
