"""Attention to keys that an indexer picks, and to compressed keys and values, beside what they claim to compute.

Index and entries, which a layer makes of its input, are drawn once for each length. One head serves as compressed keys
and values, so that of `csa` and `hca` the first head of keys and of values is used. Backward is that of the task's loss
alone: what an indexer learns by in training is not in it.
"""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import Container, OmegaConf
from torch import Tensor

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Family, Implementation, Setting
from ablab.config import conf_folder
from ablab.model.spec import LayerSpec

INDEX_HEADS = 4
_COMPRESSED: tuple[Family, ...] = ("csa", "hca")


def implementations(setting: Setting) -> list[Implementation]:
    """Our own; there are no peers that run without a model around them. By name alone: cells of `selected`."""
    indexed = {"scorer": "indexer"}
    token = {"granularity": "token", "keys": 32}
    return [
        _made("dsa", "dsa", _Indexed),
        *(_made(name, name, _Compressed) for name in _COMPRESSED),
        _made("selected", "selected", _Selected),
        _made("selected-indexer", "selected", _Selected, extra=True, **indexed),
        _made("selected-window", "selected", _Selected, extra=True, window=setting.window),
        _made("selected-token", "selected", _Selected, extra=True, **token),
        _made("selected-token-indexer", "selected", _Selected, extra=True, **token, **indexed),
    ]


def _made(
    name: str, option: Family, made_of: type[_Indexed], *, extra: bool = False, **overrides: Any
) -> Implementation:
    def build(setting: Setting, length: int) -> Attention:
        node = OmegaConf.load(conf_folder() / "attention" / f"{option}.yaml")
        return made_of(OmegaConf.merge(node, overrides), setting, length)

    return Implementation(name=name, ours=True, family=option, build=build, heads_first=False, extra=extra)


class _Indexed(Attention):
    def __init__(self, option: Container, setting: Setting, length: int) -> None:
        spec = LayerSpec(
            d_model=setting.width, n_heads=setting.heads, d_ff=setting.width, layer_index=0, n_layers=1,
            max_length=length, causal=True, seed=0,
        )  # fmt: skip
        made = instantiate(option)(spec)
        self.core: Any = made.core.to(setting.device, setting.torch_dtype).eval()
        self.generator, self.setting = torch.Generator().manual_seed(length), setting
        self.index = self._index(length, length)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.core(q, k, v, index=self.index)
        return out

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        allowed = torch.arange(k.shape[2], device=q.device) <= positions[:, None]
        picked = best(self.index, positions, allowed, self.core.keys)
        return definitions.weighted(q, k, v, positions, picked.double())

    def _index(self, queries: int, keys: int) -> tuple[Tensor, ...]:
        size = self.setting.head_size
        return self._drawn(INDEX_HEADS, queries, size), self._drawn(INDEX_HEADS, queries), self._drawn(1, keys, size)

    def _drawn(self, *shape: int) -> Tensor:
        drawn = torch.randn(self.setting.batch, *shape, generator=self.generator)
        return drawn.to(self.setting.device, self.setting.torch_dtype)


class _Selected(_Indexed):
    def __init__(self, option: Container, setting: Setting, length: int) -> None:
        super().__init__(option, setting, length)
        if self.core.learning is None:
            self.index = ()

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        """Blocks by the products with the means of their keys, in single precision at least."""
        chosen, T = self.core.selection, k.shape[2]
        J, at = -(-T // chosen.block), positions[:, None]
        starts = torch.arange(J, device=q.device) * chosen.block
        keys = self.index[2] if self.index else k
        means = torch.stack([each.float().mean(2) for each in keys.split(chosen.block, 2)], 2)
        if self.index:
            of_queries = self.index[0][:, :, positions].float(), self.index[1][:, :, positions].float()
            scores = torch.einsum("bhs,bhsj->bsj", of_queries[1], (of_queries[0] @ means.mT).relu())[:, None]
        else:
            scores = q[:, :, positions].float() @ means.mT
        own = (at // chosen.block) * chosen.block == starts
        scores = scores.masked_fill(own & (chosen.local > 0), torch.inf).masked_fill(
            starts > at - chosen.window, -torch.inf
        )
        order = scores.flip(-1).sort(dim=-1, descending=True, stable=True).indices
        picked = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order[..., : chosen.count], True).flip(-1)
        picked = (picked & (starts <= at - chosen.window)).repeat_interleave(chosen.block, -1)[..., :T]
        tokens = torch.arange(T, device=q.device)
        seen = (picked & (tokens <= at)) | ((tokens <= at) & (tokens > at - chosen.window))
        return definitions.weighted(q, k, v, positions, seen.double())


class _Compressed(_Indexed):
    def __init__(self, option: Container, setting: Setting, length: int) -> None:
        super().__init__(option, setting, length)
        count = -(-length // self.core.block)
        self.entries = self._drawn(1, count, setting.head_size).requires_grad_()
        there = torch.ones(setting.batch, count, dtype=torch.bool, device=setting.device)
        self.index = (self.entries, there, *(() if self.core.keys is None else self._index(length, count)))
        self.parameters = (self.entries,)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().__call__(q, k[:, :1], v[:, :1])

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        near = definitions.window(positions, k.shape[2], keys=self.core.window, causal=True)
        ends = (torch.arange(self.entries.shape[2], device=q.device) + 1) * self.core.block - 1
        picked = (ends <= positions[:, None]).expand(len(q), 1, -1, -1)
        if self.core.keys is not None:
            picked = best(self.index[2:], positions, picked[:, 0], self.core.keys)
        seen = torch.cat([near.double().expand(len(q), 1, -1, -1), picked.double()], -1)
        k, v = (torch.cat([x[:, :1], self.entries], 2).expand(-1, q.shape[1], -1, -1) for x in (k, v))
        return definitions.weighted(q, k, v, positions, seen, sinks=self.core.sinks)


def best(index: tuple[Tensor, ...], positions: Tensor, allowed: Tensor, count: int) -> Tensor:
    """The `count` allowed keys of highest score by an index, of equal ones the last, for queries at `positions` (S,):
    bool (B, 1, S, T)."""
    q, weight, k = (x.float() for x in index)  # as precise as the choice is made
    scores = torch.einsum("bhs,bhst->bst", weight[:, :, positions], (q[:, :, positions] @ k.mT).relu())
    order = scores.masked_fill(~allowed, -torch.inf).flip(-1).sort(dim=-1, descending=True, stable=True).indices
    first = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order[..., :count], True).flip(-1)
    return (first & allowed)[:, None]
