"""The attention layers of Hugging Face's `transformers`: Reformer's local and LSH layers, and Longformer's.

They project the stream themselves. Here their projections hand on what they are given, so that attention alone is
timed.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Implementation, Setting


def implementations(setting: Setting) -> list[Implementation]:
    """Raises ImportError where the package is missing."""
    import_module("transformers.models.reformer.modeling_reformer")
    import_module("transformers.models.longformer.modeling_longformer")

    def factored(setting: Setting, length: int) -> Attention:
        return _ReformerLSH(setting, length, factored=True)

    return [
        _peer("transformers-reformer-local", "windowed", _ReformerLocal),
        _peer("transformers-longformer", "windowed", _Longformer, causal=False),
        _peer("transformers-reformer-lsh", "lsh", _ReformerLSH),
        _peer("transformers-reformer-lsh-factored", "lsh", factored),
    ]


def _peer(name: str, family: Any, build: Any, causal: bool = True) -> Implementation:
    return Implementation(name=name, ours=False, family=family, build=build, causal=causal, heads_first=False)


class _HandOn(nn.Module):
    """In place of a projection: returns what it was given beforehand, and lets go of it, as a projection would."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, stream: Tensor) -> Tensor:
        return self.given.pop()


class _Layer(Attention):
    """A layer whose projections, by name, are replaced."""

    def __init__(self, layer: Any, names: tuple[str, ...]) -> None:
        self.layer = layer.eval()
        self.projections = {name: _HandOn() for name in names}
        for name, projection in self.projections.items():
            setattr(layer, name, projection)

    def hand_on(self, **given: Tensor) -> None:
        for name, x in given.items():
            self.projections[name].given.append(x)


class _ReformerLocal(_Layer):
    """Sees whole chunks, the query's own and those that hold a window: the window and up to a chunk more."""

    def __init__(self, setting: Setting, length: int) -> None:
        self.chunk, self.back = setting.chunk, -(-setting.window // setting.chunk)
        config = _reformer(
            setting, attn_layers=["local"], local_attn_chunk_length=self.chunk, local_num_chunks_before=self.back
        )
        module = import_module("transformers.models.reformer.modeling_reformer")
        super().__init__(module.LocalSelfAttention(config, layer_idx=0).to(setting.device), ("query", "key", "value"))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        stream = _joined(q)
        self.hand_on(query=stream, key=_joined(k), value=_joined(v))
        return _split(self.layer(stream).hidden_states, q)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        seen = definitions.chunks_back(positions, q.shape[2], chunk=self.chunk, back=self.back)
        return definitions.weighted(q, k, v, positions, seen)


class _ReformerLSH(_Layer):
    """Scores are not divided by the square root of the head size, and a key counts as often as rounds bring it."""

    buckets: Tensor | None = None  # of the last call

    def __init__(self, setting: Setting, length: int, factored: bool = False) -> None:
        self.chunk = setting.chunk
        config = _reformer(
            setting,
            attn_layers=["lsh"],
            lsh_attn_chunk_length=self.chunk,
            num_hashes=setting.hash_rounds,
            num_buckets=_buckets(length // self.chunk, factored),
            max_position_embeddings=length,
        )
        module = import_module("transformers.models.reformer.modeling_reformer")
        super().__init__(module.LSHSelfAttention(config, layer_idx=0).to(setting.device), ("query_key", "value"))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        stream = _joined(q)
        self.hand_on(query_key=stream, value=_joined(v))
        found = self.layer(stream)
        self.buckets = found.buckets
        return _split(found.hidden_states, q)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        assert self.buckets is not None
        seen = definitions.sorted_chunks(self.buckets, positions, chunk=self.chunk)
        seen, self.buckets = definitions.self_only_if_alone(seen, positions), None
        return definitions.weighted(q, normalize(q, dim=-1), v, positions, seen, scale=1.0)


class _Longformer(_Layer):
    """A window on both sides, of one size with ours."""

    def __init__(self, setting: Setting, length: int) -> None:
        self.window = setting.window
        config = import_module("transformers").LongformerConfig(
            hidden_size=setting.width,
            num_attention_heads=setting.heads,
            attention_window=[2 * setting.window],
            attention_probs_dropout_prob=0.0,
            num_hidden_layers=1,
        )
        module = import_module("transformers.models.longformer.modeling_longformer")
        layer = module.LongformerSelfAttention(config, layer_id=0).to(setting.device)
        super().__init__(layer, ("query", "key", "value"))
        self.nowhere = torch.zeros(setting.batch, length, device=setting.device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query, key, value = (_joined(x).transpose(0, 1) for x in (q, k, v))
        # The layer scales its queries in place, which only a copy survives.
        self.hand_on(query=query.clone(), key=key, value=value)
        (out,) = self.layer(
            _joined(q), attention_mask=self.nowhere, is_index_masked=self.nowhere.bool(), is_global_attn=False
        )
        return _split(out, q)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        seen = definitions.window(positions, q.shape[2], keys=self.window, causal=False)
        return definitions.weighted(q, k, v, positions, seen)


def _reformer(setting: Setting, **options: Any) -> Any:
    return import_module("transformers").ReformerConfig(
        hidden_size=setting.width,
        num_attention_heads=setting.heads,
        attention_head_size=setting.head_size,
        is_decoder=True,
        lsh_attention_probs_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        **options,
    )


def _buckets(count: int, factored: bool) -> int | list[int]:
    """As many as the other implementations have, in two even factors where asked and possible."""
    if count < 2 or count % 2:
        raise ValueError(f"needs an even number of chunks, got {count}")
    if not factored:
        return count
    evens = [n for n in range(2, math.isqrt(count) + 1, 2) if count % n == 0 and count // n % 2 == 0]
    if not evens:
        raise ValueError(f"{count} buckets have no two even factors")
    return [evens[-1], count // evens[-1]]


def _joined(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D), a view where heads lie side by side."""
    return x.transpose(1, 2).flatten(2)


def _split(x: Tensor, like: Tensor) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D), a view."""
    return x.view(*x.shape[:-1], like.shape[1], -1).transpose(1, 2)
