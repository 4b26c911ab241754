"""Every modal fusion: who can learn of whom, in which layer, and with which weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.errors import UserError
from ablab.model.context import LayerContext
from ablab.model.initialisation import keyed_generator
from ablab.model.modal_fusion.base import Layout, block_of
from ablab.model.spec import ClashError, LayerSpec
from ablab.model.transformer import Transformer
from ablab.study.planning.preflight import Preflight

Build = Callable[..., Transformer]
Inputs = Callable[..., dict[str, Tensor]]
NAMES = ["image", "audio", "text"]
LAYERS = 4


def randomised(model: Transformer) -> Transformer:
    """With weights so large that whatever can be seen makes a difference."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=keyed_generator("test", name))
    return model.double().eval()


def places_of(model: Transformer) -> dict[str, slice]:
    """Where each modality stands."""
    layout: Any = model.layout
    places: dict[str, slice] = layout.places
    return places


def streams(model: Transformer, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What comes out of each layer."""
    seen: list[Tensor] = []
    feed = model.layer_fusion.forward

    def keep(streams: Any, mask: Any = None) -> Tensor:
        seen.extend(streams[1:])
        return feed(streams, mask)

    model.layer_fusion.forward = keep  # type: ignore[method-assign, assignment]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        model.layer_fusion.forward = feed  # type: ignore[method-assign]
    return seen


def moved(inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Other content for one modality."""
    content = inputs[name]
    other = (content + 1) % 9 if name == "text" else content + 1.0
    return inputs | {name: other}


def test_a_layer_tells_a_modality_of_whom_it_says_and_of_nobody_else(
    modal_fusion_option: str, build_modal: Build, modal_inputs: Inputs
) -> None:
    """Composing `reach` over the layers (and the shared tokens) says whose input moves whose stream, exactly."""
    model = randomised(build_modal(modal_fusion=modal_fusion_option, n_layers=LAYERS))
    fusion: Any = model.modal_fusion
    inputs = modal_inputs()
    before = streams(model, inputs)
    places = fusion.layout.places
    knows = torch.eye(3, dtype=torch.bool)  # [of whom, who]
    shared = torch.zeros(3, dtype=torch.bool)  # of whom the shared tokens know
    for layer in range(LAYERS):
        reach = torch.tensor(fusion.reach(layer)[:3], dtype=torch.bool)
        exchanging = len(fusion.reach(layer)) > 3 and any(fusion.reach(layer)[3])
        past, known = knows.clone(), shared.clone()
        for who in range(3):
            for whom in range(3):
                if reach[who, whom]:
                    knows[:, who] |= past[:, whom]
        if exchanging:
            knows |= known[:, None]
            shared = known | past.any(1)
        for whom, name in enumerate(NAMES):
            after = streams(model, moved(inputs, name))[layer]
            for who, place in enumerate(places.values()):
                changed = not torch.equal(after[:, place], before[layer][:, place])
                assert changed == bool(knows[whom, who]), (layer, NAMES[who], name)


def test_every_modality_reaches_the_answer(modal_fusion_option: str, build_modal: Build, modal_inputs: Inputs) -> None:
    model = randomised(build_modal(modal_fusion=modal_fusion_option, n_layers=2))
    inputs = modal_inputs()
    with torch.no_grad():
        answer = model(inputs)
        assert answer.shape == (2, 1, 7)
        for name in NAMES:
            assert not torch.allclose(model(moved(inputs, name)), answer)


def test_what_is_missing_says_nothing(modal_fusion_option: str, build_modal: Build, modal_inputs: Inputs) -> None:
    """Masked, not filled with zeros: whatever stands in its place, the answer is the same, and not that of zeros."""
    model = randomised(build_modal(modal_fusion=modal_fusion_option, n_layers=2))
    inputs = modal_inputs()
    for name, place in places_of(model).items():
        padding = inputs["padding"].clone()
        padding[:, place] = True
        without = inputs | {"padding": padding}
        with torch.no_grad():
            answer = model(without)
            assert answer.isfinite().all()
            assert torch.equal(model(moved(without, name)), answer)
            zeros = inputs | {name: torch.zeros_like(inputs[name])}
            assert not torch.allclose(model(zeros), answer)
    words = moved(inputs, "text")["text"]
    words[:, :-1] = inputs["text"][:, :-1]
    with torch.no_grad():  # the last word is padding
        assert torch.equal(model(inputs | {"text": words}), model(inputs))


def test_nothing_at_all_is_refused(build_modal: Build, modal_inputs: Inputs) -> None:
    inputs = modal_inputs()
    inputs["padding"][1] = True
    with pytest.raises(ValueError, match="without any modality"):
        build_modal()(inputs)


def test_samples_do_not_see_each_other(modal_fusion_option: str, build_modal: Build, modal_inputs: Inputs) -> None:
    model = randomised(build_modal(modal_fusion=modal_fusion_option, n_layers=2))
    inputs = modal_inputs(3)
    with torch.no_grad():
        together = model(inputs)
        alone = [model({name: content[row : row + 1] for name, content in inputs.items()}) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("option", ["late", "hybrid", "bottleneck"])
def test_towers_with_weights_of_their_own_and_with_shared_ones(
    option: str, build_modal: Build, load_option: Callable[..., Any], modal_inputs: Inputs
) -> None:
    early = dict(build_modal(n_layers=2).named_parameters())
    shared = build_modal(modal_fusion=load_option("modal_fusion", option, weights="shared"), n_layers=2)
    own = build_modal(modal_fusion=option, n_layers=2)
    extra = {name for name, _ in shared.named_parameters()} - early.keys()
    assert extra == ({"modal_fusion.shared.weight"} if option == "bottleneck" else set())
    assert all(torch.equal(parameter, early[name]) for name, parameter in shared.named_parameters() if name in early)
    per_block = sum(p.numel() for name, p in early.items() if name.startswith("blocks.0."))
    fusion: Any = own.modal_fusion
    separate = sum(fusion.has_own_blocks(layer) for layer in range(2))
    counts = [sum(p.numel() for p in model.parameters()) for model in (own, shared)]
    assert counts[0] - counts[1] == 2 * separate * per_block


def test_cross_has_the_parameters_of_early(build_modal: Build) -> None:
    cross, early = (dict(build_modal(modal_fusion=name).named_parameters()) for name in ("cross", "early"))
    assert cross.keys() == early.keys()
    assert all(torch.equal(cross[name], early[name]) for name in early)


def test_a_late_tower_is_the_layers_alone_on_their_modality(build_modal: Build, modal_inputs: Inputs) -> None:
    model = randomised(build_modal(modal_fusion="late", n_layers=2))
    inputs = modal_inputs()
    end = streams(model, inputs)[-1]
    with torch.no_grad():
        embedded = model.position.add(model.embedding(inputs))
        for name, place in places_of(model).items():
            x, mask = embedded[:, place], inputs["padding"][:, place]
            for layer in model.blocks:
                x = block_of(layer, name)(x, LayerContext(rotate=model.position.rotate, key_padding_mask=mask))
            torch.testing.assert_close(x, end[:, place])


def test_cross_attention_against_a_dense_definition(build_modal: Build, modal_inputs: Inputs) -> None:
    """Queries of each modality, keys and values of the others, one set of projections, softmax by hand."""
    model = randomised(build_modal(modal_fusion="cross", n_layers=2))
    inputs = modal_inputs()
    below, above = streams(model, inputs)
    block, heads = block_of(model.blocks[1], "text"), 2
    attention: Any = block.attention
    with torch.no_grad():
        normed = block.attention_norm(below)
        q, k, v = (
            project(normed).unflatten(-1, (heads, -1)) for project in (attention.query, attention.key, attention.value)
        )
        mixed = torch.zeros_like(normed)
        places = places_of(model)
        for name, place in places.items():
            others = [t for other, its in places.items() if other != name for t in range(its.start, its.stop)]
            for row in range(2):
                keys = [t for t in others if not inputs["padding"][row, t]]
                for query in range(place.start, place.stop):
                    for head in range(heads):
                        weights = (k[row, keys, head] @ q[row, query, head] / 8**0.5).softmax(0)
                        mixed[row, query, head * 8 : head * 8 + 8] = weights @ v[row, keys, head]
        x = below + attention.output(mixed)
        expected = x + block.feed_forward(block.feed_forward_norm(x))
    torch.testing.assert_close(above, expected)


def test_shared_tokens_become_the_mean_over_the_modalities_that_are_there(
    build_modal: Build, load_option: Callable[..., Any], modal_inputs: Inputs
) -> None:
    option = load_option("modal_fusion", "bottleneck", tokens=2, exchange_from=0)
    model = randomised(build_modal(modal_fusion=option, n_layers=2))
    inputs = modal_inputs()
    places = places_of(model)
    inputs["padding"][1, places["audio"]] = True
    first = streams(model, inputs)[0]
    with torch.no_grad():
        embedded = model.position.add(model.embedding(inputs))
        shared = model.modal_fusion.shared.weight.expand(2, -1, -1)  # type: ignore[union-attr, operator]
        updates = {}
        for name, place in places.items():
            x = torch.cat([embedded[:, place], shared], 1)
            mask = torch.cat([inputs["padding"][:, place], torch.zeros(2, 2, dtype=torch.bool)], 1)
            context = LayerContext(rotate=model.position.rotate, key_padding_mask=mask)
            updates[name] = block_of(model.blocks[0], name)(x, context)[:, -2:]
    torch.testing.assert_close(first[0, -2:], sum(each[0] for each in updates.values()) / 3)
    torch.testing.assert_close(first[1, -2:], (updates["image"][1] + updates["text"][1]) / 2)


@pytest.mark.parametrize("option", ["late", "hybrid", "bottleneck", "cross"])
def test_one_modality_leaves_nothing_to_fuse(
    option: str, make_spec: Callable[..., LayerSpec], load_option: Callable[..., Any], tiny_config: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match="use modal_fusion=early"):
        load_option("modal_fusion", option)(make_spec(), layout=Layout({"image": 4}))
    with pytest.raises(UserError, match=r"modal_fusion: the task has one modality.* use modal_fusion=early"):
        Preflight().check(tiny_config("task=text", f"modal_fusion={option}"))


@pytest.mark.parametrize(
    ("option", "settings", "layers", "words"),
    [
        ("hybrid", {"joint_from": 2}, 2, r"joint_from=2 must lie in 1\.\.1"),
        ("hybrid", {}, 1, "at least 2"),
        ("late", {"weights": "mine"}, 2, "must be own or shared"),
        ("bottleneck", {"tokens": 0}, 2, "tokens must be at least 1"),
        ("bottleneck", {"exchange_from": 1}, 2, r"exchange_from=1 must lie in 0\.\.0"),
        ("bottleneck", {}, 1, "at least 2"),
        ("cross", {}, 1, "at least 2"),
    ],
)
def test_what_cannot_be_is_refused(
    option: str, settings: dict[str, Any], layers: int, words: str, build_modal: Build, load_option: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=words):
        build_modal(modal_fusion=load_option("modal_fusion", option, **settings), n_layers=layers)


def test_every_attention_trains_in_every_fusion(
    attention_option: str, modal_fusion_option: str, build_modal: Build, modal_inputs: Inputs
) -> None:
    try:
        model = build_modal(attention=attention_option, modal_fusion=modal_fusion_option, n_layers=2)
    except ClashError:
        assert modal_fusion_option == "cross"
        assert attention_option in {"gated_delta", "mamba2"}  # which have no keys for others to look at
        return
    answer = model(modal_inputs())
    (answer.square().sum() + model.penalty()).backward()
    assert answer.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_every_position_and_layer_fusion_goes_with_every_fusion(
    position_option: str, layer_fusion_option: str, modal_fusion_option: str, build_modal: Build, modal_inputs: Inputs
) -> None:
    model = build_modal(
        position=position_option, layer_fusion=layer_fusion_option, modal_fusion=modal_fusion_option, n_layers=2
    )
    assert model(modal_inputs()).isfinite().all()
