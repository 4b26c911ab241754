"""All the watchers of a model, and their figures by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ablab.model.mechanism.activation import ActivationWatcher
from ablab.model.mechanism.attention import AttentionWatcher
from ablab.model.mechanism.layer_fusion import LayerFusionWatcher
from ablab.model.mechanism.modal_fusion import ModalFusionWatcher
from ablab.model.mechanism.position import PositionWatcher
from ablab.model.mechanism.watcher import Watcher, joined_values
from ablab.model.transformer import Transformer


class MechanismProbe:
    """Watches a model between `attach` and `detach`. Attaching again starts afresh.

    In a distributed run the figures are of all processes together, and `metrics` must be called in each of them.

    Args:
        pictured: also draw attention weights, for `pictures`.
    """

    def __init__(self, model: Transformer, *, pictured: bool = False) -> None:
        self._model = model
        self._pictured = pictured
        self._watchers: list[Watcher] = []
        self._fusion: LayerFusionWatcher | None = None
        self._position: PositionWatcher | None = None
        self._modal: ModalFusionWatcher | None = None
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        self.detach()
        self._watchers = list(self._watch())
        self._handles = [w.module.register_forward_hook(w.hook, with_kwargs=True) for w in self._watchers]
        self._position = PositionWatcher(self._model)
        self._handles.append(self._model.embedding.register_forward_hook(self._position.hook, with_kwargs=True))
        fusion = self._model.layer_fusion
        if fusion.weighs:
            self._fusion = LayerFusionWatcher(fusion)
            self._handles.append(fusion.register_forward_hook(self._fusion.hook, with_kwargs=True))
        if len(self._model.modal_fusion.layout.names) > 1:
            self._modal = ModalFusionWatcher(self._model)
            self._handles += self._modal.attach()

    def detach(self) -> None:
        """Stop watching; what was seen stays available to `metrics` and `pictures`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def metrics(self) -> dict[str, float]:
        """The figures for what the model has processed since `attach`; only a component's own before any of it."""
        found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for watcher in self._watchers:
            for name, value in watcher.figures().items():
                found[f"{watcher.axis}/{name}"][watcher.layer].append(value)
        layers = {
            name: {layer: joined_values(name, each) for layer, each in own.items()} for name, own in found.items()
        }
        several = len(self._model.blocks) > 1
        metrics = {
            name: joined_values(name, list(values.values()))
            for name, values in layers.items()
            if not (several and _part(name))
        }
        if several:
            for name, values in layers.items():
                metrics |= {_of_layer(name, layer): value for layer, value in values.items()}
        if self._position is not None:
            metrics |= {f"position/{name}": value for name, value in self._position.figures().items()}
        if self._fusion is not None:
            metrics |= {f"layer_fusion/{name}": value for name, value in self._fusion.figures().items()}
        if self._modal is not None:
            metrics |= {f"modal_fusion/{name}": value for name, value in self._modal.figures().items()}
        return metrics

    def pictures(self) -> dict[str, Tensor]:
        """Attention as pictures (`ablab.model.mechanism.picture`) by layer, "attention/layer_0", uint8 (height, width).

        Of the first sequence without padding that this process has seen: all its queries, or 256 spread evenly over
        it. Layers whose core does not tell its weights have none.
        """
        drawn = [(f"{watcher.axis}/layer_{watcher.layer}", watcher.picture()) for watcher in self._watchers]
        return {name: picture for name, picture in drawn if picture is not None}

    def _watch(self) -> Iterator[Watcher]:
        for layer, block in self._model.layers():
            attention, feed_forward = block.attention, block.feed_forward
            device, units = feed_forward.down.weight.device, feed_forward.down.in_features
            yield Watcher("attention", layer, attention)
            yield AttentionWatcher(
                "attention", layer, attention.core, device=device, causal=self._model.causal, pictured=self._pictured
            )
            yield ActivationWatcher("activation", layer, feed_forward.activation, device=device, units=units)


def _part(name: str) -> str:
    """What "attention/span/head_0" is a part of: "head_0"; "" for "attention/span_mean"."""
    return name.split("/", 2)[2] if name.count("/") > 1 else ""


def _of_layer(name: str, layer: int) -> str:
    axis, figure, *part = name.split("/", 2)
    return "/".join([axis, figure, f"layer_{layer}", *part])
