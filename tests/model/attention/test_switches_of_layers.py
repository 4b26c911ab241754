"""Sinks, bounded scores, gates and norms of queries and keys in the layer around the core, and what is told of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from equations import random
from test_switches import CORES, products
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import MultiHeadAttention, attention_layer
from ablab.model.attention.mla import LatentAttention
from ablab.model.initialisation import initialise
from ablab.model.mechanism import probe_outputs
from ablab.model.position import NoPosition, Rope
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

Spec = Callable[..., LayerSpec]
MakeProblem = Callable[..., Any]
Load = Callable[..., Any]
Build = Callable[..., Transformer]


class Spy(AttentionCore):
    """Keeps what it is given and returns the values, once for every query."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        self.given = q, k, v
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


def spied(spec: LayerSpec, **switches: Any) -> tuple[MultiHeadAttention, Spy]:
    spy = Spy(spec, **switches)
    layer = MultiHeadAttention(spec, core=spy).double()
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed))
    return layer, spy


@pytest.mark.parametrize("share_qk", [True, False])
def test_queries_and_keys_are_normalised_by_head_before_they_are_rotated(make_spec: Spec, share_qk: bool) -> None:
    spec = make_spec(n_heads=4, n_kv_heads=4 if share_qk else 2)
    layer, spy = spied(spec, qk_norm=True, share_qk=share_qk)
    rope, x = Rope(spec, base=100.0).double(), random(2, 7, 16)
    layer(x, rope.rotate)

    def normed(projection: nn.Linear, norm: Any) -> Tensor:
        heads = projection(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        scaled: Tensor = heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
        return scaled

    q = normed(layer.query, layer.query_norm)
    q, k = rope.rotate(q, q if share_qk else normed(layer.key, layer.key_norm))
    if share_qk:
        assert layer.key_norm is None
        k = k / k.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(spy.given[0], q)
    torch.testing.assert_close(spy.given[1], k)


@pytest.mark.parametrize("kind", ["head", "feature"])
def test_the_gate_weighs_what_the_core_returns(make_spec: Spec, kind: Any) -> None:
    spec = make_spec(n_heads=4, n_kv_heads=2)
    layer, spy = spied(spec, output_gate=kind)
    x, rotate = random(2, 7, 16), NoPosition(spec).rotate
    out = layer(x, rotate)
    assert layer.output_gate is not None
    gates = layer.output_gate(x).sigmoid()
    if kind == "head":
        gates = gates.repeat_interleave(4, dim=-1)
    mixed = spy.given[2].repeat_interleave(2, dim=1).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, layer.output(mixed * gates))
    views = [(slice(0, 3), torch.zeros(2, 7, dtype=torch.bool)), (slice(3, 7), torch.zeros(2, 7, dtype=torch.bool))]
    torch.testing.assert_close(layer.attend_each(x, rotate, views), out)


@pytest.mark.parametrize("kind", ["head", "feature"])
def test_latent_attention_has_them_too(make_spec: Spec, kind: Any) -> None:
    x, rotate = random(2, 7, 16), NoPosition(make_spec()).rotate
    plain = LatentAttention(make_spec())
    initialise(plain, 0)
    layer = LatentAttention(make_spec(), output_gate=kind, sinks=True, softcap=0.5)
    initialise(layer, 0)
    layer, plain = layer.double(), plain.double()
    assert layer.output_gate is not None
    seen: list[Tensor] = []
    layer.core.register_forward_hook(lambda core, args, out: seen.append(out))
    out = layer(x, rotate)
    gates = layer.output_gate(x).sigmoid().unflatten(-1, (2, -1)).transpose(1, 2)
    torch.testing.assert_close(out, layer.output((seen[0] * gates).transpose(1, 2).flatten(2)))
    assert isinstance(layer.core.sinks, Tensor)
    nn.init.constant_(layer.core.sinks, -1e9)
    layer.core.softcap, layer.output_gate = None, None
    torch.testing.assert_close(layer(x, rotate), plain(x, rotate), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*CORES, "mla"])
def test_off_they_add_nothing_and_on_they_move_no_other_parameter(
    make_spec: Spec, load_option: Load, name: str
) -> None:
    def values(**changes: Any) -> dict[str, Tensor]:
        layer = attention_layer(make_spec(), load_option("attention", name, **changes))
        initialise(layer, 0)
        return dict(layer.named_parameters())

    on = {"output_gate": "feature", "sinks": True, "softcap": 3.0} | ({} if name == "mla" else {"qk_norm": True})
    off, switched = values(), values(**on)
    norms = set() if name == "mla" else {"query_norm.weight", "key_norm.weight"}
    added = {"output_gate.weight", "output_gate.bias", "core.sinks"} | norms
    assert switched.keys() - off.keys() == added
    assert all(torch.equal(off[key], switched[key]) for key in off)
    assert not switched["core.sinks"].any()


def test_what_is_switched_shows_in_answers_to_fixed_inputs(build: Build, load_option: Load) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"qk_norm": True},
        {"output_gate": "head"},
        {"output_gate": "feature"},
        {"sinks": True},
        {"softcap": 1.0},
        {"softcap": 2.0},
    ]
    answers = [
        tuple(probe_outputs(build(attention=load_option("attention", "full", **each)))["attention/layer_0"])
        for each in changes
    ]
    assert len(set(answers)) == len(answers)
    model: Any = build(attention=load_option("attention", "full", sinks=True))
    before = probe_outputs(model)
    nn.init.constant_(model.blocks[0].attention.core.sinks, 3.0)
    assert probe_outputs(model) == before  # trained sinks are the model's own, and not the option's


def test_metrics_are_counted_by_hand(
    build: Build, load_option: Load, tokens: Callable[..., Tensor], watch: Callable[..., dict[str, float]]
) -> None:
    on = {"qk_norm": True, "output_gate": "head", "sinks": True, "softcap": 0.5}
    model: Any = build(attention=load_option("attention", "full", **on), n_layers=1).eval()
    layer, ids = model.blocks[0].attention, tokens(2, 9)
    nn.init.constant_(layer.core.sinks, 0.5)
    nn.init.normal_(layer.output_gate.weight, generator=torch.Generator().manual_seed(0))
    metrics = watch(model, ids)
    x = model.blocks[0].attention_norm(model.position.add(model.embedding(ids)))
    q = layer.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
    assert metrics["attention/query_norm_before"] == pytest.approx(q.norm(dim=-1).mean().item(), rel=1e-5)
    assert metrics["attention/query_norm_after"] == pytest.approx(layer.query_norm(q).norm(dim=-1).mean().item())
    q, k, _ = layer._projected(x, model.position.rotate)
    assert metrics["attention/key_norm_after"] == pytest.approx(k.norm(dim=-1).mean().item(), rel=1e-5)
    gates = layer.output_gate(x).sigmoid()
    assert metrics["attention/gate_mean"] == pytest.approx(gates.mean().item(), rel=1e-5)
    assert metrics["attention/gate_spread"] == pytest.approx(gates.std(correction=0).item(), rel=1e-4)
    seen = torch.ones(9, 9).tril().bool()
    scores = products(q, k)
    capped = (scores[:, :, seen].abs() >= 0.5).double().mean().item()
    assert 0 < capped < 1
    assert metrics["attention/capped_share"] == pytest.approx(capped)
    total = ((0.5 * (scores / 0.5).tanh()).exp() * seen).sum(-1)
    assert metrics["attention/sink_share"] == pytest.approx((math.exp(0.5) / (math.exp(0.5) + total)).mean().item())
    assert metrics["attention/mass_captured"] == pytest.approx(1)
    names = {name.split("/")[1] for name in watch(build(), ids) if name.startswith("attention/")}
    assert names == {"keys_visited", "mass_captured", "effective_context"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"softcap": 0.0}, r"attention.softcap must be above 0, or null for no bound, got 0.0"),
        ({"output_gate": "token"}, r"attention.output_gate=token: must be none, head or feature"),
    ],
)
def test_settings_out_of_range(make_spec: Spec, changes: dict[str, Any], message: str) -> None:
    for option in (FullAttention, LatentAttention):
        with pytest.raises(ValueError, match=message):
            option(make_spec(), **changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mla", {"qk_norm": True}, r"attention.qk_norm=true: latent attention .*: use attention.qk_norm=false"),
        ("nsa", {"output_gate": "head"}, r"attention.output_gate=head: native .*: use attention.output_gate=none"),
    ],
)
def test_what_an_option_cannot_have(
    make_spec: Spec, load_option: Load, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_option("attention", name, **changes)(make_spec())
