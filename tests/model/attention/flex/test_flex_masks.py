"""Which blocks are visited: all that a rule needs, none that it does not, and none taken as a whole that is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from ablab.model.attention.block_sparse import BlockSparseAttention
from ablab.model.attention.flex.masks import BLOCK, Causal, Everything, Past, Rule, block_mask, coarser, mask_of
from ablab.model.attention.flex.sorted import band
from ablab.model.attention.local import Local
from ablab.model.spec import LayerSpec

SPEC = LayerSpec(d_model=8, n_heads=2, d_ff=16, layer_index=0, n_layers=1, max_length=515, causal=True, seed=0)
lengths = st.integers(1, 700)
windows = st.builds(
    Local,
    back=st.integers(0, 400),
    ahead=st.sampled_from([0, 0, 1, 130, 300]),
    dilation=st.sampled_from([1, 1, 2, 7, 200, 300]),
    global_tokens=st.sampled_from([0, 0, 1, 128, 300]),
)
pasts = st.builds(Past, block=st.integers(1, 300), stride=st.integers(1, 60))


def in_blocks(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Where some, and where all of the pairs of blocks are seen, those beyond the end apart: (rows, columns)."""
    missing = (0, -seen.shape[1] % BLOCK, 0, -seen.shape[0] % BLOCK)

    def cut(x: Tensor) -> Tensor:
        blocks: Tensor = x.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(1, 2).flatten(2)
        return blocks

    return cut(pad(seen, missing)).any(-1), cut(pad(seen, missing, value=True)).all(-1)


def listed(counts: Tensor, indices: Tensor) -> Tensor:
    """As FlexAttention reads them: (rows, columns)."""
    first = torch.arange(indices.shape[-1]) < counts[0, 0, :, None]
    return torch.zeros(indices.shape[-2:], dtype=torch.bool).scatter(1, indices[0, 0].long(), first)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rule=windows | pasts | st.just(Everything()) | st.just(Causal()), queries=lengths, keys=lengths, alone=st.booleans()
)
def test_blocks_are_those_of_the_rule(rule: Rule, queries: int, keys: int, alone: bool) -> None:
    keys = queries if isinstance(rule, Local) else keys
    some, every = in_blocks(rule(torch.arange(queries)[:, None], torch.arange(keys)))
    made = block_mask(rule, queries, keys, torch.device("cpu"), alone=alone)
    assert made.seq_lengths == (queries, keys)
    partial = listed(made.kv_num_blocks, made.kv_indices)
    full = torch.zeros_like(partial)
    if made.full_kv_num_blocks is not None and made.full_kv_indices is not None:
        full = listed(made.full_kv_num_blocks, made.full_kv_indices)
    assert alone or not full.any()
    assert torch.equal(partial | full, some)
    assert not (full & ~every).any()
    if alone and not (isinstance(rule, Local) and (rule.dilation > 1 or rule.global_tokens)):
        assert torch.equal(full, every)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(window=windows, length=lengths)
def test_a_window_without_the_own_key_needs_no_more(window: Local, length: int) -> None:
    places = torch.arange(length)
    without = Local(**{**vars(window), "own": False})
    some, every = in_blocks(without(places[:, None], places))
    made = block_mask(without, length, length, torch.device("cpu"), alone=True)
    partial = listed(made.kv_num_blocks, made.kv_indices)
    full = torch.zeros_like(partial)
    if made.full_kv_num_blocks is not None and made.full_kv_indices is not None:
        full = listed(made.full_kv_num_blocks, made.full_kv_indices)
    assert not (some & ~(partial | full)).any()
    assert not (full & ~every).any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(size=st.sampled_from([1, 3, 16, 64, 100, 128, 200, 384]), queries=lengths, keys=lengths, seed=st.integers(0, 99))
def test_blocks_of_any_size_are_met_by_those_of_the_kernels(size: int, queries: int, keys: int, seed: int) -> None:
    n, m = -(-queries // size), -(-keys // size)
    seen = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.1
    every = seen.repeat_interleave(size, 0).repeat_interleave(size, 1)[:queries, :keys]
    assert torch.equal(coarser(seen, size, queries, keys), in_blocks(every)[0])


def test_what_is_visited_grows_with_the_length_and_not_with_its_square() -> None:
    """And is made once for a rule and a length."""
    window = Local(back=127, ahead=0)
    visited = [
        int(block_mask(window, T, T, torch.device("cpu"), alone=True).kv_num_blocks.sum()) for T in (2**12, 2**16)
    ]
    assert visited == [2 * 32 - 1, 2 * 512 - 1]
    assert block_mask(window, 2**16, 2**16, torch.device("cpu"), alone=True) is block_mask(
        Local(back=127, ahead=0), 2**16, 2**16, torch.device("cpu"), alone=True
    )


def test_queries_of_a_row_find_their_keys_from_the_other_side() -> None:
    """The backward pass goes over blocks of keys."""
    made = block_mask(Local(back=200, ahead=0), 700, 700, torch.device("cpu"), alone=True)
    assert made.q_num_blocks is not None
    assert made.q_indices is not None
    rows = listed(made.kv_num_blocks, made.kv_indices)
    assert torch.equal(listed(made.q_num_blocks, made.q_indices), rows.T)
    assert not mask_of(torch.zeros(2, 2, dtype=torch.bool), None, 200, 200, torch.device("cpu")).q_num_blocks.any()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "make",
    [
        lambda: block_mask(Local(back=77, ahead=0), 515, 515, torch.device("cpu"), alone=True),
        lambda: band(515, 77, 77, torch.device("cpu")),
        lambda: BlockSparseAttention(SPEC, block=16).pattern(515, torch.device("cpu")).alone,
    ],
    ids=["rule", "band", "pattern"],
)
def test_what_an_evaluation_has_made_can_be_trained_with(make: Callable[[], BlockMask]) -> None:
    """Autograd saves it, and refuses tensors of `torch.inference_mode`, in which Lightning evaluates."""
    with torch.inference_mode():
        made = make()
    tensors = [each for each in vars(made).values() if isinstance(each, Tensor)]
    assert len(tensors) >= 4
    assert not any(each.is_inference() for each in tensors)
