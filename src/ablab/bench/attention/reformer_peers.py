"""The package `reformer-pytorch`: LSH attention with shared queries and keys, of one head at a time in the batch."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor
from torch.nn.functional import normalize

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Implementation
from ablab.bench.attention.setting import Setting


def implementations(setting: Setting) -> list[Implementation]:
    """Raises ImportError where the package is missing."""
    import_module("reformer_pytorch")
    return [Implementation(name="reformer-pytorch", ours=False, family="lsh", build=_LSH)]


class _LSH(Attention):
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
