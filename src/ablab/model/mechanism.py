"""Does each component do what it claims? Figures taken from a model at work, without disturbing it.

* `attention/keys_visited`: keys that a query gives any weight to, mean over queries
* `attention/mass_captured`: share of full attention's softmax mass that lies on the visited keys, mean over queries
* `activation/zero_share`: share of the activation's outputs that are exactly zero
* `activation/dead_share`: share of hidden units that were zero for every token seen
* `<axis>/<name>`: whatever a component reports of itself through `mechanism()`, such as a threshold

Each is a mean over the layers; where a model has several, each layer's own follows as `<metric>/layer_<index>`.
Components take part by what they offer, not by their names: a core without `visited` has no attention metrics.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablab.model.block import Block
from ablab.model.ranks import sum_over_ranks
from ablab.model.transformer import Transformer

SAMPLED_SEQUENCES = 4
SAMPLED_QUERIES = 64


class MechanismProbe:
    """Watches a model between `attach` and `detach`. Attaching again starts afresh.

    In a distributed run the figures are of all processes together, and `metrics` must be called in each of them.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._watchers: list[_Watcher] = []
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        self.detach()
        self._watchers = list(self._watch())
        self._handles = [w.module.register_forward_hook(w.hook) for w in self._watchers]

    def detach(self) -> None:
        """Stop watching; what was seen stays available to `metrics`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def metrics(self) -> dict[str, float]:
        """The figures for what the model has processed since `attach`; only a component's own before any of it."""
        layers: dict[str, dict[int, float]] = defaultdict(dict)
        for watcher in self._watchers:
            for name, value in watcher.figures().items():
                layers[f"{watcher.axis}/{name}"][watcher.layer] = value
        metrics = {name: fmean(values.values()) for name, values in layers.items()}
        if len(self._model.blocks) > 1:
            for name, values in layers.items():
                metrics |= {f"{name}/layer_{layer}": value for layer, value in values.items()}
        return metrics

    def _watch(self) -> Iterator[_Watcher]:
        for layer, block in enumerate(self._model.blocks):
            assert isinstance(block, Block)
            attention, feed_forward = block.attention, block.feed_forward
            device, units = feed_forward.up.weight.device, feed_forward.up.out_features
            yield _AttentionWatcher("attention", layer, attention.core, device=device, causal=self._model.causal)
            yield _ActivationWatcher("activation", layer, feed_forward.activation, device=device, units=units)


class _Watcher:
    """One component of one layer. The base class knows only what the component says of itself."""

    def __init__(self, axis: str, layer: int, module: nn.Module) -> None:
        self.axis, self.layer, self.module = axis, layer, module

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        raise NotImplementedError

    def figures(self) -> dict[str, float]:
        own: Any = getattr(self.module, "mechanism", None)
        return {} if own is None else own()


class _AttentionWatcher(_Watcher):
    """Looks at a few queries of the first batch only: full attention's weights are what other cores avoid computing."""

    def __init__(self, axis: str, layer: int, module: nn.Module, *, device: torch.device, causal: bool) -> None:
        super().__init__(axis, layer, module)
        self.visited: Any = getattr(module, "visited", None)
        self.causal = causal
        self.seen = False
        self.sums = torch.zeros(3, device=device)  # keys visited, mass captured, queries

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self.seen or self.visited is None:
            return
        self.seen = True
        q, k = (x[:SAMPLED_SEQUENCES].float() for x in args[:2])
        T, D = q.shape[2:]
        # Spread evenly from the first to the last, so that the mean over them is close to the mean over all.
        positions = torch.linspace(0, T - 1, min(T, SAMPLED_QUERIES), device=q.device).round().long()
        scores = q[:, :, positions] @ k.transpose(-1, -2) / math.sqrt(D)
        if self.causal:
            scores = scores.masked_fill(torch.arange(T, device=q.device) > positions[:, None], -math.inf)
        mask = self.visited(q, k, positions).expand(scores.shape)
        mass = (scores.softmax(-1) * mask).sum()
        self.sums += torch.tensor([mask.sum().item(), mass.item(), mask[..., 0].numel()], device=self.sums.device)

    def figures(self) -> dict[str, float]:
        figures = super().figures()
        if self.visited is not None:
            keys, mass, queries = sum_over_ranks(self.sums.clone()).tolist()
            if queries:
                figures |= {"keys_visited": keys / queries, "mass_captured": mass / queries}
        return figures


class _ActivationWatcher(_Watcher):
    """Counts zeros over everything that passes."""

    def __init__(self, axis: str, layer: int, module: nn.Module, *, device: torch.device, units: int) -> None:
        super().__init__(axis, layer, module)
        self.counts = torch.zeros(units + 1, dtype=torch.int64, device=device)  # zeros of each unit, then tokens

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.counts[:-1] += (output == 0).flatten(0, -2).sum(0)
        self.counts[-1] += output.shape[:-1].numel()

    def figures(self) -> dict[str, float]:
        figures = super().figures()
        # Summed even by a process that saw nothing: the others wait for it.
        *zeros, tokens = sum_over_ranks(self.counts.clone()).tolist()
        if tokens:
            figures["zero_share"] = sum(zeros) / (tokens * len(zeros))
            figures["dead_share"] = sum(unit == tokens for unit in zeros) / len(zeros)
        return figures
