"""What components may offer: it is found where it is offered, and a misspelt offer is no silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.config import RunConfig
from ablab.config.axes import AXES, called_by, load
from ablab.errors import UserError
from ablab.model.protocols import Measured, Penalised, SizesItself, WorksByUnit, misspelt, offering
from ablab.model.spec import LayerSpec
from ablab.training.build import build_task
from ablab.training.build_model import build_model


class Offering(nn.Module):
    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def penalty(self) -> Tensor:
        return torch.ones(())


class Misspelt(Offering):
    def mechansim(self) -> dict[str, float]:
        return {}


class WithNamesOfItsOwn(Offering):
    def thresholds(self) -> list[float]:
        return []


def test_who_offers_is_found_by_name(build: Callable[..., nn.Module]) -> None:
    model = build(activation=Offering)
    found = [name for name, _ in offering(model, Penalised)]
    assert found == [f"blocks.{layer}.feed_forward.activation" for layer in range(2)]
    assert not list(offering(build(), Penalised))


def test_what_options_say_of_themselves(make_spec: Callable[..., LayerSpec], load_option: Callable[..., Any]) -> None:
    said = {
        name: {
            offer
            for offer in (Measured, SizesItself, WorksByUnit)
            if isinstance(load_option(*name)(make_spec()), offer)
        }
        for name in (("activation", "swiglu"), ("activation", "relu"), ("activation", "dynamic_sparse"))
    }
    assert list(said.values()) == [{SizesItself}, {WorksByUnit}, {WorksByUnit, Measured}]


def test_names_that_are_nearly_an_offer() -> None:
    assert misspelt(Misspelt, (nn.Module,)) == ("mechansim", "mechanism")
    assert misspelt(WithNamesOfItsOwn, (nn.Module,)) is None
    assert misspelt(torch.nn.GELU, (nn.Module,)) is None


@pytest.mark.parametrize(
    ("axis", "target", "line"),
    [
        ("activation", f"{__name__}.Misspelt", r"activation: nobody asks for Misspelt\.mechansim; .*'mechanism'"),
        ("norm", f"{__name__}.Offering", r"norm: Offering is not an ablab\.model\.norm\.Norm$"),
        ("attention", f"{__name__}.Offering", r"attention: Offering is not an .*AttentionCore or .*AttentionLayer$"),
    ],
)
def test_an_option_that_is_none_is_refused_in_one_line(
    tiny_config: Callable[..., RunConfig], axis: str, target: str, line: str
) -> None:
    config = tiny_config().with_values({axis: {"_target_": target, "_partial_": True}})
    with pytest.raises(UserError, match=line):
        build_model(config, build_task(config), device="meta")


def test_every_name_in_the_table_is_there() -> None:
    for axis in AXES.values():
        for dotted in (*axis.kinds, axis.mechanism, axis.probe_outputs):
            assert dotted is None or callable(load(dotted)), dotted
    assert all(axis.kinds and axis.governs and axis.probe_outputs for axis in called_by("model", "multimodal"))
