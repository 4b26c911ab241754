"""FLOPs of cores as runs count them: without values, forward and backward, whatever is cut into slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.full import FullAttention
from ablab.model.attention.nsa_core import NativeSparseCore
from ablab.model.attention.topk import TopKAttention
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.spec import LayerSpec
from ablab.training.cost import count_flops

HEADS, SIZE, VALUES = 4, 6, 12
SCORE = 2 * (SIZE + VALUES)  # of a query and a key forward, and twice as many backward
Make = Callable[[LayerSpec], AttentionCore]


def counted(make: Make, length: int, sizes: Sequence[int] = (SIZE, SIZE, VALUES), *, causal: bool = True) -> int:
    spec = LayerSpec(
        d_model=HEADS * SIZE, n_heads=HEADS, n_kv_heads=None, d_ff=8, layer_index=0, n_layers=1,
        max_length=length, causal=causal, seed=0,
    )  # fmt: skip
    shapes = [torch.zeros(1, HEADS, length, size, device="meta") for size in sizes]
    with torch.device("meta"):
        core = make(spec)
    model = _Of(core, [x.requires_grad_() for x in shapes])
    return count_flops(model, lambda out, _: out.sum(), (shapes[0], shapes[0]))[0]


class _Of(torch.nn.Module):
    """A core of given queries, keys and values, whose gradients are wanted."""

    def __init__(self, core: AttentionCore, inputs: list[torch.Tensor]) -> None:
        super().__init__()
        self.core, self.inputs = core, torch.nn.ParameterList(inputs)

    def forward(self, _: Any) -> torch.Tensor:
        out: torch.Tensor = self.core(*self.inputs)
        return out


@pytest.mark.parametrize("length", [64, 512])
def test_of_full_attention(length: int) -> None:
    assert counted(FullAttention, length) == HEADS * length**2 * 3 * SCORE


def test_a_window_of_all_tokens_but_one_costs_what_full_attention_does() -> None:
    """Its operator computes scores again in the backward pass, which count once."""
    assert counted(partial(WindowedAttention, window=511), 512) == counted(FullAttention, 512)


@pytest.mark.parametrize(("causal", "rectangles"), [(True, 512 * 64), (False, 512 * 64 + 64 * 448)])
def test_global_tokens_are_seen_and_where_not_causal_see_all(causal: bool, rectangles: int) -> None:
    """Beside what the window has, of which some is in both."""
    with_them, without = (
        counted(partial(WindowedAttention, window=16, global_tokens=g), 512, causal=causal) for g in (64, 0)
    )
    assert with_them - without == HEADS * rectangles * 3 * SCORE


@pytest.mark.parametrize(
    ("make", "units"),
    [
        (partial(TopKAttention, keys=32), 3 * SCORE + 2 * SIZE),  # scores once more, to choose by
        (partial(FullAttention, softcap=20.0), 3 * SCORE),
    ],
)
def test_all_scores_count_alike_at_any_length(make: Make, units: int) -> None:
    for length in (512, 4096, 16384):
        assert counted(make, length) == HEADS * length**2 * units


def test_compressed_keys_count_alike_at_any_length() -> None:
    make = partial(
        NativeSparseCore, compress_block=16, compress_stride=8, select_block=16, selected_blocks=4, window=32
    )
    once, twice, fourfold = (counted(make, length, [3 * SIZE] * 3) / length for length in (1024, 2048, 4096))
    assert (fourfold - twice) / 2048 == pytest.approx((twice - once) / 1024, rel=0.01)
