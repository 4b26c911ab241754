from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ablab.model.attention.full import FullAttention
from ablab.model.attention.naive import masked_attention
from ablab.model.spec import LayerSpec


@pytest.mark.parametrize("causal", [True, False])
def test_full_attention_is_the_definition_under_its_own_mask(make_spec: Callable[..., LayerSpec], causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    core = FullAttention(make_spec(causal=causal))
    triangle = torch.ones(9, 9, dtype=torch.bool).tril()
    expected = masked_attention(q, k, v, triangle if causal else torch.ones_like(triangle))
    torch.testing.assert_close(core(q, k, v), expected, rtol=1e-12, atol=1e-12)
    visited = core.visited(q, k, torch.tensor([0, 4, 8])).expand(3, 9)
    assert visited.sum(-1).tolist() == ([1, 5, 9] if causal else [9, 9, 9])
    assert torch.equal(visited, (triangle if causal else torch.ones_like(triangle))[[0, 4, 8]])
