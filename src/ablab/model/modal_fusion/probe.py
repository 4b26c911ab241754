"""The axis `modal_fusion` at work: how much of their attention the modalities give to one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablab.model.attention.base import AttentionCore
from ablab.model.mechanism import Watcher
from ablab.model.modal_fusion.base import View
from ablab.model.modal_fusion.bottleneck import BOTTLENECK
from ablab.model.multimodal import MultimodalTransformer
from ablab.model.ranks import sum_over_ranks

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

SAMPLED_SEQUENCES = 16  # of the first batch
SAMPLED_QUERIES = 32  # of each modality


class ModalFusionWatcher(Watcher):
    """Adds up attention weights by the modality of the query and that of the key, over the first batch that passes.

    Padded keys get no weight, and the others share it as they would by themselves. That is exact where an option's
    choice of keys does not depend on which of them are padded, and near it elsewhere.
    """

    def __init__(self, model: MultimodalTransformer) -> None:
        super().__init__("modal_fusion", None, model.modal_fusion)
        self._model = model
        self._passes = 0
        self._padding = torch.zeros(0)
        layout = model.layout
        self.names = [*layout.names, *([BOTTLENECK] if model.modal_fusion.extra else [])]
        shape = len(model.blocks), len(self.names), len(self.names)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=model.head.weight.device)

    def attach(self) -> list[RemovableHandle]:
        handles = [self._model.embedding.register_forward_hook(self.guarded(self._begin))]
        for layer, block in self._model.layers():
            hook = self.guarded(partial(self._look, layer))
            handles.append(block.attention.core.register_forward_hook(hook, with_kwargs=True))
        return handles

    def _begin(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._passes += 1
        self._padding = args[0]["padding"]

    @torch.no_grad()
    def _look(self, layer: int, core: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        view = self._model.modal_fusion.view
        if self._passes > 1 or view is None or not isinstance(core, AttentionCore):
            return
        given = {**dict(zip(("q", "k", "v", "key_padding_mask"), args, strict=False)), **kwargs}
        if given.get("key_padding_mask") is None:  # not the model's own pass: somebody asks this one core
            return
        q, k, hidden = (given[name][:SAMPLED_SEQUENCES] for name in ("q", "k", "key_padding_mask"))
        with torch.autocast(q.device.type, enabled=False):  # the measure's own rounding is not to be measured
            q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k))
            for asking in view.asking:
                row = self.names.index(asking)
                for one in range(len(q)):  # one after the other: the dense weights of all would be a peak of memory
                    positions = self._positions(asking, view, one)
                    if len(positions):
                        weights = _weights(core, q[one : one + 1], k[one : one + 1], positions, hidden[one])
                        for name, keys in view.places.items():
                            self._sums[layer, row, self.names.index(name)] += weights[..., keys].sum()

    def _positions(self, asking: str, view: View, one: int) -> Tensor:
        """Places of some tokens of that modality in the sequence that the block was given."""
        place, own = view.places[asking], self._model.layout.places.get(asking)
        positions = torch.arange(place.start, place.stop, device=self._sums.device)
        if own is not None:
            positions = positions[~self._padding[one, own]]
        return positions[:: max(1, len(positions) // SAMPLED_QUERIES)]

    def metrics(self) -> dict[str, float]:
        """`<query>_from_<key>`: share of its attention that a modality gives to another, and of each layer.

        Mean over the queries, heads and layers that give any. Every process of a distributed run must call it.
        """
        sums = sum_over_ranks(self._sums.clone())
        totals = sums.sum(-1, keepdim=True)
        shares = (sums / totals).tolist()  # NaN where nobody asked
        found: dict[str, float] = {}
        for row, asking in enumerate(self.names):
            for column, asked in enumerate(self.names):
                layers = {layer: each[row][column] for layer, each in enumerate(shares)}
                layers = {layer: value for layer, value in layers.items() if value == value}
                name = f"{asking}_from_{asked}"
                if layers:
                    found[name] = sum(layers.values()) / len(layers)
                    found |= {f"{name}/layer_{layer}": value for layer, value in layers.items()}
        return found


def _weights(core: AttentionCore, q: Tensor, k: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
    weights = core.weights(q, k, positions).double().masked_fill(hidden, 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The modal fusion, where there are several modalities."""
    if isinstance(model, MultimodalTransformer) and len(model.layout.names) > 1:
        yield ModalFusionWatcher(model)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Numbers that say who may see whom in each layer, and whether through own weights; none of one modality."""
    if not isinstance(model, MultimodalTransformer) or len(model.layout.names) < 2:
        return {}
    fusion = model.modal_fusion
    layers = range(len(model.blocks))
    return {
        "": [
            number
            for layer in layers
            for number in (*(seen for row in fusion.reach(layer) for seen in row), float(fusion.has_own_blocks(layer)))
        ]
    }
