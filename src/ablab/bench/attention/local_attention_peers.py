"""The package `local-attention`, in each configuration that does the same work: exactly the window.

It sees as many keys as its chunks make, the query's own beside them: one key more than a window of that size.
"""

from __future__ import annotations

from importlib import import_module

from torch import Tensor

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Implementation
from ablab.bench.attention.setting import Setting


def implementations(setting: Setting) -> list[Implementation]:
    """Raises ImportError where the package is missing."""
    import_module("local_attention")
    chunks = {setting.window: 1}
    if setting.window % setting.chunk == 0:
        chunks[setting.chunk] = setting.window // setting.chunk
    return [_chunked(chunk, back) for chunk, back in chunks.items()]


def _chunked(chunk: int, back: int) -> Implementation:
    def build(setting: Setting, length: int) -> Attention:
        return _Local(chunk, back)

    return Implementation(name=f"local-attention-{chunk}x{back}", ours=False, family="windowed", build=build)


class _Local(Attention):
    def __init__(self, chunk: int, back: int) -> None:
        self.window = chunk * back + 1
        self.module = import_module("local_attention").LocalAttention(
            window_size=chunk,
            look_backward=back,
            causal=True,
            exact_windowsize=True,
            use_rotary_pos_emb=False,
            autopad=True,
        )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.module(q, k, v)
        return out

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        seen = definitions.window(positions, q.shape[2], keys=self.window, causal=True)
        return definitions.weighted(q, k, v, positions, seen)
