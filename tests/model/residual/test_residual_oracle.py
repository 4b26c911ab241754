"""mHC against the hyper-connections of transformers' DeepSeek-V4, weights mapped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.residual.streams import ManifoldHyperConnections
from ablab.model.spec import LayerSpec

pytest.importorskip("transformers.models.deepseek_v4", reason="the extra `bench` is not installed")

NAMES = {"weight": "fn", "bias": "base", "gates": "scale"}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Where it is float64, the oracle's own casts to float32 are to it, too."""
    if request.param == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    made: torch.dtype = request.param
    return made


@pytest.mark.parametrize(("streams", "rounds", "length"), [(4, 20, 7), (2, 20, 1), (3, 2, 12)])
def test_a_block_and_the_end(
    streams: int, rounds: int, length: int, dtype: torch.dtype, make_spec: Callable[..., LayerSpec]
) -> None:
    oracle = import_module("transformers.models.deepseek_v4.modeling_deepseek_v4")
    torch.manual_seed(0)
    ours = ManifoldHyperConnections(make_spec(), place=0, streams=streams, rounds=rounds).to(dtype)
    end: Any = ours.ends(make_spec()).to(dtype)
    config = SimpleNamespace(
        hidden_size=16, hc_mult=streams, hc_sinkhorn_iters=rounds, hc_eps=ours.eps, rms_norm_eps=1e-6
    )
    theirs = oracle.DeepseekV4HyperConnection(config).to(dtype)
    head = oracle.DeepseekV4HyperHead(config).to(dtype)
    for own, other, prefix in ((ours, theirs, ""), (end, head, "hc_")):
        for name, its in NAMES.items():
            value = torch.randn_like(own.get_parameter(name)) * 0.5
            own.get_parameter(name).data = value
            other.get_parameter(prefix + its).data = value.clone()
    layer = nn.Linear(16, 16, dtype=dtype)

    def of_oracle(state: Tensor) -> Tensor:
        expand, mix, collapsed = theirs(state)
        behind: Tensor = expand.unsqueeze(-1) * layer(collapsed).unsqueeze(-2) + mix.transpose(-1, -2) @ state
        return behind

    state = torch.randn(2, length, streams, 16, dtype=dtype, requires_grad=True)
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-9)
    mine, its = end(ours(state, layer)), head(of_oracle(state))
    close(mine, its)
    for own, other in zip(*(torch.autograd.grad(x.square().mean(), state) for x in (mine, its)), strict=True):
        close(own, other)
