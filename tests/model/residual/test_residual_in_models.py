"""Residual connections in whole models: where they start, what they cannot work with, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.model.mechanism import probe_outputs
from ablab.model.modal_fusion.base import blocks_of
from ablab.model.residual.base import Residual
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Load = Callable[..., Any]


def trained(model: Transformer, ids: Tensor, steps: int = 8) -> Transformer:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("layers", [2, 5])
@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("scaled", {"initial": 1.0}),
        ("value", {"initial": 0.0}),
        ("hyper", {}),
        ("hyper", {"streams": 2, "dynamic": False}),
        ("mhc", {}),
        ("mhc", {"streams": 2, "rounds": 1, "own": 0.6}),
    ],
)
def test_training_starts_at_the_plain_transformer(
    option: str, settings: dict[str, Any], layers: int, build: Build, load_option: Load, tokens: Callable[..., Tensor]
) -> None:
    ids = tokens(2, 20)
    residual = load_option("residual", option, **settings)
    for fusion in ("last", "mean", "adaptive"):  # of what is read of each layer
        plain = build(n_layers=layers, layer_fusion=fusion)
        own = build(residual=residual, n_layers=layers, layer_fusion=fusion)
        torch.testing.assert_close(own(ids), plain(ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize("option", ["hyper", "mhc"])
def test_streams_come_apart(
    option: str, build: Build, watch: Callable[..., dict[str, float]], tokens: Callable[..., Tensor]
) -> None:
    """Alike as they are at the start, gradients must not keep them so, or nothing is ever mixed."""
    ids = tokens(4, 20)
    model = build(residual=option)
    before = watch(model, ids)
    after = watch(trained(model, ids), ids)
    assert before["residual/stream_spread"] < 1e-6
    assert after["residual/stream_spread"] > 1e-3
    assert after["residual/mix_distance"] != before["residual/mix_distance"]
    if option == "mhc":
        assert after["residual/row_error"] < 1e-3
        assert after["residual/column_error"] < 1e-5


def test_every_option_tells_what_it_does(
    residual_option: str, build: Build, watch: Callable[..., dict[str, float]], tokens: Callable[..., Tensor]
) -> None:
    told = {name for name in watch(build(residual=residual_option), tokens(2, 9)) if name.startswith("residual/")}
    own = {
        "plain": set(),
        "scaled": {"scale", "scale_max"},
        "value": {"lambda_own", "lambda_first"},
        "hyper": {"mix_distance", "row_error", "column_error", "collapse_entropy", "stream_spread"},
        "mhc": {"mix_distance", "row_error", "column_error", "collapse_entropy", "head_collapse_entropy"},
        "attention": {"attention_read_entropy", "feed_forward_reads/layer_1/3", "head_reads/4"},
    }[residual_option]
    assert {f"residual/{name}" for name in {"gain", "gain/layer_1", *own}} <= told


def test_numbers_told_are_those_of_the_weights(
    build: Build, load_option: Load, watch: Callable[..., dict[str, float]], tokens: Callable[..., Tensor]
) -> None:
    model: Any = build(residual=load_option("residual", "hyper", streams=2, dynamic=False), n_layers=1)
    for residual in (model.blocks[0].attention_residual, model.blocks[0].feed_forward_residual):
        residual.mix.data = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
        residual.collapse.data = torch.tensor([0.5, 0.5])
    told = watch(model, tokens(2, 9))
    assert told["residual/mix_distance"] == pytest.approx((0.25 / 2) ** 0.5)
    assert told["residual/row_error"] == told["residual/column_error"] == pytest.approx((0.25 / 2) ** 0.5)
    assert told["residual/collapse_entropy"] == pytest.approx(1.0)
    attention = watch(build(residual="attention", n_layers=1), tokens(2, 9))
    assert [attention[f"residual/head_reads/{entry}"] for entry in range(3)] == pytest.approx([1 / 3] * 3)


def test_weights_that_stay_at_their_start_answer_as_the_plain_residual(build: Build, load_option: Load) -> None:
    """So that a mix which training left alone is told from one that it used."""

    def answers(residual: Any) -> list[float]:
        return [x for name, each in probe_outputs(residual).items() if name.startswith("residual/") for x in each]

    plain = answers(build())
    for option, name, start in (("hyper", "expand", 0), ("mhc", "bias", 4)):
        model: Any = build(residual=option)
        assert answers(model) == pytest.approx(plain, rel=1e-5, abs=1e-6), option
        expand = model.blocks[1].attention_residual.get_parameter(name).data[start : start + 4]
        expand += 0.1 * torch.arange(4)
        assert answers(model) != pytest.approx(plain, rel=1e-3), option
    assert answers(build(residual=load_option("residual", "value", initial=0.1))) != pytest.approx(plain, rel=1e-3)
    assert answers(build(residual=load_option("residual", "value", initial=0.0))) == pytest.approx(plain)


def test_values_are_mixed_with_the_first_layers(build: Build, load_option: Load, tokens: Callable[..., Tensor]) -> None:
    ids, seen = tokens(2, 9), []
    model: Any = build(residual=load_option("residual", "value", initial=0.25), n_layers=3, n_kv_heads=1)
    for block in model.blocks:
        block.attention.core.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
        block.attention.value.register_forward_hook(lambda module, args, out: seen.append(out.unsqueeze(1)))
    model(ids)
    first, given, *rest = seen
    torch.testing.assert_close(given, first)
    for own, mixed in zip(rest[::2], rest[1::2], strict=True):
        torch.testing.assert_close(mixed, 0.75 * own + 0.25 * first)
    other = model(ids)  # a second pass has first values of its own
    torch.testing.assert_close(other, model(ids))


@pytest.mark.parametrize(
    ("residual", "changes", "other"),
    [
        ("hyper", {"norm": ("rms", {"placement": "post"})}, "norm"),
        ("attention", {"norm": ("rms", {"placement": "post"})}, "norm"),
        ("mhc", {"layer_fusion": ("dense", {})}, "layer_fusion"),
        ("value", {"attention": ("nsa", {})}, "attention"),
    ],
)
def test_what_does_not_work_together(
    residual: str, changes: dict[str, tuple[str, dict[str, Any]]], other: str, build: Build, load_option: Load
) -> None:
    parts = {axis: load_option(axis, option, **settings) for axis, (option, settings) in changes.items()}
    with pytest.raises(ClashError) as clash:
        build(residual=residual, **parts)
    assert (clash.value.axis, clash.value.other) == ("residual", other)


def test_with_several_modalities(
    residual_option: str, modal_fusion_option: str, build_modal: Build, modal_inputs: Callable[..., Any]
) -> None:
    """States go through every fusion as the stream does, but for values, which have one first layer."""
    settings = {"modal_fusion": modal_fusion_option, "n_layers": 2}
    if residual_option == "value" and modal_fusion_option != "early":
        with pytest.raises(ClashError, match="each modality passes the layers by itself"):
            build_modal(residual=residual_option, **settings)
        return
    model = build_modal(residual=residual_option, **settings)
    answer = model(modal_inputs())
    answer.square().sum().backward()
    assert answer.shape == (2, 1, 7)
    if residual_option in ("hyper", "mhc"):
        torch.testing.assert_close(answer, build_modal(**settings)(modal_inputs()), rtol=0, atol=1e-6)
    residuals = [each.attention_residual for blocks in model.blocks for each in blocks_of(blocks)]
    assert all(isinstance(each, Residual) and each.place in (0, 2) for each in residuals)
