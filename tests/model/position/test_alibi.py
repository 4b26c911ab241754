"""Linear biases beside their formula, in every core that takes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.attention.base import AttentionCore
from ablab.model.position import ALiBi, slopes_of
from ablab.model.spec import LayerSpec
from ablab.study.planning.preflight import Preflight

Spec = Callable[..., LayerSpec]
LoadOption = Callable[..., Any]
# So that each leaves something out, and hashes, at the lengths here.
CORES: dict[str, dict[str, Any]] = {
    "full": {},
    "windowed": {"window": 50, "global_tokens": 3, "dilation": 2},
    "topk": {"keys": 7},
    "lsh": {"bucket_size": 16, "rounds": 3, "dense_below": 0},
    "dynamic": {"window": 40, "bucket_size": 16, "dense_below": 0},
}


def test_the_published_slopes() -> None:
    assert slopes_of(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert slopes_of(16)[:3] == pytest.approx([1 / 2**0.5, 1 / 2, 1 / 2**1.5])
    assert slopes_of(12) == pytest.approx([*slopes_of(8), *(2**-e for e in (0.5, 1.5, 2.5, 3.5))])
    assert slopes_of(1) == [1 / 256]


@pytest.fixture
def make(make_spec: Spec, load_option: LoadOption) -> Callable[..., AttentionCore]:
    def build(option: str, *, causal: bool = True, heads: int = 3, **changes: Any) -> AttentionCore:
        spec = make_spec(d_model=8 * heads, n_heads=heads, max_length=512, causal=causal)
        core: AttentionCore = load_option("attention", option, **(CORES[option] | changes))(spec)
        core.weigh_down(ALiBi(spec).slopes * 0.25)  # so weak that far keys matter
        return core.double().eval()

    return build


def drawn(length: int, heads: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shape = (2, heads, length, 8)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def check(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    sums = [(x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)).sum() for x in (found, expected)]
    gradients = [torch.autograd.grad(x, leaves) for x in sums]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 37, 450])
@pytest.mark.parametrize("option", ["full", "windowed"])
def test_scores_fall_with_the_distance(
    make: Callable[..., AttentionCore], option: str, length: int, causal: bool, padded: bool
) -> None:
    core, (q, k, v) = make(option, causal=causal), drawn(length)
    positions = torch.arange(length)
    seen = core.visited(q, k, positions)
    padding = (torch.arange(length) % 5 == 2).expand(2, -1) if padded else None
    if padding is not None:
        seen = seen & ~padding[:, None, None, :]
    distance = (positions[:, None] - positions).abs()
    slopes = torch.tensor([0.25 * slope for slope in slopes_of(3)], dtype=torch.float64)
    scores = q @ k.mT / math.sqrt(8) - slopes[:, None, None] * distance
    expected = scores.masked_fill(~seen, -math.inf).softmax(-1).nan_to_num(0.0) @ v
    check(core(q, k, v, padding), expected, [q, k, v])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [37, 450])
@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("topk", {}),
        ("lsh", {}),
        ("lsh", {"dense_below": 500}),
        ("dynamic", {}),
        ("dynamic", {"span_per_query": True}),
        ("dynamic", {"adapt_size": False}),
        ("dynamic", {"dense_below": 500}),
    ],
)
def test_cores_weigh_as_they_say_they_do(
    make: Callable[..., AttentionCore], option: str, changes: dict[str, Any], length: int, causal: bool
) -> None:
    core, (q, k, v) = make(option, causal=causal, **changes), drawn(length)
    check(core(q, k, v), core.weights(q, k, torch.arange(length)) @ v, [q, k, v])


@pytest.mark.parametrize("option", CORES)
def test_weights_are_those_of_the_biased_scores(make: Callable[..., AttentionCore], option: str) -> None:
    """Among keys that a query sees with full weight, weights differ by the exponential of score and distance."""
    core, (q, k, _) = make(option, window=128) if option == "dynamic" else make(option), drawn(60)
    query = torch.tensor([59])
    weights, seen = core.weights(q, k, query)[0, :, 0], core.visited(q, k, query).expand(2, 3, 1, 60)[0, :, 0]
    scores = (q[0, :, 59:] @ k[0].mT)[:, 0] / math.sqrt(8)
    slopes = torch.tensor([0.25 * slope for slope in slopes_of(3)], dtype=torch.float64)
    biased = scores - slopes[:, None] * (59 - torch.arange(60))
    for head in range(3):
        keys = seen[head].nonzero().squeeze(1)
        assert len(keys) >= 2
        torch.testing.assert_close(weights[head, keys], biased[head, keys].softmax(0))


def test_a_combination_that_cannot_work_is_refused_in_one_line(tiny_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError) as caught:
        Preflight().check(tiny_config("position=alibi", "attention=nsa"))
    assert str(caught.value) == (
        "position=alibi does not work with attention=nsa: its scores take no bias by distance; change one of the two"
    )


def test_biases_do_not_add_to_tokens_or_to_the_checkpoint(make_spec: Spec) -> None:
    position = ALiBi(make_spec())
    x = torch.randn(1, 5, 16)
    assert position.add(x) is x
    assert not list(position.parameters())
    assert not position.state_dict()
