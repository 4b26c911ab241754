"""The attention between modalities, against sums over dense weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.model.mechanism import MechanismProbe
from ablab.model.transformer import Transformer

NAMES = ["image", "audio", "text"]


def shares(model: Transformer, *batches: dict[str, Tensor]) -> dict[str, float]:
    probe = MechanismProbe(model)
    probe.attach()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    figures = probe.metrics()
    probe.detach()
    return {name.removeprefix("modal_fusion/"): each for name, each in figures.items() if "_from_" in name}


def test_rows_sum_to_one_and_nobody_is_looked_at_who_cannot_be_seen(
    modal_fusion_option: str, build_modal: Callable[..., Transformer], modal_inputs: Callable[..., dict[str, Tensor]]
) -> None:
    model = build_modal(modal_fusion=modal_fusion_option, n_layers=2)
    found = shares(model, modal_inputs())
    fusion: Any = model.modal_fusion
    for layer in range(2):
        reach = fusion.reach(layer)
        for row, name in enumerate(NAMES):
            own = {key: each for key, each in found.items() if key.startswith(f"{name}_") and key.endswith(f"_{layer}")}
            assert sum(own.values()) == pytest.approx(1)
            for column, other in enumerate(NAMES):
                assert (own[f"{name}_from_{other}/layer_{layer}"] > 0) == bool(reach[row][column])


def test_early_fusion_against_dense_weights(
    build_modal: Callable[..., Transformer], modal_inputs: Callable[..., dict[str, Tensor]]
) -> None:
    model: Any = build_modal(n_layers=1)
    inputs = modal_inputs(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # weights that are far from even
        inputs["padding"][2, model.layout.places["audio"]] = True
        found = shares(model, inputs, modal_inputs(3, seed=5))  # the first batch alone counts
        block = model.blocks[0]
        x = block.attention_norm(model.position.add(model.embedding(inputs)))
        q, k = (getattr(block.attention, name)(x).unflatten(-1, (2, -1)) for name in ("query", "key"))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
        weights = scores.masked_fill(inputs["padding"][:, None, None], -torch.inf).softmax(-1)
    places = model.layout.places
    for asking in NAMES:
        rows = [(b, t) for b in range(3) for t in range(places[asking].start, places[asking].stop)]
        rows = [(b, t) for b, t in rows if not inputs["padding"][b, t]]
        for asked in NAMES:
            expected = sum(weights[b, :, t, places[asked]].sum().item() for b, t in rows) / (2 * len(rows))
            assert found[f"{asking}_from_{asked}"] == pytest.approx(expected, rel=1e-4)


def test_a_task_of_one_modality_has_none(build: Callable[..., Transformer]) -> None:
    assert not shares(build(), torch.zeros(1, 8, dtype=torch.long))  # type: ignore[arg-type]
