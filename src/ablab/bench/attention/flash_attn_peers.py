"""The package `flash-attn` (CUDA, half precision): its sliding window."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Implementation
from ablab.bench.attention.setting import Setting


def implementations(setting: Setting) -> list[Implementation]:
    """Raises ImportError where the package is missing."""
    import_module("flash_attn")
    return [Implementation(name="flash-attn-window", ours=False, family="windowed", build=_Window, heads_first=False)]


class _Window(Attention):
    def __init__(self, setting: Setting, length: int) -> None:
        self.window = setting.window
        self.function = import_module("flash_attn").flash_attn_func

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = self.function(*rows, causal=True, window_size=(self.window - 1, 0))
        return out.transpose(1, 2)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        seen = definitions.window(positions, q.shape[2], keys=self.window, causal=True)
        return definitions.weighted(q, k, v, positions, seen)
