"""Attentions of small packages: `flash-attn` (CUDA, half precision), `local-attention` and `reformer-pytorch`."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor
from torch.nn.functional import normalize

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Implementation, Setting


def flash_attn(setting: Setting) -> list[Implementation]:
    """Its sliding window. Raises ImportError where the package is missing."""
    import_module("flash_attn")
    build = _FlashWindow
    return [Implementation(name="flash-attn-window", ours=False, family="windowed", build=build, heads_first=False)]


class _FlashWindow(Attention):
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


def local_attention(setting: Setting) -> list[Implementation]:
    """Each configuration that sees exactly the window. Raises ImportError where the package is missing."""
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
    """Sees as many keys as its chunks make, the query's own beside them: one key more than a window of that size."""

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


def reformer(setting: Setting) -> list[Implementation]:
    """LSH attention with shared queries and keys. Raises ImportError where the package is missing."""
    import_module("reformer_pytorch")
    return [Implementation(name="reformer-pytorch", ours=False, family="lsh", build=_ReformerLSH)]


class _ReformerLSH(Attention):
    """As the package has it: a key that several rounds bring counts as often, and chunks look across buckets."""

    buckets: Tensor | None = None  # of the last call

    def __init__(self, setting: Setting, length: int) -> None:
        self.chunk = setting.chunk
        self.shape = (setting.batch, setting.heads, setting.hash_rounds, length)
        module = import_module("reformer_pytorch").LSHAttention(
            bucket_size=setting.chunk, n_hashes=setting.hash_rounds, causal=True
        )
        self.module = module.eval()  # in training it would also keep the buckets of its last call

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, _, buckets = self.module(q.flatten(0, 1), v.flatten(0, 1))
        self.buckets = buckets
        mixed: Tensor = out.view(q.shape)
        return mixed

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        assert self.buckets is not None
        seen = definitions.sorted_chunks(self.buckets.view(self.shape), positions, chunk=self.chunk)
        seen, self.buckets = definitions.self_only_if_alone(seen, positions), None
        return definitions.weighted(q, normalize(q, dim=-1), v, positions, seen)
