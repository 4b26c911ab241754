"""The axis `norm`: what an option makes of the stream, and what is seen of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ablab.config import RunConfig
from ablab.config.explain import explain
from ablab.errors import UserError
from ablab.model.mechanism import probe_outputs
from ablab.model.norm import LayerNorm, RMSNorm
from ablab.model.transformer import Transformer
from ablab.study.planning.preflight import Preflight

Build = Callable[..., Transformer]
Load = Callable[..., Any]
TinyConfig = Callable[..., RunConfig]


def test_numbers_and_gradients_are_those_of_torch(make_spec: Callable[..., Any]) -> None:
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for ours, theirs in (
        (LayerNorm(make_spec()), torch.nn.LayerNorm(16)),
        (LayerNorm(make_spec(bias=False)), torch.nn.LayerNorm(16, bias=False)),
        (RMSNorm(make_spec()), torch.nn.RMSNorm(16, eps=1e-6)),
    ):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert torch.equal(ours(x), theirs(x))
        own, their = (torch.autograd.grad(norm(x).pow(3).sum(), [x, norm.weight]) for norm in (ours, theirs))
        assert all(map(torch.equal, own, their))


def test_metrics_are_those_of_what_passes_the_norms(
    build: Build, load_option: Load, tokens: Callable[..., Any], watch: Callable[..., dict[str, float]]
) -> None:
    model, ids = build(n_layers=2).eval(), tokens(2, 9)
    metrics = watch(model, ids)
    x = model.position.add(model.embedding(ids))
    block: Any = model.blocks[0]
    inside = x + block.attention(block.attention_norm(x), model.position.rotate)
    of_layer = torch.stack([x, inside]).square().mean().sqrt().item()
    assert metrics["norm/input_rms/layer_0"] == pytest.approx(of_layer, rel=1e-2)
    assert metrics["norm/output_rms"] == pytest.approx(1, abs=0.1)
    added = block.feed_forward(block.feed_forward_norm(inside)).square().mean().sqrt().item()
    assert metrics["feed_forward/output_rms/layer_0"] == pytest.approx(added, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "same"),
    [({}, True), ({"placement": "post"}, False), ({"eps": 0.1}, False)],
)
def test_what_a_norm_does_tells_it_from_others(
    build: Build, load_option: Load, changes: dict[str, Any], same: bool
) -> None:
    one, other = (
        probe_outputs(build(norm=load_option("norm", "layer", **settings)))["norm"] for settings in ({}, changes)
    )
    assert (one == other) == same


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("+model.norm=rms", "norm=layer or norm=rms"),
        ("+model.norm_position=post", "norm.placement=pre or norm.placement=post"),
        ("+model.norm_first=false", "norm.placement=pre or norm.placement=post"),
    ],
)
def test_keys_that_became_an_axis_say_where_they_went(tiny_config: TinyConfig, override: str, instead: str) -> None:
    key = override.strip("+").partition("=")[0]
    with pytest.raises(UserError) as added:
        Preflight().check(tiny_config(override))
    with pytest.raises(Exception, match="norm") as overridden:
        tiny_config(override.strip("+"))
    for line in (str(added.value), explain(overridden.value)):
        assert line == f"{key}: is an axis of its own now; write {instead}"
