from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from equations import fill, latent, linear, random, rotated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ablab.model.attention.mla import LatentAttention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def untouched(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("the model's rotation is not for this layer")


def build(spec: LayerSpec, **options: Any) -> LatentAttention:
    try:
        torch.set_default_dtype(torch.float64)  # for the tables of the rotation
        layer = LatentAttention(spec, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    fill(layer)
    return layer


def by_definition(
    layer: LatentAttention, spec: LayerSpec, x: Tensor, padding: Tensor | None, rope_size: int, base: float
) -> Tensor:
    """Equations 9 to 19 of the paper, token by token."""
    D, H = spec.head_size, spec.n_heads
    out = []
    for b in range(len(x)):
        queries = latent(x[b], layer.query_latent) if isinstance(layer.query_latent, nn.Sequential) else x[b]
        queries = linear(queries, layer.query)
        assert isinstance(layer.latent, nn.Sequential)
        compressed = latent(x[b], layer.latent)
        keys, values = linear(compressed, layer.key), linear(compressed, layer.value)
        shared = rotated(linear(x[b], layer.rotated_key), size=rope_size, base=base)
        heads = []
        for h in range(H):
            own = queries[:, h * (D + rope_size) : (h + 1) * (D + rope_size)]
            plain, turned = own[:, :D], rotated(own[:, D:], size=rope_size, base=base)
            mixed = []
            for i in range(x.shape[1]):
                seen = [j for j in range(i + 1 if spec.causal else x.shape[1]) if padding is None or not padding[b, j]]
                scores = keys[seen, h * D : (h + 1) * D] @ plain[i] + shared[seen] @ turned[i]
                mixed.append((scores / math.sqrt(D + rope_size)).softmax(0) @ values[seen, h * D : (h + 1) * D])
            heads.append(torch.stack(mixed))
        out.append(linear(torch.cat(heads, dim=-1), layer.output))
    return torch.stack(out)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 12),
    options=st.fixed_dictionaries(
        {
            "kv_rank": st.sampled_from([None, 1, 5]),
            "q_rank": st.sampled_from([None, 1, 6]),
            "rope_size": st.sampled_from([2, 4, 8]),
            "rope_base": st.sampled_from([10.0, 10000.0]),
        }
    ),
    causal=st.booleans(),
    bias=st.booleans(),
    padded=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_equations(
    make_spec: Spec, length: int, options: dict[str, Any], causal: bool, bias: bool, padded: float | None, seed: int
) -> None:
    spec = make_spec(causal=causal, bias=bias)
    layer = build(spec, **options)
    x = random(2, length, 16, seed=seed).requires_grad_()
    padding = None if padded is None else random(2, length, seed=seed).sigmoid() < padded
    inputs = [x, *layer.parameters()]
    out = layer(x, untouched, padding)
    expected = by_definition(layer, spec, x, padding, options["rope_size"], options["rope_base"])
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    direction = random(*out.shape, seed=seed)
    ours = torch.autograd.grad(out, inputs, direction)
    theirs = torch.autograd.grad(expected, inputs, direction, allow_unused=True, materialize_grads=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("d_model", "n_heads", "kv_rank", "rope_size"), [(64, 4, 32, 8), (256, 32, 32, 4), (256, 8, 128, 16), (4, 4, 2, 2)]
)
def test_sizes_left_open_follow_from_the_model(
    make_spec: Spec, d_model: int, n_heads: int, kv_rank: int, rope_size: int
) -> None:
    layer = LatentAttention(make_spec(d_model=d_model, n_heads=n_heads))
    assert layer.value.in_features == layer.key.in_features == kv_rank
    assert layer.rotated_key.out_features == rope_size
    assert layer.query.in_features == d_model


def test_what_passes_the_latent_is_all_that_keys_and_values_know(make_spec: Spec) -> None:
    """A latent of one number, normalised, is almost its sign: tokens of one sign have almost one key and value."""
    layer = build(make_spec(), kv_rank=1)
    seen: list[Tensor] = []
    layer.core.register_forward_hook(lambda core, args, out: seen.extend(args[1:3]))
    x = random(1, 9, 16)
    layer(x, untouched)
    latent_of: Any = layer.latent
    signs = latent_of[0](x)[0, :, 0] > 0
    assert signs.any()
    assert not signs.all()
    for content in (seen[0][..., : layer.head_size], seen[1]):
        for sign in (signs, ~signs):
            same = content[:, :, sign]
            torch.testing.assert_close(same, same[:, :, :1].expand_as(same), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(content[:, :, signs][:, :, 0], content[:, :, ~signs][:, :, 0], atol=0.1)


def test_scores_depend_on_distances_alone(make_spec: Spec) -> None:
    """The same token everywhere: moving a query and a key together leaves their score."""
    layer = build(make_spec(causal=False), rope_size=4)
    seen: list[Tensor] = []
    layer.core.register_forward_hook(lambda core, args, out: seen.extend(args[:2]))
    layer(random(1, 1, 16).expand(1, 8, 16), untouched)
    scores = seen[0] @ seen[1].transpose(-1, -2)
    torch.testing.assert_close(scores[..., 1:, 1:], scores[..., :-1, :-1])
    assert not torch.allclose(scores[..., 1:, :], scores[..., :-1, :])


def test_nothing_depends_on_later_tokens(make_spec: Spec) -> None:
    layer, first = build(make_spec()), random(1, 12, 16)
    for place in (1, 6, 11):
        second = torch.cat([first[:, :place], random(1, 12 - place, 16, seed=9)], dim=1)
        before, after = layer(first, untouched), layer(second, untouched)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_padding_alone(make_spec: Spec, dtype: torch.dtype) -> None:
    layer = LatentAttention(make_spec()).to(dtype)
    x = random(2, 6, 16).to(dtype).requires_grad_()
    out = layer(x, untouched, torch.tensor([[True] * 6, [False] * 5 + [True]]))
    assert out.dtype == dtype
    assert torch.equal(out[0], layer.output.bias.expand(6, 16))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, *layer.parameters()))


def test_autocast_is_close_to_single_precision(make_spec: Spec) -> None:
    layer, x = build(make_spec(), q_rank=4).float(), random(1, 9, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, untouched)
    assert out.dtype == torch.bfloat16
    exact = layer(x, untouched)
    assert (out.float() - exact).norm() < 0.03 * exact.norm()


def test_dropout_acts_in_training_only(make_spec: Spec) -> None:
    x = random(1, 9, 16)
    for place in ("output", "weights"):
        layer = build(make_spec(), dropout=0.5, dropout_on=place)
        assert not torch.equal(layer(x, untouched), layer(x, untouched))
        assert torch.equal(layer.eval()(x, untouched), build(make_spec())(x, untouched))


def test_compiles_in_one_graph(make_spec: Spec) -> None:
    layer, x = build(make_spec(), q_rank=4), random(2, 9, 16)
    rotate = lambda q, k: (q, k)  # noqa: E731
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    parameters = list(layer.parameters())
    gradients = [torch.autograd.grad(f(x, rotate).square().sum(), parameters) for f in (layer, compiled)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({}, {"kv_rank": 0}, "kv_rank must be at least 1, got 0"),
        ({}, {"q_rank": 0}, "q_rank must be at least 1, got 0"),
        ({}, {"rope_size": 0}, "rope_size must be at least 2, got 0"),
        ({}, {"rope_size": 3}, "rope_size must be even, got 3"),
        ({}, {"rope_base": 1.0}, "base must be above 1, got 1.0"),
        ({"n_kv_heads": 1}, {}, "model.n_kv_heads=1: latent attention has one latent .*: use model.n_kv_heads=null"),
    ],
)
def test_options_out_of_range(make_spec: Spec, sizes: dict[str, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentAttention(make_spec(**sizes), **options)
