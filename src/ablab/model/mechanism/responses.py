"""What each component makes of inputs that are the same for every model: does a swap change the function at all?

Trained weights differ between any two runs on a device that does not repeat its sums; a component's own function does
not. So components are asked beside the model's weights, on inputs drawn from fixed seeds, in evaluation mode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.attention.layer import MultiHeadAttention
from ablab.model.block import Block
from ablab.model.initialisation import keyed_generator
from ablab.model.transformer import Transformer

QUERIES = 8  # of the longest sequence, the last one among them
ROWS = 64  # inputs of an activation
NUMBERS = 4  # by which an output is told from others


@torch.no_grad()
def responses(model: Transformer) -> dict[str, list[float]]:
    """A few numbers for each component, "<axis>/layer_<i>" or "<axis>", equal for components of equal function.

    Attention: projections of the weights that a few queries give to all keys, and what acts in training alone.
    Activation, position, layer fusion: projections of what comes out. Modal fusion: who may see whom. Attention that
    projects its inputs in a way of its own (latent attention, say) has none.
    """
    training = model.training
    model.eval()
    try:
        found = {
            "position": _position(model),
            "layer_fusion": _layer_fusion(model),
            "modal_fusion": _modal_fusion(model),
        }
        for place, (layer, block) in enumerate(model.layers()):
            name = f"layer_{layer}" if place == layer else f"layer_{layer}/block_{place}"
            if isinstance(block.attention, MultiHeadAttention):
                found[f"attention/{name}"] = _attention(model, block.attention)
            found[f"activation/{name}"] = _activation(block)
    finally:
        model.train(training)
    return {name: numbers for name, numbers in found.items() if numbers}


def _attention(model: Transformer, layer: MultiHeadAttention) -> list[float]:
    core, heads, like = layer.core, model.n_heads, model.head.weight
    shape = 1, heads, model.max_length, like.shape[1] // heads
    q, k = _drawn("queries", shape, like), _drawn("keys", shape, like)
    positions = torch.linspace(0, model.max_length - 1, QUERIES, device=like.device).round().long().unique()
    weights = core.weights(q, k, positions)
    weights = weights.expand(1, heads, len(positions), model.max_length)
    in_training = [core.dropout, core.dropout * (core.dropout_on == "weights")]  # what evaluation does not show
    penalty = getattr(core, "penalty", None)
    if penalty is not None:
        in_training.append(float(penalty()))
    return [*_projected(weights), *in_training]


def _activation(block: Block) -> list[float]:
    up = block.feed_forward.up
    return _projected(block.feed_forward.activation(_drawn("units", (1, ROWS, up.out_features), up.weight)))


def _position(model: Transformer) -> list[float]:
    like, heads = model.head.weight, model.n_heads
    length, width = model.max_length, like.shape[1]
    added = model.position.add(torch.zeros(1, length, width, device=like.device, dtype=like.dtype))
    q = _drawn("queries", (1, heads, length, width // heads), like)
    rotated = model.position.rotate(q, q)
    slopes = [] if model.position.slopes is None else model.position.slopes.tolist()
    return [*_projected(added), *_projected(rotated[0]), *_projected(rotated[1]), *slopes]


def _layer_fusion(model: Transformer) -> list[float]:
    like = model.head.weight
    shape = 1, min(ROWS, model.max_length), like.shape[1]
    streams = [_drawn(f"stream {i}", shape, like) for i in range(len(model.blocks) + 1)]
    depths = range(1, len(streams))
    fed = [number for depth in depths for number in _projected(model.layer_fusion.feed(streams[:depth]))]
    return [*fed, *_projected(model.layer_fusion(streams))]


def _modal_fusion(model: Transformer) -> list[float]:
    """Who may see whom in each layer, and whether through weights of their own; nothing of one modality."""
    fusion = model.modal_fusion
    if len(fusion.layout.names) < 2:
        return []
    layers = range(len(model.blocks))
    return [
        number
        for layer in layers
        for number in (*(seen for row in fusion.reach(layer) for seen in row), float(fusion.has_own_blocks(layer)))
    ]


def _drawn(name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randn(shape, generator=keyed_generator("responses", name)).to(like.device, like.dtype)


def _projected(x: Tensor) -> list[float]:
    """A few random projections, each over the square root of the size, so that their size is that of the numbers."""
    x = x.detach().float().cpu().flatten()
    directions = torch.randn(NUMBERS, x.numel(), generator=keyed_generator("projections", x.numel()))
    numbers: list[float] = (directions @ x / x.numel() ** 0.5).tolist()
    return numbers
