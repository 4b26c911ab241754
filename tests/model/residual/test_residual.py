"""Residual connections against definitions of a few lines: outputs and gradients, in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.residual.base import Residual
from ablab.model.residual.depth import DepthAttention
from ablab.model.residual.sinkhorn import sinkhorn
from ablab.model.residual.streams import HyperConnections, ManifoldHyperConnections, Streams
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
Part = Callable[[Tensor], Tensor]
Naive = Callable[[Any, Tensor, Part], Tensor]


def scaled(module: Any, x: Tensor, f: Part) -> Tensor:
    return x + torch.stack([module.scale.expand(len(x))[d] * f(x)[d] for d in range(len(x))])


def hyper(module: Any, streams: Tensor, f: Part) -> Tensor:
    """Of one token, (n, d). Stream i gives collapse[i], mix[j, i] for every j, and expand[i]."""
    n = len(streams)
    collapse, expand, mix = module.collapse, module.expand, module.mix
    if module.dynamic:
        each = [(h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt() for h in streams]
        moved = torch.stack([torch.tanh(module.moving @ h) for h in each])  # (n, n + 2)
        collapse = collapse + module.strength[0] * moved[:, 0]
        mix = mix + module.strength[0] * moved[:, 1 : n + 1].T
        expand = expand + module.strength[1] * moved[:, n + 1]
    return connected(collapse, expand, mix, streams, f)


def mhc(module: Any, streams: Tensor, f: Part) -> Tensor:
    """Of one token, (n, d): rows and columns of exp(.) are divided by their sums in turn."""
    n = len(streams)
    flat = streams.flatten()
    moved = module.weight @ (flat / (flat.square().mean() + 1e-6).sqrt())
    gate = module.gates.repeat_interleave(torch.tensor([n, n, n * n]))
    logits = gate * moved + module.bias
    ways = logits[2 * n :].view(n, n).exp()
    for _ in range(module.rounds):
        ways = ways / ways.sum(1, keepdim=True)
        ways = ways / ways.sum(0, keepdim=True)
    return connected(logits[:n].sigmoid(), 2 * logits[n : 2 * n].sigmoid(), ways.T, streams, f)


def connected(collapse: Tensor, expand: Tensor, mix: Tensor, streams: Tensor, f: Part) -> Tensor:
    added = f(sum((w * h for w, h in zip(collapse, streams, strict=True)), torch.zeros(())))
    new = [sum((w * h for w, h in zip(row, streams, strict=True)), torch.zeros(())) for row in mix]
    return torch.stack([h + e * added for h, e in zip(new, expand, strict=True)])


def depth(module: Any, entries: Tensor, f: Part) -> Tensor:
    """Of one token, (k, d)."""
    read = entries[-1]
    if module.query is not None:
        scores = [module.query @ v / (v.square().mean() + 1e-6).sqrt() for v in entries]
        weights = torch.stack(scores).softmax(0)
        read = sum((w * v for w, v in zip(weights, entries, strict=True)), torch.zeros(()))
    if module.place % module.group:
        return torch.cat([entries[:-1], (entries[-1] + f(read))[None]])
    return torch.cat([entries, f(read)[None]])


CASES: list[tuple[str, dict[str, Any], Naive]] = [
    ("plain", {}, lambda module, x, f: x + f(x)),
    ("scaled", {"per": "channel"}, scaled),
    ("scaled", {"per": "layer"}, scaled),
    ("hyper", {"dynamic": True}, hyper),
    ("hyper", {"dynamic": False}, hyper),
    ("mhc", {"eps": 0.0}, mhc),
    ("attention", {}, depth),
    ("attention", {"group": 3}, depth),
]


def shapes(count: int = 6) -> Iterator[tuple[int, int, int, int, int]]:
    """Samples, tokens, streams or entries, features and place."""
    draw = random.Random(0)
    for _ in range(count):
        yield draw.randint(1, 3), draw.randint(1, 4), draw.randint(2, 5), draw.choice([2, 6]), draw.randint(0, 5)


def perturbed(module: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.5)
    return module.double()


def differences(module: Any, naive: Naive, state: Tensor) -> float:
    """The largest difference in outputs and gradients, of the state, the part's weight and all parameters."""
    weight = torch.randn(state.shape[-1], state.shape[-1], dtype=torch.float64)

    def both(go: Callable[[Tensor, Part], Tensor]) -> list[Tensor]:
        given, own = state.clone().requires_grad_(), weight.clone().requires_grad_()
        out = go(given, lambda y: torch.tanh(y @ own))
        aim = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        wanted = [given, own, *module.parameters()]
        return [out, *torch.autograd.grad((out * aim).sum(), wanted, allow_unused=True, materialize_grads=True)]

    def by_token(given: Tensor, part: Part) -> Tensor:
        return torch.stack([torch.stack([naive(module, token, part) for token in row]) for row in given])

    return max((a - b).abs().max().item() for a, b in zip(both(module), both(by_token), strict=True))


@pytest.mark.parametrize(("option", "settings", "naive"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_against_a_definition_by_token(
    option: str, settings: dict[str, Any], naive: Naive, load_option: Callable[..., Any], make_spec: Spec
) -> None:
    torch.manual_seed(0)
    for number, (samples, tokens, several, features, place) in enumerate(shapes()):
        spec = make_spec(d_model=features, n_heads=1, n_layers=4)
        more = {"streams": several} if option in ("hyper", "mhc") else {}
        module = perturbed(load_option("residual", option, **settings, **more)(spec, place=place), number)
        state = torch.randn(samples, tokens, several, features, dtype=torch.float64)
        state = state[:, :, 0] if module.is_stream else state
        assert differences(module, naive, state) < 1e-10


class Unmixed(ManifoldHyperConnections):
    """A mix that is computed and never applied."""

    def forward(self, state: Tensor, part: Part) -> Tensor:
        collapse, expand, _ = self.connection(state)
        added = part((collapse.unsqueeze(-2) @ state).squeeze(-2))
        return state + expand.unsqueeze(-1) * added.unsqueeze(-2)


class Turned(ManifoldHyperConnections):
    """A mix that is applied the wrong way round."""

    def connection(self, streams: Tensor) -> Any:
        made = super().connection(streams)
        return made._replace(mix=made.mix.transpose(-1, -2))


@pytest.mark.parametrize("wrong", [Unmixed, Turned])
def test_a_mix_that_is_not_applied_as_defined_is_found(wrong: type[Streams], make_spec: Spec) -> None:
    module = perturbed(wrong(make_spec(d_model=6), place=1, streams=3))
    assert differences(module, mhc, torch.randn(2, 3, 3, 6, dtype=torch.float64)) > 1e-2


def test_mixes_are_doubly_stochastic() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 4, 8):
        logits = torch.randn(50, n, n, generator=generator, dtype=torch.float64)
        ways = sinkhorn(logits, rounds=20, eps=0.0)
        assert (ways > 0).all()
        torch.testing.assert_close(ways.sum(-2), torch.ones(50, n, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(ways.sum(-1), torch.ones(50, n, dtype=torch.float64), rtol=0, atol=1e-3)
        scaled = torch.linalg.matrix_rank((ways.log() - logits).double() - (ways.log() - logits)[:, :1], atol=1e-9)
        assert (scaled <= 1).all()  # rows and columns of exp(.) are scaled, and nothing else


def test_a_manifold_keeps_the_mean_of_the_streams_and_does_not_let_them_grow(make_spec: Spec) -> None:
    torch.manual_seed(0)
    state = torch.randn(2, 3, 4, 16, dtype=torch.float64)
    kept, grown = state, state
    for place in range(60):
        kept = perturbed(ManifoldHyperConnections(make_spec(), place=place), place)(kept, torch.zeros_like)
        grown = perturbed(HyperConnections(make_spec(), place=place), place)(grown, torch.zeros_like)
    torch.testing.assert_close(kept.mean(-2), state.mean(-2), rtol=0, atol=0.02)  # as good as 20 rounds are
    assert kept.norm() < state.norm()
    assert grown.norm() > 1e6 * state.norm()


def test_entries_grow_by_group(make_spec: Spec) -> None:
    for group in (1, 2, 3, 5):
        modules = [DepthAttention(make_spec(n_layers=3), place=place, group=group) for place in range(6)]
        ends = modules[0].ends(make_spec(n_layers=3))
        x = torch.randn(2, 4, 16)
        state = ends.begin(x)
        for layer in range(3):
            assert state.shape == ends.like(x, layer).shape
            for module in modules[2 * layer : 2 * layer + 2]:
                assert len(module.sees) in (0, state.shape[-2] + 1)
                state = module(state, torch.tanh)
        assert state.shape == ends.like(x, 3).shape
        torch.testing.assert_close(ends(state), state.mean(-2))  # before training


@pytest.mark.parametrize(
    ("option", "settings", "words"),
    [
        ("hyper", {"streams": 0}, r"residual\.streams must be at least 1, got 0"),
        ("mhc", {"streams": 1}, r"residual\.streams=1 leaves nothing to mix"),
        ("mhc", {"rounds": 0}, r"residual\.rounds must be at least 1, got 0"),
        ("mhc", {"own": 0.25}, r"residual\.own must be above 1 / streams and below 1, got 0\.25"),
        ("mhc", {"eps": 0.1}, r"residual\.eps must be at least 0 and below 0\.0333, the least share, got 0\.1"),
        ("scaled", {"per": "head"}, r"residual\.per=head: must be channel or layer"),
        ("value", {"initial": 1.5}, r"residual\.initial must lie in 0\.\.1, got 1\.5"),
        ("attention", {"group": 0}, r"residual\.group must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(
    option: str, settings: dict[str, Any], words: str, load_option: Callable[..., Any], make_spec: Spec
) -> None:
    with pytest.raises(ValueError, match=words):
        load_option("residual", option, **settings)(make_spec(), place=0)


def test_under_autocast_the_state_keeps_its_precision(residual_option: str, load_option: Any, make_spec: Spec) -> None:
    module: Residual = load_option("residual", residual_option)(make_spec(), place=1)
    linear, ends = nn.Linear(16, 16), module.ends(make_spec())
    state = ends.begin(torch.randn(2, 3, 16))
    with torch.autocast("cpu", torch.bfloat16):
        behind = module(state, linear)
        read = ends(behind)
    assert behind.dtype == read.dtype == torch.float32
    low = module.bfloat16()(state.bfloat16(), linear.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), behind, rtol=0.05, atol=0.05)
