"""Projections around a core, written out from their weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from equations import random
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import AttentionLayer, MultiHeadAttention, attention_layer
from ablab.model.position import NoPosition, Rope
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


class Spy(AttentionCore):
    """Keeps what it is given and returns it: values, once for every query."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        self.given = q, k, v, key_padding_mask
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


def spied(spec: LayerSpec, share_qk: bool = False) -> tuple[MultiHeadAttention, Spy]:
    spy = Spy(spec, share_qk=share_qk)
    return MultiHeadAttention(spec, core=spy).double(), spy


def head(x: Tensor, projection: nn.Linear, index: int, size: int) -> Tensor:
    """One head's part of a projection: (B, T, d_model) -> (B, T, size)."""
    rows = slice(index * size, (index + 1) * size)
    return x @ projection.weight[rows].T + (0 if projection.bias is None else projection.bias[rows])


@pytest.mark.parametrize(("n_kv_heads", "kv_heads"), [(None, 4), (2, 2), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_each_head_has_its_part_of_the_projections(
    make_spec: Spec, n_kv_heads: int | None, kv_heads: int, bias: bool
) -> None:
    spec = make_spec(d_model=12, n_heads=4, n_kv_heads=n_kv_heads, bias=bias)
    layer, spy = spied(spec)
    x, padding = random(2, 7, 12), torch.zeros(2, 7, dtype=torch.bool)
    out = layer(x, NoPosition(spec).rotate, padding)
    q, k, v, mask = spy.given
    assert mask is padding
    assert (q.shape, k.shape, v.shape) == ((2, 4, 7, 3), (2, kv_heads, 7, 3), (2, kv_heads, 7, 3))
    for heads, projection in ((q, layer.query), (k, layer.key), (v, layer.value)):
        assert (projection.bias is not None) == bias
        for index in range(heads.shape[1]):
            torch.testing.assert_close(heads[:, index], head(x, projection, index, 3))
    joined = torch.cat([v[:, index * kv_heads // 4] for index in range(4)], dim=-1)
    torch.testing.assert_close(out, layer.output(joined))


def test_the_position_rotates_queries_and_keys_but_not_values(make_spec: Spec) -> None:
    spec = make_spec(d_model=16, n_heads=4, n_kv_heads=2)
    rope, (layer, spy), x = Rope(spec, base=100.0).double(), spied(spec), random(1, 5, 16)
    layer(x, NoPosition(spec).rotate)
    q, k, v, mask = spy.given
    assert mask is None
    layer(x, rope.rotate)
    rotated_q, rotated_k, same_v, _ = spy.given
    expected_q, expected_k = rope.rotate(q, k)
    torch.testing.assert_close(rotated_q, expected_q)
    torch.testing.assert_close(rotated_k, expected_k)
    assert torch.equal(same_v, v)


def test_shared_keys_are_the_rotated_queries_at_length_one(make_spec: Spec) -> None:
    spec = make_spec()
    rope, (layer, spy) = Rope(spec, base=100.0).double(), spied(spec, share_qk=True)
    layer(random(2, 6, 16), rope.rotate)
    q, k, _, _ = spy.given
    torch.testing.assert_close(k, q / q.square().sum(-1, keepdim=True).sqrt())
    assert not any("key" in name for name, _ in layer.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shared_keys_of_a_query_of_zero_are_finite(make_spec: Spec, dtype: torch.dtype) -> None:
    spec = make_spec(bias=False)
    layer = MultiHeadAttention(spec, core=FullAttention(spec, share_qk=True)).to(dtype)
    x = torch.zeros(1, 4, 16, dtype=dtype, requires_grad=True)
    out = layer(x, NoPosition(spec).rotate)
    out.sum().backward()
    assert not out.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, *layer.parameters()))


def test_an_option_is_a_core_or_a_layer(make_spec: Spec) -> None:
    class Own(AttentionLayer):
        def __init__(self, spec: LayerSpec) -> None:
            super().__init__()
            self.core = FullAttention(spec)

    spec = make_spec()
    assert isinstance(attention_layer(spec, Own), Own)
    with pytest.raises(ValueError, match="AttentionLayer has no `core`"):
        attention_layer(spec, lambda spec: AttentionLayer())
    wrapped = attention_layer(spec, FullAttention)
    assert isinstance(wrapped, MultiHeadAttention)
    assert isinstance(wrapped.core, FullAttention)
    with pytest.raises(ValueError, match="Identity is neither an AttentionCore nor an AttentionLayer"):
        attention_layer(spec, lambda spec: nn.Identity())
