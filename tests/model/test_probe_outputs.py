"""Components of equal function answer alike, and others do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ablab.model.mechanism import probe_outputs
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
LoadOption = Callable[..., Any]


def of_axis(model: Transformer, axis: str) -> list[float]:
    return [x for name, numbers in probe_outputs(model).items() if name.split("/")[0] == axis for x in numbers]


@pytest.mark.parametrize(
    ("axis", "one", "other", "changes"),
    [
        ("attention", "full", "windowed", {"window": 64}),
        ("attention", "full", "lsh", {"dense_below": 100}),
        ("attention", "full", "topk", {"keys": 64}),
        ("activation", "relu", "dynamic_sparse", {"scale": 0.0}),
    ],
)
def test_another_name_for_the_same_function_answers_alike(
    build: Build, load_option: LoadOption, axis: str, one: str, other: str, changes: dict[str, Any]
) -> None:
    first = of_axis(build(**{axis: load_option(axis, one)}), axis)
    second = of_axis(build(**{axis: load_option(axis, other, **changes)}), axis)
    assert first
    assert second == pytest.approx(first, rel=1e-5, abs=1e-6)


def test_options_that_do_something_else_answer_otherwise(
    build: Build, build_modal: Build, menu: dict[str, list[str]]
) -> None:
    for axis, options in menu.items():  # at a length at which all of them leave something out
        # These start as ReLU, as the plain transformer and as the mean.
        starts = {"activation": {"dynamic_sparse"}, "layer_fusion": {"dense", "static"}, "residual": {"hyper", "mhc"}}
        alike = starts.get(axis, set())
        options = [option for option in options if option not in alike]
        make = build_modal if axis == "modal_fusion" else build
        answers = {option: tuple(of_axis(make(**{axis: option}, max_length=320), axis)) for option in options}
        told = [answer for answer in answers.values() if answer]
        assert len(set(told)) == len(told) >= min(3, len(options)), axis


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"window": 4}])
def test_settings_show_those_of_training_included(
    build: Build, load_option: LoadOption, changes: dict[str, Any]
) -> None:
    one, other = (
        of_axis(build(attention=load_option("attention", "windowed", **{"window": 5} | more)), "attention")
        for more in ({}, changes)
    )
    assert one != other


def test_trained_weights_and_the_model_itself_are_left_alone(build: Build) -> None:
    model = build(activation="dynamic_sparse")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    answers = probe_outputs(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    again = probe_outputs(model)
    assert {name for name in answers if answers[name] != again[name]} == {"position"}  # learned, so its own
