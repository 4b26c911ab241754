"""Which layers of a model, and with them which parameters, belong to which stage of a pipeline."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.draws import branch
from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.transformer import Transformer


class Stage(nn.Module):
    """Some consecutive layers of a model, as one process calls them.

    The first stage also embeds, and the last one also fuses the layers and gives logits. Between stages goes the
    stream, or what the residual has in its place; where the layer fusion asks for them, those of all layers so far. The
    mask each stage makes for itself, of the same inputs.
    """

    def __init__(self, model: Transformer, layers: range) -> None:
        super().__init__()
        self._whole = (model,)  # not as a child: it is called by its parts
        self.layers = layers
        self.microbatch = 0  # the next one

    @property
    def model(self) -> Transformer:
        return self._whole[0]

    def forward(self, *given: Tensor, inputs: Tensor) -> Any:
        """What goes to the next stage, or logits.

        Args:
            given: `inputs` again (first stage), or what the stage before gave.
        """
        with branch(self.model, self.microbatch):
            self.microbatch += 1
            return self._go_on(given, inputs)

    def _go_on(self, given: tuple[Tensor, ...], inputs: Tensor) -> Any:
        model, first, last = self.model, self.layers.start == 0, self.layers.stop == len(self.model.blocks)
        if first:
            x, mask = model.enter(inputs)
            streams = [model.ends.begin(x)]
        else:
            mask = model.mask_of(inputs)
            streams = list(given)
        streams = model.through(self.layers, streams, model.context(inputs, mask))
        if last:
            return model.leave(streams, mask).float()  # a schedule must know the type, and autocast may choose another
        return tuple(streams) if self._sends_all else streams[-1]

    def streams(self, microbatch: Tensor, layer: int) -> tuple[Tensor, ...]:
        """Tensors on the device "meta" like those that go into `layer`, for a microbatch (B, T) of a batch."""
        like = self.model.head.weight
        one = torch.empty(*microbatch.shape[:2], like.shape[1], dtype=like.dtype, device="meta")
        sent = range(layer + 1) if self._sends_all else [layer]
        return tuple(self.model.ends.like(one, each).requires_grad_() for each in sent)

    def logits(self, microbatch: Tensor) -> Tensor:
        """A tensor on the device "meta" like the logits of a microbatch (B, T) of a batch."""
        length = microbatch.shape[1] if self.model.readout is None else 1
        shape = len(microbatch), length, self.model.head.out_features
        return torch.empty(shape, dtype=torch.float32, device="meta", requires_grad=True)

    @property
    def _sends_all(self) -> bool:
        return self.model.layer_fusion.weighs


def shared(model: Transformer, stages: int) -> list[tuple[Tensor, list[int]]]:
    """Parameters that several stages use, and these: a weight that is embedding and head, and what feeds layers."""
    found: list[tuple[Tensor, list[int]]] = []
    if isinstance(model.embedding, nn.Embedding) and model.head.weight is model.embedding.weight:
        found.append((model.head.weight, [0, stages - 1]))
    if type(model.layer_fusion).feed is not LayerFusion.feed:
        found += [(parameter, list(range(stages))) for parameter in model.layer_fusion.parameters()]
    return found


def share_layers_out(layers: int, stages: int) -> list[range]:
    """Consecutive layers for each stage, as equal in number as can be; the first ones take what is left over."""
    sizes = [layers // stages + (stage < layers % stages) for stage in range(stages)]
    ends = list(accumulate(sizes))
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def owners(model: Transformer, stages: int) -> dict[str, int]:
    """The stage of every parameter and buffer, by name; of those that several use, the first or the last of them."""
    of_layer = {layer: stage for stage, own in enumerate(share_layers_out(len(model.blocks), stages)) for layer in own}

    def stage(name: str) -> int:
        part, _, rest = name.partition(".")
        if part == "blocks":
            return of_layer[int(rest.split(".")[0])]
        return 0 if part in ("embedding", "position") else stages - 1

    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return {name: stage(name) for name in names}


def merged(states: list[Any]) -> Any:
    """One state of an optimizer, of states that each hold what their process has stepped."""
    first = states[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for state in states for key in state)
        return {key: merged([state[key] for state in states if key in state]) for key in keys}
    if isinstance(first, list) and any(isinstance(item, dict) for item in first):
        return [merged(list(items)) for items in zip(*states, strict=True)]
    return first.cpu() if isinstance(first, Tensor) else first
