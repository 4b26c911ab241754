"""Pictures of attention, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention.pictures import FRAME, MOST_COLUMNS, columns_of, picture
from ablab.model.mechanism import MechanismProbe
from ablab.model.transformer import Transformer


def test_brightness_is_the_root_of_a_weight_beside_the_querys_heaviest() -> None:
    weights = torch.tensor([[[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 0.0]]])
    assert picture(weights).tolist() == [
        [255, 0, 0],
        [255, 128, 0],  # sqrt(.2 / .8) = 1/2
        [180, 255, 180],  # sqrt(.25 / .5) = .707
        [0, 0, 0],
    ]


def test_heads_lie_side_by_side_with_lines_between() -> None:
    weights = torch.stack([torch.eye(2), torch.ones(2, 2), torch.zeros(2, 2)])
    f = FRAME
    assert picture(weights).tolist() == [
        [255, 0, f, 255, 255],
        [0, 255, f, 255, 255],
        [f, f, f, f, f],
        [0, 0, f, f, f],
        [0, 0, f, f, f],
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_every_weight_has_its_pixel(heads: int, queries: int, keys: int) -> None:
    weights = torch.rand(heads, queries, keys, generator=torch.Generator().manual_seed(keys)).softmax(-1)
    drawn = picture(weights)
    across = (drawn.shape[1] + 1) // (keys + 1)
    for head in range(heads):
        top, left = head // across * (queries + 1), head % across * (keys + 1)
        for i in range(queries):
            for j in range(keys):
                share = (weights[head, i, j] / max(weights[head, i].tolist())).item()
                assert drawn[top + i, left + j].item() == pytest.approx(255 * share**0.5, abs=0.51)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1100), st.integers(0, 10**6))
def test_a_far_single_key_stays_visible(length: int, place: int) -> None:
    weights = torch.zeros(1, 1, length)
    weights[..., place % length] = 0.3
    columns = columns_of(weights)
    assert columns.shape[-1] == min(length, MOST_COLUMNS)
    assert columns.max() == weights.max()
    bright = columns[0, 0].nonzero().flatten().tolist()
    width = length / columns.shape[-1]
    assert all(column * width - 1 < place % length < (column + 1) * width + 1 for column in bright)


def pictures(model: Transformer, *batches: Tensor) -> dict[str, Tensor]:
    probe = MechanismProbe(model, pictured=True)
    probe.attach()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    probe.detach()
    return probe.pictures()


def test_a_model_is_drawn_by_layers_from_its_first_sequence(
    build: Callable[..., Transformer], tokens: Callable[..., Tensor]
) -> None:
    model = build(n_heads=4).eval()
    first = tokens(1, 20)
    drawn = pictures(model, torch.cat([first, tokens(2, 20, seed=1)]), tokens(3, 20, seed=2))
    assert list(drawn) == ["attention/layer_0", "attention/layer_1"]
    assert all(each.shape == (41, 41) and each.dtype == torch.uint8 for each in drawn.values())
    block: Any = model.blocks[0]
    core = block.attention.core
    seen: list[Tensor] = []
    handle = core.register_forward_hook(lambda core, args, out: seen.append(core.weights(*args[:2], torch.arange(20))))
    model(first)
    handle.remove()
    assert torch.equal(drawn["attention/layer_0"], picture(seen[0][0].detach()))


def test_long_sequences_are_drawn_small(build: Callable[..., Transformer], tokens: Callable[..., Tensor]) -> None:
    drawn = pictures(build(n_layers=1, max_length=600).eval(), tokens(1, 600))
    assert drawn["attention/layer_0"].shape == (256, 513)


def test_nothing_is_drawn_unasked(build: Callable[..., Transformer], tokens: Callable[..., Tensor]) -> None:
    probe = MechanismProbe(build().eval())
    probe.attach()
    probe._model(tokens(1, 8))
    probe.detach()
    assert probe.pictures() == {}
    assert probe.metrics()
