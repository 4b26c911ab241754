"""Switches of the attention at work: gates of the output, and the norms of queries and keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ablab.model.attention.layer import AttentionLayer, MultiHeadAttention
from ablab.model.mechanism import Watcher, answer, drawn, projected
from ablab.model.ranks import sum_over_ranks

ROWS = 16  # tokens that switches are asked about


class GateWatcher(Watcher):
    """Measures how far a gate lets the output through, and whether it tells tokens and heads apart at all."""

    def __init__(self, axis: str, layer: int, module: nn.Module, device: torch.device) -> None:
        super().__init__(axis, layer, module)
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # gates, their squares, how many

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        gates, count = self.kept(output.float().sigmoid())
        self.sums += torch.stack([gates.sum(), gates.square().sum(), count.to(gates.dtype)]).double()

    def metrics(self) -> dict[str, float]:
        """`gate_mean` and `gate_spread`, the standard deviation over tokens, heads and features."""
        total, squares, count = sum_over_ranks(self.sums.clone()).tolist()
        if not count:
            return {}
        mean = total / count
        return {"gate_mean": mean, "gate_spread": max(0.0, squares / count - mean * mean) ** 0.5}


class HeadNormWatcher(Watcher):
    """Measures how long queries or keys are before and after their norm."""

    def __init__(self, axis: str, layer: int, module: nn.Module, device: torch.device, name: str) -> None:
        super().__init__(axis, layer, module)
        self.name = name
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # lengths before and after, how many

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        lengths = (_own_part(x).float().norm(dim=-1) for x in (args[0], output))
        (before, count), (after, _) = (self.kept(x, dim=2) for x in lengths)
        self.sums += torch.stack([before.sum(), after.sum(), count.to(before.dtype)]).double()

    def metrics(self) -> dict[str, float]:
        """`query_norm_before` and `query_norm_after`, or `key_...`: mean Euclidean norms over heads and tokens."""
        before, after, count = sum_over_ranks(self.sums.clone()).tolist()
        return {f"{self.name}_before": before / count, f"{self.name}_after": after / count} if count else {}


def _own_part(x: Tensor) -> Tensor:
    """What this process has of heads that are shared out."""
    return x.to_local() if isinstance(x, DTensor) else x


def watch_switches(layer: int, attention: AttentionLayer, device: torch.device) -> Iterator[Watcher]:
    """What is switched on of an attention layer."""
    for name in ("query_norm", "key_norm"):
        norm = getattr(attention, name, None)
        if norm is not None:
            yield HeadNormWatcher("attention", layer, norm, device, name)
    gate = getattr(attention, "output_gate", None)
    if gate is not None:
        yield GateWatcher("attention", layer, gate, device)


def switch_outputs(attention: MultiHeadAttention, like: Tensor) -> list[float]:
    """Projections of what the layer's switches make of fixed inputs; nothing where all are off."""
    found = []
    for name in ("query_norm", "key_norm"):
        norm = getattr(attention, name)
        if norm is not None:
            found += projected(answer(norm, 3 * drawn("heads", (1, ROWS, attention.head_size), like)))
    gate = attention.output_gate
    if gate is not None:
        gates = answer(gate, drawn("tokens", (1, ROWS, gate.in_features), like)).sigmoid()
        found += [*projected(gates), float(gates.shape[-1])]
    return found
