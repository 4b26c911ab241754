"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, arXiv 2405.04434, sections 2.1.2 and 2.1.3).

Keys and values are projected up from one small vector per token, the latent, which is all that generation would have to
keep of the past; queries may be, too. Since a rotation by position between the two projections would tie them together,
position is told by additional coordinates that are rotated apart from the others: a query's own per head, and a key's
that all heads share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ablab.model.attention.absorbed import LatentCache, absorbed_attention, by_head
from ablab.model.attention.base import AttentionCore, DropoutPlace, Switches, tilt
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import AttentionLayer, Rotate
from ablab.model.attention.projections import gate_of, gated, join_heads, scaled, split_heads
from ablab.model.context import LayerContext
from ablab.model.initialisation import ResidualLinear
from ablab.model.position import Rope
from ablab.model.spec import LayerSpec, require_at_least

LATENT_HEADS = 4  # width of the paper's latent of keys and values, in heads (section 3.1.2: 512 for heads of 128)


class LatentLayer(AttentionLayer):
    """Projections around an attention core: keys and values come from a latent, and so may queries.

    It brings a position encoding of its own and leaves the model's rotation of queries and keys aside; what the model
    adds to the embedding it sees as any option does. Latents are normalised (section 3.1.2).

    Deviation: head sizes are the model's for values and the unrotated part, so that the output projection is as wide as
    that of other options; the paper's heads are larger than d_model / n_heads.

    Args:
        core: mixes the values.
        kv_rank: width of the latent of keys and values; None for four heads', the paper's choice, and at most half of
            d_model, so that small models compress as well.
        q_rank: width of the latent of queries; None projects them directly.
        rope_size: rotated coordinates of a query or key, even; None for half a head, the paper's choice.
        rope_base: of the rotation's wavelengths; see `ablab.model.position`.

    Raises:
        ValueError: a size is out of its range, the model groups its heads of keys, or the core asks for `qk_norm`: the
            latents that queries and keys come from are normalised instead.
    """

    rotates = False
    groups_heads = False
    core: AttentionCore

    def __init__(
        self,
        spec: LayerSpec,
        *,
        core: AttentionCore,
        kv_rank: int | None,
        q_rank: int | None,
        rope_size: int | None,
        rope_base: float,
    ) -> None:
        super().__init__()
        _check(spec, core)
        d, size, heads = spec.d_model, spec.head_size, spec.n_heads
        kv_rank = max(1, min(LATENT_HEADS * size, d // 2)) if kv_rank is None else kv_rank
        rope_size = max(2, size // 4 * 2) if rope_size is None else rope_size
        require_at_least(1, "kv_rank", kv_rank)
        require_at_least(2, "rope_size", rope_size)
        if rope_size % 2:
            raise ValueError(f"rope_size must be even, got {rope_size}")
        self.head_size, self.rope_size, self.kv_rank = size, rope_size, kv_rank
        self.query_size = size + rope_size
        self.query_latent: nn.Module = nn.Identity()
        if q_rank is not None:
            require_at_least(1, "q_rank", q_rank)
            self.query_latent = _latent(spec, q_rank)
        self.query = nn.Linear(d if q_rank is None else q_rank, heads * (size + rope_size), bias=spec.bias)
        self.latent = _latent(spec, kv_rank)
        self.key = nn.Linear(kv_rank, d, bias=spec.bias)
        self.rotated_key = nn.Linear(d, rope_size, bias=spec.bias)
        self.value = nn.Linear(kv_rank, d, bias=spec.bias)
        self.rope = Rope(replace(spec, d_model=rope_size, n_heads=1, n_kv_heads=None), base=rope_base)
        self.core = core
        self.output_gate = gate_of(spec, self.core)
        self.output = ResidualLinear(d, d, bias=spec.bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        mixed = self.core(*self._projected(x, self.query_latent(x)), key_padding_mask)
        return self._out(mixed, x)

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        if not self.core.causal:
            return None
        rank, rope_size = self.value.in_features, self.rope_size
        return LatentCache(batch, capacity, rank=rank, rope_size=rope_size, like=self.value.weight)

    def cache_numbers(self, length: int) -> int | None:
        return length * (self.value.in_features + self.rope_size) if self.core.causal else None

    def _projected(self, x: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, T, d_model) and of what queries are made of, their latent or x itself."""
        q, latent, rotated = self._compressed(x, queries, self.rope.rotate)
        return q, *self._expanded(latent, rotated)

    def _compressed(self, x: Tensor, queries: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, head_size + rope_size), latents (B, T, kv_rank) and rotated keys (B, T, rope_size)."""
        q = scaled(split_heads(self.query(queries), self.head_size + self.rope_size), self.query_factor)
        q, q_rotated = q.split([self.head_size, self.rope_size], dim=-1)
        q_rotated, k_rotated = rotate(q_rotated, split_heads(self.rotated_key(x), self.rope_size))
        return torch.cat([q, q_rotated], dim=-1), self.latent(x), k_rotated.squeeze(1)

    def _expanded(self, latent: Tensor, rotated: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all heads, of as many tokens."""
        k, v = (split_heads(project(latent), self.head_size) for project in (self.key, self.value))
        return torch.cat([k, rotated.unsqueeze(1).expand(-1, k.shape[1], -1, -1)], dim=-1), v

    def _rotate_at(self, step: Step) -> Rotate:
        """The layer's own rotation; where there is no token, its position may lie behind the last one."""
        last = len(self.rope.cos) - 1
        return self.rope.at(step.positions if step.there is None else step.positions.clamp(max=last))

    def _absorbed(self, q: Tensor, kept: Tensor, seen: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """What queries (B, H, S, head_size + rope_size) get of all that is kept (B, L, kv_rank + rope_size).

        Args:
            seen, bias: as of `absorbed_attention`.
        """
        rank, size = self.value.in_features, self.head_size
        keys, values = (project.weight.unflatten(0, (-1, size)) for project in (self.key, self.value))
        q = q * q.shape[-1] ** -0.5
        shift = None
        if self.key.bias is not None and not (self.core.softcap is None and self.core.sinks is None):
            # What a bias adds is the same for all keys: only a bound or a sink tells it from nothing.
            shift = torch.einsum("bhsn,hn->bhs", q[..., :size], self.key.bias.unflatten(0, (-1, size)))
        within = torch.cat([by_head(q[..., :size], keys), q[..., size:]], -1)
        mixed, total = absorbed_attention(self.core, within, kept, seen, rank=rank, shift=shift, bias=bias)
        out = by_head(mixed, values.mT)
        if self.value.bias is None:
            return out
        own: Tensor = self.value.bias.unflatten(0, (-1, 1, size))
        return out + (own if total is None else total * own)

    def _out(self, mixed: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))


class LatentAttention(LatentLayer):
    """Full attention whose keys and values come from a latent.

    Args:
        kv_rank, q_rank, rope_size, rope_base: as of `LatentLayer`.
        dropout: probability.
        dropout_on: features of the output, or attention weights.
        switches: `output_gate`, `sinks` and `softcap`, as of `AttentionCore`; `qk_norm` must be false.

    Raises:
        ValueError: a setting is out of its range, or the model groups its heads of keys.
    """

    core: FullAttention

    def __init__(
        self,
        spec: LayerSpec,
        *,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        rope_size: int | None = None,
        rope_base: float = 10000.0,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        core = FullAttention(spec, dropout=dropout, dropout_on=dropout_on, **switches)
        super().__init__(spec, core=core, kv_rank=kv_rank, q_rank=q_rank, rope_size=rope_size, rope_base=rope_base)

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        step = cast(Step, context.step)
        q, latent, rotated = self._compressed(x, self.query_latent(x), self._rotate_at(step))
        kept = cast(LatentCache, cache).extend(latent, rotated, step)
        if step.first:
            mixed = self.core(q, *self._expanded(latent, rotated), step.padding)
        elif q.shape[2] > self.head_size:
            mixed = self._expanded_past(q, kept, step)
        else:
            alone = step.alike and q.shape[2] == 1
            slopes = self.core.slopes
            bias = None if slopes is None else tilt(slopes, step.positions[:, None], step.total, q.dtype)
            mixed = self._absorbed(q, kept, None if alone else _up_to(step), bias)
        return self._out(mixed, x)

    def _expanded_past(self, q: Tensor, kept: Tensor, step: Step) -> Tensor:
        """`_absorbed` for so many new tokens that keys and values are made faster than latents are read."""
        k, v = self._expanded(*kept.split([self.value.in_features, self.rope_size], -1))
        positions = torch.arange(step.total, device=q.device)
        # As wide as keys, or a CPU's fused kernel would not take them.
        return self.core.attend_past(q, k, pad(v, (0, self.rope_size)), positions, step)[..., : self.head_size]


def _up_to(step: Step) -> Tensor:
    """Which tokens new ones see, bool (B, 1, S, L)."""
    return torch.arange(step.total, device=step.positions.device) <= step.positions[:, None, :, None]


def _check(spec: LayerSpec, core: AttentionCore) -> None:
    if spec.kv_heads != spec.n_heads:
        raise ValueError(
            f"model.n_kv_heads={spec.n_kv_heads}: latent attention has one latent for the keys and values of all "
            "heads and groups none: use model.n_kv_heads=null"
        )
    if core.qk_norm:
        raise ValueError(
            "attention.qk_norm=true: latent attention normalises the latents that queries and keys come from, and "
            "nothing beside: use attention.qk_norm=false"
        )


def _latent(spec: LayerSpec, rank: int) -> nn.Module:
    return nn.Sequential(nn.Linear(spec.d_model, rank, bias=spec.bias), _LatentNorm(rank, eps=1e-6))


class _LatentNorm(nn.RMSNorm):
    """In the precision of its weights: under autocast its input has less."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))
