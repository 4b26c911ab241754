"""PyTorch's own: its fused kernel, attention written out, FlexAttention, and on CUDA flash attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Implementation, Setting
from ablab.model.attention.flex.call import RULES, own_limit

BASELINE = "sdpa"  # full attention as anybody has it
BASELINE_BOTH_SIDES = "sdpa-both-sides"
BLOCK = 128  # of FlexAttention's block mask


def implementations(setting: Setting) -> list[Implementation]:
    """Those that the device can run."""
    cuda = setting.device == "cuda"
    found = [
        Implementation(name=BASELINE, ours=False, family="full", build=_with(_SDPA)),
        Implementation(
            name=BASELINE_BOTH_SIDES, ours=False, family="full", causal=False, build=_with(_SDPA, causal=False)
        ),
        Implementation(
            name="explicit-softmax", ours=False, family="full", build=_with(_Explicit), quadratic_memory=True
        ),
        Implementation(
            name="flex-attention",
            ours=False,
            family="windowed",
            build=_Flex,
            no_backward="" if cuda else "FlexAttention has no backward pass on a CPU",
        ),
    ]
    if cuda:
        flash = _with(_SDPA, backend=SDPBackend.FLASH_ATTENTION)
        found.append(Implementation(name="sdpa-flash", ours=False, family="full", build=flash))
    return found


def _with(made_of: Callable[..., Attention], **options: Any) -> Callable[[Setting, int], Attention]:
    return lambda setting, length: made_of(setting, length, **options)


class _Full(Attention):
    causal = True

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        seen = definitions.everything(positions, q.shape[2], causal=self.causal)
        return definitions.weighted(q, k, v, positions, seen)


class _SDPA(_Full):
    def __init__(self, setting: Setting, length: int, causal: bool = True, backend: SDPBackend | None = None) -> None:
        self.causal, self.backend = causal, backend

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.backend is None:
            return scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        with sdpa_kernel(self.backend):
            return scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class _Explicit(_Full):
    """As it stands in textbooks."""

    def __init__(self, setting: Setting, length: int) -> None:
        self.later = torch.ones(length, length, dtype=torch.bool, device=setting.device).triu(1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return scores.masked_fill(self.later, -math.inf).softmax(-1) @ v


class _Flex(Attention):
    """FlexAttention, compiled, with the window as a block mask."""

    def __init__(self, setting: Setting, length: int) -> None:
        self.window = setting.window
        self.mask = _window_blocks(length, setting.window, setting.device)
        alone = own_limit(RULES)  # so that no length counts in another's limit, and no one else's code is thrown away
        if not alone:
            torch.compiler.reset()
        self.compiled: Any = torch.compile(flex_attention, dynamic=False, **alone)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.compiled(q, k, v, block_mask=self.mask)
        return out

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        seen = definitions.window(positions, q.shape[2], keys=self.window, causal=True)
        return definitions.weighted(q, k, v, positions, seen)


def _window_blocks(length: int, window: int, device: str) -> BlockMask:
    """The blocks that a causal window touches, without looking at every pair of positions as `create_block_mask` does.

    Blocks that lie within the window as a whole are named apart: for them the mask is not evaluated.
    """

    def mask(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    blocks = -(-length // BLOCK)
    row = torch.arange(blocks, device=device)[:, None]
    back = torch.arange(-(-(window - 1) // BLOCK) + 1, device=device)  # blocks back from the query's own
    column = row - back
    whole = (column >= 0) & (back >= 1) & ((back + 1) * BLOCK - 1 < window) & (row < blocks - 1)
    partial = (column >= 0) & ~whole
    return BlockMask.from_kv_blocks(
        *_listed(column, partial, blocks), *_listed(column, whole, blocks), BLOCK_SIZE=BLOCK, mask_mod=mask,
        seq_lengths=(length, length),
    )  # fmt: skip


def _listed(column: Tensor, chosen: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """How many blocks each row has, (1, 1, rows), and which, those first: (1, 1, rows, blocks), int32."""
    order = chosen.int().argsort(dim=-1, descending=True, stable=True)
    listed = column.gather(-1, order).clamp(min=0)
    room = torch.zeros(len(column), blocks, dtype=torch.int32, device=column.device)
    room[:, : listed.shape[1]] = listed[:, :blocks].int()
    return chosen.sum(-1, dtype=torch.int32)[None, None], room[None, None]
