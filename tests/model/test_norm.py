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
from ablab.model.norm import DynamicTanh, LayerNorm, Norm, RMSNorm
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


@pytest.mark.parametrize("bias", [True, False])
def test_dynamic_tanh_is_its_formula(make_spec: Callable[..., Any], bias: bool) -> None:
    x = 3 * torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = DynamicTanh(make_spec(bias=bias), initial_alpha=0.7).double()
    assert dict(norm.named_parameters()).keys() == {"weight", "alpha"} | ({"bias"} if bias else set())
    for seed, parameter in enumerate(norm.parameters()):
        torch.nn.init.normal_(parameter, mean=1, generator=torch.Generator().manual_seed(seed))
    alpha, gamma, beta = norm.alpha.detach(), norm.weight.detach(), 0 if norm.bias is None else norm.bias.detach()
    leaves = [x.requires_grad_(), *norm.parameters()]
    t = torch.tanh(alpha * x)
    torch.testing.assert_close(norm(x), gamma * t + beta, rtol=0, atol=1e-12)
    found = torch.autograd.grad(norm(x).pow(3).sum(), leaves)
    up = 3 * (gamma * t + beta).square()  # the gradient of the output
    expected = {"x": up * gamma * alpha * (1 - t.square()), "weight": (up * t).sum((0, 1)), "bias": up.sum((0, 1))}
    expected["alpha"] = (up * gamma * x * (1 - t.square())).sum()
    for name, gradient in zip(["x", *dict(norm.named_parameters())], found, strict=True):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-9)


def test_sandwich_normalises_what_is_read_and_what_is_added_and_never_the_stream(
    build: Build, load_option: Load, tokens: Callable[..., Any], norm_option: str
) -> None:
    model = build(norm=load_option("norm", norm_option, placement="sandwich"), n_layers=2).double().eval()
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    assert len(norms) == 2 * 4 + 1
    for seed, norm in enumerate(norms):
        torch.nn.init.normal_(norm.weight, mean=1, generator=torch.Generator().manual_seed(seed))
    ids = tokens(2, 9)
    x = model.position.add(model.embedding(ids))
    block: Any
    for block in model.blocks:
        x = x + block.attention_added_norm(block.attention(block.attention_norm(x), model.position.rotate))
        x = x + block.feed_forward_added_norm(block.feed_forward(block.feed_forward_norm(x)))
    torch.testing.assert_close(model(ids), model.head(model.norm(x)), rtol=0, atol=1e-12)
    model(ids).square().sum().backward()
    assert all(norm.weight.grad is not None and norm.weight.grad.any() for norm in norms)


def test_placements_share_names_and_initial_values_of_the_norms_that_they_share(
    build: Build, load_option: Load, norm_option: str
) -> None:
    pre, sandwich = (
        dict(build(norm=load_option("norm", norm_option, placement=placement)).named_parameters())
        for placement in ("pre", "sandwich")
    )
    assert {name.split(".")[2] for name in sandwich.keys() - pre.keys()} == {
        "attention_added_norm",
        "feed_forward_added_norm",
    }
    assert all(torch.equal(pre[name], sandwich[name]) for name in pre)


def test_metrics_say_what_saturates_and_what_parts_would_have_added(
    build: Build, load_option: Load, tokens: Callable[..., Any], watch: Callable[..., dict[str, float]]
) -> None:
    norm = load_option("norm", "dyt", placement="sandwich", initial_alpha=80.0)
    model, ids = build(norm=norm, n_layers=1).eval(), tokens(2, 9)
    metrics = watch(model, ids)
    block: Any = model.blocks[0]
    x = model.position.add(model.embedding(ids))
    mixed = block.attention(block.attention_norm(x), model.position.rotate)
    inside = x + block.attention_added_norm(mixed)
    out = block.feed_forward(block.feed_forward_norm(inside))
    assert metrics["norm/alpha"] == 80.0
    share = (80 * torch.stack([x, inside])).abs().ge(2).double().mean().item()
    assert 0 < share < 1
    assert metrics["norm/saturated_share"] == pytest.approx(share)
    assert metrics["norm/added_rms"] == pytest.approx(
        sum(each.square().mean().sqrt().item() for each in (mixed, out)) / 2, rel=1e-4
    )
    assert not {"norm/alpha", "norm/saturated_share", "norm/added_rms"} & watch(build(), ids).keys()


@pytest.mark.parametrize(
    ("option", "changes", "same"),
    [
        ("layer", {}, True),
        ("layer", {"placement": "post"}, False),
        ("layer", {"placement": "sandwich"}, False),
        ("layer", {"eps": 0.1}, False),
        ("dyt", {}, False),
    ],
)
def test_what_a_norm_does_tells_it_from_others(
    build: Build, load_option: Load, option: str, changes: dict[str, Any], same: bool
) -> None:
    one, other = (
        probe_outputs(build(norm=load_option("norm", name, **settings)))["norm"]
        for name, settings in (("layer", {}), (option, changes))
    )
    assert (one == other) == same


@pytest.mark.parametrize(
    ("option", "changes", "message"),
    [
        ("dyt", {"initial_alpha": 0.0}, r"norm.initial_alpha must be above 0, got 0.0"),
        ("rms", {"placement": "both"}, r"norm.placement=both: must be pre, post or sandwich"),
        ("layer", {"eps": 0.0}, r"norm.eps must be above 0, got 0.0"),
    ],
)
def test_values_out_of_range(
    make_spec: Callable[..., Any], load_option: Load, option: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_option("norm", option, **changes)(make_spec())


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
