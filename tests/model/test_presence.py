"""Padding is in no mechanism metric: neither what stands there nor how much of it there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.model.mechanism import MechanismProbe
from ablab.model.parametrisation import SizeWatcher
from ablab.model.presence import Presence
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
Watch = Callable[..., dict[str, float]]
PADDING = 10
SAMPLED = {"keys_visited", "mass_captured", "effective_context"}  # of the first batch alone

# Of each axis what is measured over all tokens, as option and settings.
MEASURED: list[dict[str, Any]] = [
    {"activation": ("clamped_swiglu", {"limit": 0.05}), "norm": ("dyt", {"placement": "sandwich"})},
    {"activation": ("relu", {}), "position": ("learned", {})},
    {"feed_forward": ("moe", {"shared_gate": True}), "activation": ("relu", {})},
    {"attention": ("full", {"qk_norm": True, "output_gate": "head"}), "position": ("rope", {})},
    {"residual": ("hyper", {}), "layer_fusion": ("static", {})},
    {"residual": ("attention", {}), "layer_fusion": ("adaptive", {})},
]


def _of_pass(model: Transformer, *given: Any) -> dict[str, float]:
    probe = MechanismProbe(model, strict=True)
    probe.attach()
    with torch.no_grad():
        model(*given)
    probe.detach()
    return probe.metrics()


@pytest.mark.parametrize("options", MEASURED)
def test_padded_sequences_measure_what_they_do_one_by_one(
    build: Build, load_option: Callable[..., Any], tokens: Tokens, watch: Watch, options: dict[str, Any]
) -> None:
    parts = {axis: load_option(axis, option, **settings) for axis, (option, settings) in options.items()}
    model = build(padding=PADDING, **parts).double().eval()
    alone = [tokens(1, length, length) % PADDING for length in (7, 12, 3)]
    padded = torch.cat([torch.nn.functional.pad(each, (0, 20 - each.shape[1]), value=PADDING) for each in alone])
    apart, together = watch(model, *alone), watch(model, padded)
    names = [name for name in apart if not SAMPLED & set(name.split("/"))]
    assert {f"{axis}/" for axis in options} <= {f"{name.split('/')[0]}/" for name in names}
    assert {name: together[name] for name in names} == pytest.approx(
        {name: apart[name] for name in names}, rel=1e-5, abs=1e-5
    )


def test_whatever_stands_in_place_of_tokens(build: Build, tokens: Tokens, any_option: tuple[str, str]) -> None:
    axis, option = any_option
    model = build(**{axis: option}).double().eval()
    ids, missing = tokens(3, 16), torch.arange(16) >= torch.tensor([[9], [16], [5]])
    one, other = (_of_pass(model, ids.masked_fill(missing, there), missing) for there in (2, 7))
    assert one == pytest.approx(other, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("feed_forward", ["dense", "moe"])
def test_of_modalities_in_one_stream_and_by_themselves(
    build_modal: Build, modal_inputs: Callable[..., dict[str, Tensor]], modal_fusion_option: str, feed_forward: str
) -> None:
    model = build_modal(modal_fusion_option, n_layers=3, feed_forward=feed_forward, activation="relu").eval()
    inputs = modal_inputs(3)
    inputs["padding"][0, :4] = inputs["padding"][1, -3:] = True  # no image in one, and few words in another
    text = inputs["text"].masked_fill(inputs["padding"][:, -5:], 3)
    image = inputs["image"].masked_fill(inputs["padding"][:, :4, None], 5.0)
    one, other = _of_pass(model, inputs), _of_pass(model, {**inputs, "text": text, "image": image})
    assert one == pytest.approx(other, rel=1e-5, abs=1e-7)


def test_order_is_asked_about_the_tokens_of_a_sequence(build: Build, tokens: Tokens, watch: Watch) -> None:
    model = build(position="learned", padding=PADDING).double().eval()
    ids = tokens(2, 9) % PADDING
    padded = torch.nn.functional.pad(ids, (0, 12), value=PADDING)
    expected = watch(model, ids)["position/order_sensitivity"]
    assert watch(model, padded)["position/order_sensitivity"] == pytest.approx(expected, rel=1e-9)
    padded[0, 2:] = PADDING  # too short to be turned round, as all of a batch may be
    assert watch(model, padded[:1], padded[1:])["position/order_sensitivity"] != pytest.approx(expected, rel=1e-9)
    assert "position/order_sensitivity" not in watch(model, padded[:1])


def test_the_stream_behind_a_block(build: Build, tokens: Tokens) -> None:
    model, ids = build().double().eval(), tokens(2, 16)
    missing = torch.arange(16) >= torch.tensor([[9], [16]])
    watcher, behind = SizeWatcher(0, model.blocks[0], device=torch.device("cpu")), list[Tensor]()
    watcher.presence = Presence(model)
    handles = [*watcher.attach(), *watcher.presence.attach()]
    handles.append(model.blocks[0].register_forward_hook(lambda module, args, out: behind.append(out[~missing])))
    model(ids, missing)
    assert watcher.metrics()["size"] == pytest.approx(behind[0].square().mean().sqrt().item(), rel=1e-5)
    for handle in handles:
        handle.remove()


def test_no_hook_is_left(build: Build, tokens: Tokens) -> None:
    model = build()
    _of_pass(model, tokens(1, 5))
    assert not model._context_hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.blocks)
