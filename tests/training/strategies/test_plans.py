"""What a process draws for its own heads, and what all draw alike."""

from __future__ import annotations

import pytest
import torch

from ablab.model.attention.full import FullAttention
from ablab.model.spec import LayerSpec
from ablab.training.strategies import plans


def test_each_part_drops_its_own_and_all_go_on_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LayerSpec(d_model=8, n_heads=2, d_ff=8, layer_index=0, n_layers=1, max_length=16, causal=True, seed=0)
    core = FullAttention(spec, dropout=0.5)
    plans._draw_apart(core)
    monkeypatch.setattr(plans, "tp_size", lambda: 2)
    q = torch.ones(1, 2, 16, 4)
    dropped, after = [], []
    for part in (0, 1, 0):
        monkeypatch.setattr(plans, "tp_rank", lambda part=part: part)
        torch.manual_seed(3)
        dropped.append([core(q, q, q) == 0, core(q, q, q) == 0])
        after.append(torch.rand(3))
    assert torch.equal(after[0], after[1])  # what comes after the core is the same in every process
    for first, second in zip(dropped[0], dropped[1], strict=True):
        assert not torch.equal(first, second)
    assert not torch.equal(dropped[0][0], dropped[0][1])  # nor is it the same in every pass
    assert all(map(torch.equal, dropped[0], dropped[2]))
    core.eval()
    assert not (core(q, q, q) == 0).any()
