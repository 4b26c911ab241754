"""Layer fusions beside their formulas, in models that are causal or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ablab.model.layer_fusion.base import LayerFusion, MeanOfLayers
from ablab.model.layer_fusion.learned import AdaptiveFusion, DenseFusion, StaticFusion
from ablab.model.mechanism import MechanismProbe
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

Spec = Callable[..., LayerSpec]
Build = Callable[..., Transformer]
LAYERS = 3


@pytest.fixture
def streams() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 16, generator=generator, dtype=torch.float64) for _ in range(LAYERS + 1)]


def stirred(fusion: LayerFusion) -> Any:
    """With parameters far from where they start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in fusion.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return fusion


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_mean_and_static_weights(make_spec: Spec, streams: list[Tensor]) -> None:
    spec = make_spec(n_layers=LAYERS)
    torch.testing.assert_close(MeanOfLayers(spec)(streams), sum(streams[1:]) / LAYERS)
    fresh = StaticFusion(spec, gamma=True).double()
    torch.testing.assert_close(fresh(streams), sum(streams[1:]) / LAYERS)
    fusion = stirred(StaticFusion(spec, gamma=True))
    exponentials = [math.exp(w) for w in fusion.logits.tolist()]
    expected = sum(e / sum(exponentials) * x for e, x in zip(exponentials, streams[1:], strict=True))
    torch.testing.assert_close(fusion(streams), fusion.gamma.item() * expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("per", ["token", "sequence"])
def test_adaptive_weights_token_by_token(
    make_spec: Spec, streams: list[Tensor], per: Any, causal: bool, padded: bool
) -> None:
    fusion = stirred(AdaptiveFusion(make_spec(n_layers=LAYERS, causal=causal), per=per))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    if padded:
        mask[0, 3:], mask[1, 0] = True, True
    found = fusion(streams, mask if padded else None)
    for b in range(2):
        for t in range(5):
            if mask[b, t]:
                continue
            seen = [t] if per == "token" else [s for s in range(t + 1 if causal else 5) if not mask[b, s]]
            summary = sum(layer_norm(streams[-1][b, s], (16,)) for s in seen) / len(seen)
            weights = (fusion.gate.weight @ summary + fusion.gate.bias).softmax(0)
            expected = sum(w * x[b, t] for w, x in zip(weights, streams[1:], strict=True))
            torch.testing.assert_close(found[b, t], expected)


@pytest.mark.parametrize(("dilation", "period"), [(1, 1), (2, 1), (1, 2), (3, 1), (2, 3)])
def test_dense_sums(make_spec: Spec, dilation: int, period: int) -> None:
    layers = 5
    fusion = stirred(DenseFusion(make_spec(n_layers=layers), dilation=dilation, period=period))
    generator = torch.Generator().manual_seed(2)
    streams = [torch.randn(2, 4, 16, generator=generator, dtype=torch.float64) for _ in range(layers + 1)]
    for depth in range(layers + 1):
        found = fusion.feed(streams[: depth + 1])
        if depth == 0 or (depth % period and depth != layers):
            assert found is streams[depth]
            continue
        terms = range(depth, -1, -dilation)
        weights = fusion.weights[str(depth)].tolist()
        torch.testing.assert_close(found, sum(w * streams[j] for w, j in zip(weights, terms, strict=True)))
    torch.testing.assert_close(fusion(streams), fusion.feed(streams))


def test_dense_starts_as_the_plain_transformer(build: Build) -> None:
    plain, dense = (build(n_layers=LAYERS, layer_fusion=option) for option in ("last", "dense"))
    assert torch.equal(plain(tokens(2, 9)), dense(tokens(2, 9)))


def test_what_is_fused_goes_to_norm_and_head(build: Build) -> None:
    model = build(n_layers=2, layer_fusion="mean").double()
    ids, seen = tokens(2, 9), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    logits = model(ids)
    torch.testing.assert_close(logits, model.head(model.norm((seen[0] + seen[1]) / 2)))


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_no_weight_hears_of_later_tokens(build: Build, load_option: Callable[..., Any], per: str) -> None:
    model = build(layer_fusion=load_option("layer_fusion", "adaptive", per=per)).double()
    stirred(model.layer_fusion)
    before, changed = tokens(2, 12), tokens(2, 12)
    changed[:, 7] = (changed[:, 7] + 1) % 11
    difference = (model(before) - model(changed)).abs().amax((0, 2))
    assert difference[:7].max() < 1e-12 < difference[7:].min()


def figures(model: Transformer, *batches: Tensor) -> dict[str, float]:
    probe = MechanismProbe(model.eval())
    probe.attach()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    probe.detach()
    found = probe.metrics().items()
    return {name.removeprefix("layer_fusion/"): value for name, value in found if name.startswith("layer_fusion/")}


def test_figures_are_those_of_all_tokens(build: Build) -> None:
    model = build(n_layers=LAYERS, layer_fusion="adaptive").double()
    stirred(model.layer_fusion)
    seen: list[Tensor] = []
    model.layer_fusion.register_forward_hook(
        lambda module, args, output: seen.append(module.weigh(args[0], args[1]).flatten(0, 1))
    )
    found = figures(model, tokens(2, 8), tokens(1, 5, seed=1))
    weights = torch.cat(seen)
    assert len(weights) == 21
    for layer in range(LAYERS):
        assert found[f"weight/layer_{layer}"] == pytest.approx(weights[:, layer].mean().item())
    assert found["entropy"] == pytest.approx(-(weights * weights.log()).sum(-1).mean().item())
    assert found["weight_variation"] == pytest.approx(weights.std(0, correction=0).mean().item())


def test_figures_of_the_others(build: Build) -> None:
    mean = figures(build(n_layers=LAYERS, layer_fusion="mean"), tokens(2, 8))
    assert mean == pytest.approx({f"weight/layer_{i}": 1 / 3 for i in range(3)} | {"entropy": math.log(3)})
    assert figures(build(n_layers=LAYERS, layer_fusion="last"), tokens(2, 8)) == {}
    dense = figures(build(n_layers=2, layer_fusion="dense"), tokens(2, 8))
    assert dense == {"weight/layer_0": 0, "weight/layer_1": 1, "entropy": 0, "skip_weight": 0, "skip_weight_max": 0}


def test_an_adaptive_fusion_whose_weights_never_vary_shows(build: Build) -> None:
    model = build(layer_fusion="adaptive")
    fusion: Any = model.layer_fusion
    torch.nn.init.zeros_(fusion.gate.weight)
    assert figures(model, tokens(2, 8))["weight_variation"] < 1e-6


@pytest.mark.parametrize("option", ["mean", "static", "adaptive"])
def test_one_layer_leaves_nothing_to_fuse(build: Build, option: str) -> None:
    with pytest.raises(ValueError, match="leaves no layers to weigh: take more, or layer_fusion=last"):
        build(n_layers=1, layer_fusion=option)


@pytest.mark.parametrize("option", [{"dilation": 0}, {"period": 0}])
def test_numbers_out_of_range(make_spec: Spec, option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        DenseFusion(make_spec(), **({"dilation": 1, "period": 1} | option))
