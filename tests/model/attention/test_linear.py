"""The linear attentions as layers: beside their papers' equations, token by token, and beside public layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from equations import fill, random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import rms_norm, silu, softplus

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.attention.gated_delta import GatedDeltaNet
from ablab.model.attention.linear import LinearAttention
from ablab.model.attention.mamba2 import Mamba2
from ablab.model.attention.recurrence import Recurrence
from ablab.model.initialisation import initialise
from ablab.model.position import Position, Rope, idle_position
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer
from ablab.study.planning.preflight import Preflight

Spec = Callable[..., LayerSpec]
Kind = Callable[..., LinearAttention]
Build = Callable[..., Transformer]


def untouched(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("linear attention rotates nothing")


def build(kind: Kind, spec: LayerSpec, **options: Any) -> Any:
    layer = kind(spec, **options).double()
    fill(layer)
    return layer


def convolved(layer: Any, streams: list[Tensor]) -> Tensor:
    """What the taps make of x (T, channels), and SiLU."""
    x, weight = torch.cat(streams, -1), layer.convolution.weight
    taps = weight.shape[1]
    rows = []
    for t in range(len(x)):
        row = sum(weight[:, taps - 1 - back] * x[t - back] for back in range(min(taps, t + 1)))
        rows.append(silu(row if layer.convolution.bias is None else row + layer.convolution.bias))
    return torch.stack(rows)


def by_definition(layer: Any, x: Tensor, padding: Tensor | None, causal: bool) -> Tensor:
    mixed = one_way(layer, x, padding)
    if not causal:
        mixed = mixed + one_way(layer, x.flip(1), None if padding is None else padding.flip(1)).flip(1)
    if isinstance(layer, Mamba2):
        y = mixed.flatten(-2) * silu(layer.gate(x))
        y = y.unflatten(-1, (layer.widths[1] // layer.state_size, -1))
        y = (y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * layer.norm.weight
    else:
        y = rms_norm(mixed, (mixed.shape[-1],), layer.norm.weight, 1e-6).flatten(-2)
        y = y if layer.gate is None else y * silu(layer.gate(x))
    out: Tensor = layer.output(y)
    return out


def one_way(layer: Any, x: Tensor, padding: Tensor | None) -> Tensor:
    """(B, T, H, Dv): what the heads read, token by token."""
    outs = []
    for b in range(len(x)):
        there = torch.ones(x.shape[1]) if padding is None else (~padding[b]).double()
        mamba = isinstance(layer, Mamba2)
        named = (layer.value, layer.key, layer.query) if mamba else (layer.query, layer.key, layer.value)
        parts = convolved(layer, [project(x[b]) * there[:, None] for project in named]).split(layer.widths, -1)
        v, k, q = parts if mamba else parts[::-1]
        size = layer.state_size if mamba else layer.key_size
        heads = len(layer.decay.log_rate) if mamba else layer.heads
        v = v.unflatten(-1, (heads, -1))
        q, k = (y.unflatten(-1, (-1, size)).repeat_interleave(heads // (y.shape[-1] // size), 1) for y in (q, k))
        if mamba or layer.decay is not None:
            step = softplus(layer.decay.project(x[b]) + layer.decay.bias)
            fade = (-layer.decay.log_rate.exp() * step).exp()
        else:
            fade = torch.ones(x.shape[1], heads, dtype=x.dtype)
        write = step if mamba else layer.strongest * layer.write(x[b]).sigmoid()
        if not mamba:
            q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
            q = q / size**0.5
        state, rows = x.new_zeros(heads, size, v.shape[-1]), []
        for t in range(x.shape[1]):
            if there[t]:
                state = fade[t, :, None, None] * state
                new = v[t] if mamba else v[t] - torch.einsum("hdv,hd->hv", state, k[t])
                state = state + write[t, :, None, None] * k[t][:, :, None] * new[:, None]
            read = torch.einsum("hdv,hd->hv", state, q[t])
            rows.append(read + layer.skip[:, None] * v[t] if mamba else read)
        outs.append(torch.stack(rows))
    return torch.stack(outs)


OPTIONS: dict[Any, dict[str, list[Any]]] = {
    GatedDeltaNet: {
        "key_heads": [None, 1, 2],
        "key_size": [None, 3],
        "value_size": [None, 6],
        "conv_size": [1, 2, 4],
        "decay": [True, False],
        "gate": [True, False],
        "negative_eigenvalues": [True, False],
    },
    Mamba2: {"expand": [1, 2, 3], "state_size": [1, 5], "groups": [1, 2, 4], "conv_size": [1, 2, 4]},
}


@pytest.mark.parametrize("kind", OPTIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_outputs_and_gradients_are_those_of_the_equations(make_spec: Spec, kind: Any, data: Any) -> None:
    options = data.draw(st.fixed_dictionaries({name: st.sampled_from(v) for name, v in OPTIONS[kind].items()}))
    length, chunk = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([3, 8, 64]))
    causal, bias, seed = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.integers(0, 99))
    layer = build(kind, make_spec(n_heads=4, causal=causal, bias=bias), chunk=chunk, **options)
    x = random(2, length, 16, seed=seed).requires_grad_()
    padding = random(2, length, seed=seed).sigmoid() < 0.3 if data.draw(st.booleans()) else None
    out, expected = layer(x, untouched, padding), by_definition(layer, x, padding, causal)
    seen = torch.ones(2, length, 1) if padding is None else (~padding[..., None]).double()
    torch.testing.assert_close(out * seen, expected * seen, rtol=1e-9, atol=1e-9)
    direction, inputs = random(*out.shape, seed=seed) * seen, [x, *layer.parameters()]
    found = (
        torch.autograd.grad(y, inputs, direction, allow_unused=True, materialize_grads=True) for y in (out, expected)
    )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", OPTIONS)
def test_padding_before_and_after_is_as_good_as_none(make_spec: Spec, kind: Kind) -> None:
    layer, x = build(kind, make_spec()), random(1, 30, 16)
    padding = (torch.arange(30) < 7) | (torch.arange(30) >= 24)
    alone = layer(x[:, 7:24], untouched)
    torch.testing.assert_close(layer(x, untouched, padding[None])[:, 7:24], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", OPTIONS)
def test_half_precision_and_padding_alone(make_spec: Spec, kind: Kind) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        layer, x = kind(make_spec()), random(2, 6, 16).to(dtype).requires_grad_()
        initialise(layer, 0)
        out = layer.to(dtype)(x, untouched, torch.tensor([[True] * 6, [False] * 5 + [True]]))
        assert out.dtype == dtype
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, *layer.parameters()))


@pytest.mark.parametrize("kind", OPTIONS)
def test_autocast_is_close_to_single_precision(make_spec: Spec, kind: Kind) -> None:
    layer, x = build(kind, make_spec()).float(), random(1, 200, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, untouched)
    assert out.dtype == torch.bfloat16
    exact = layer(x, untouched)
    assert (out.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("kind", OPTIONS)
def test_decays_start_between_quick_and_slow(make_spec: Spec, kind: Kind) -> None:
    """Of an input of zero, steps from 1/1000 to 1/10 and rates from 1 to 16."""
    layer: Any = kind(make_spec(d_model=512, n_heads=256))
    initialise(layer, 0)
    step, log_decay = layer.decay(torch.zeros(1, 1, 512))
    assert 1e-3 <= step.min() < 2e-3
    assert 5e-2 < step.max() <= 0.1001
    rate = -log_decay / step
    assert 1 <= rate.min() < 1.5
    assert 15 < rate.max() <= 16.001


@pytest.mark.parametrize("kind", OPTIONS)
def test_dropout_acts_in_training_only(make_spec: Spec, kind: Kind) -> None:
    layer, x = build(kind, make_spec(), dropout=0.5), random(1, 9, 16)
    assert not torch.equal(layer(x, untouched), layer(x, untouched))
    assert torch.equal(layer.eval()(x, untouched), build(kind, make_spec())(x, untouched))


@pytest.mark.parametrize(
    ("kind", "sizes", "options", "message"),
    [
        (GatedDeltaNet, {}, {"key_heads": 0}, "key_heads must be at least 1, got 0"),
        (GatedDeltaNet, {"n_heads": 4}, {"key_heads": 3}, "key_heads=3 does not divide model.n_heads=4: choose a div"),
        (GatedDeltaNet, {}, {"key_size": 0}, "key_size must be at least 1, got 0"),
        (GatedDeltaNet, {}, {"value_size": 0}, "value_size must be at least 1, got 0"),
        (GatedDeltaNet, {}, {"conv_size": 0}, "conv_size must be at least 1, got 0"),
        (GatedDeltaNet, {"n_kv_heads": 1}, {}, "model.n_kv_heads=1: linear attention .*: use model.n_kv_heads=null"),
        (Mamba2, {}, {"expand": 0}, "expand must be at least 1, got 0"),
        (Mamba2, {}, {"state_size": 0}, "state_size must be at least 1, got 0"),
        (Mamba2, {}, {"groups": 0}, "groups must be at least 1, got 0"),
        (Mamba2, {"n_heads": 4}, {"groups": 3}, "groups=3 does not divide model.n_heads=4: choose a divisor"),
        (Mamba2, {}, {"chunk": 0}, "chunk must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(make_spec: Spec, kind: Kind, sizes: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(make_spec(**sizes), **options)


@pytest.mark.parametrize("option", ["gated_delta", "mamba2"])
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("position=alibi", "it keeps a state and has no scores that a bias by distance could be taken from"),
        ("modal_fusion=cross", "it keeps a state, and no keys for others to look at"),
        ("strategy=tensor", "its heads do not work apart from one another"),
    ],
)
def test_combinations_that_cannot_work_are_refused_in_one_line(
    option: str, other: str, reason: str, tiny_config: Callable[..., RunConfig]
) -> None:
    task = ["task=spoken_arithmetic", "model.n_layers=2"] if "fusion" in other else []
    devices = ["trainer.devices=2"] if "strategy" in other else []
    with pytest.raises(UserError) as caught:
        Preflight().check(tiny_config(other, f"attention={option}", *task, *devices))
    assert str(caught.value) == f"{other} does not work with attention={option}: {reason}; change one of the two"


class Turned(Rope):
    """Adds something as well."""

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return x + 1


@pytest.mark.parametrize(
    ("attention", "position", "idle"),
    [
        ("gated_delta", "rope", True),
        ("mamba2", "rope", True),
        ("mla", "rope", True),
        ("full", "rope", False),
        ("gated_delta", "learned", False),
        ("gated_delta", "none", False),
        ("gated_delta", partial(Turned, base=100.0), False),
    ],
)
def test_a_rotation_that_nobody_uses_is_noted(build: Build, attention: str, position: Any, idle: bool) -> None:
    model = build(attention=attention, position=position)
    name = type(model.position).__name__
    line = f"the position ({name}) has nothing to do: no layer's attention has queries and keys to rotate"
    assert isinstance(model.position, Position)
    assert idle_position(model) == ([line] if idle else [])


# What the layers tell of themselves.


def test_state_bytes_by_hand(make_spec: Spec) -> None:
    spec = make_spec(d_model=32, n_heads=4)
    states, last = 4 * 8 * 8, 3 * (32 + 32 + 32)
    assert GatedDeltaNet(spec).mechanism() == {"state_bytes": 4 * (states + last)}
    states, last = 4 * 10 * 16, 2 * (64 + 10 + 10)
    assert Mamba2(spec, state_size=10, conv_size=3).mechanism() == {"state_bytes": 4 * (states + last)}


class Fixed(torch.nn.Module):
    """Heads of given decays."""

    def __init__(self, decays: list[float]) -> None:
        super().__init__()
        self.decays = torch.tensor(decays)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*x.shape[:2], len(self.decays))
        return torch.full(shape, 0.5), self.decays.log().expand(shape)


@pytest.mark.parametrize("padded", [False, True])
def test_metrics_by_hand(build: Build, watch: Callable[..., dict[str, float]], padded: bool) -> None:
    """A state space of constant keys and queries: what a query reads falls by the decay with each token."""
    model = build(attention="mamba2", n_layers=1, padding=0 if padded else None).eval()
    attention: Any = next(model.layers())[1].attention
    attention.decay = Fixed([0.5, 0.9])
    with torch.no_grad():
        for parameter in (attention.key, attention.query):
            parameter.weight.zero_()
            parameter.bias.fill_(1.0)
        attention.convolution.weight[:] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    ids = torch.ones(1, 30, dtype=torch.int64)
    if padded:
        ids = torch.cat([torch.zeros(1, 5, dtype=torch.int64), ids], 1)
    found = {name.split("/")[1]: value for name, value in watch(model, ids).items() if name.startswith("attention/")}
    memory = [-1 / torch.tensor(decay).log().item() for decay in (0.5, 0.9)]
    weights = [[[decay ** (i - j) for j in range(i + 1)] for i in range(30)] for decay in (0.5, 0.9)]
    distance = sum(w * (i - j) for head in weights for i, row in enumerate(head) for j, w in enumerate(row))
    expected = {
        "state_bytes": attention.mechanism()["state_bytes"],
        "decay_mean": 0.7,
        "decay_min": 0.5,
        "decay_max": 0.9,
        "write_mean": 0.5,
        "write_min": 0.5,
        "write_max": 0.5,
        "memory_mean": sum(memory) / 2,
        "memory_min": memory[0],
        "memory_max": memory[1],
        "memory_share": sum(memory) / 2 / 30,
        "effective_context": distance / sum(w for head in weights for row in head for w in row),
    }
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_never_fades_has_no_end_of_memory(
    build: Build, load_option: Callable[..., Any], watch: Callable[..., dict[str, float]], tokens: Any
) -> None:
    model = build(attention=load_option("attention", "gated_delta", decay=False), n_layers=1).eval()
    found = watch(model, tokens(2, 20))
    assert found["attention/memory_share"] == 1
    assert "attention/memory_mean" not in found
    assert found["attention/effective_context"] > 0


def test_the_recurrence_has_no_keys_that_are_visited(build: Build, watch: Callable[..., Any], tokens: Any) -> None:
    model = build(attention="mamba2").eval()
    assert isinstance(next(model.layers())[1].attention.core, Recurrence)
    assert not {"attention/keys_visited", "attention/mass_captured"} & watch(model, tokens(2, 20)).keys()
