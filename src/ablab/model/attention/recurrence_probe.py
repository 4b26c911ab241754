"""Linear attention at work: how fast its heads forget, how strongly they write, and how far back they hear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.attention.pictures import columns_of, picture, spread
from ablab.model.attention.recurrence import Recurrence
from ablab.model.mechanism import Watcher
from ablab.model.ranks import sum_over_ranks

QUERIES = 64  # of the first sequence, which are looked at closely
PICTURED_QUERIES = 256


class RecurrenceWatcher(Watcher):
    """Adds up decays and write strengths over the first batch that passes, and looks at one of its sequences closely.

    The claim is that a state of fixed size carries the whole of what came before. `memory_share` and
    `effective_context` refute it where heads have forgotten long before the sequence is over.

    Args:
        heads: of the layer.
        pictured: also keep a picture of the first sequence's influences.
    """

    core: Recurrence

    def __init__(
        self, axis: str, layer: int, core: Recurrence, *, heads: int, device: torch.device, pictured: bool = False
    ) -> None:
        super().__init__(axis, layer, core)
        self.core, self.pictured = core, pictured
        self.of_heads = torch.zeros(3, heads, device=device)  # decays, rates of forgetting, write strengths
        self.sums = torch.zeros(4, device=device)  # tokens, sequences; distance, influence
        self.seen = False
        self.drawn: Tensor | None = None

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if self.seen:
            return
        self.seen = True
        names = ("q", "k", "v", "log_decay", "write", "key_padding_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        q, k, log_decay, write, padding = (given.get(name) for name in names if name != "v")
        there = torch.ones_like(log_decay[:, 0], dtype=torch.bool) if padding is None else ~padding
        for row, each in zip(self.of_heads, (log_decay.exp(), -log_decay, write), strict=True):
            row += (each * there[:, None]).sum((0, 2))
        self.sums[:2] += torch.stack([there.sum(), there.any(1).sum()])
        first = there[0]  # its tokens: what is none leaves no trace in the state
        if first.any():
            self._look(*(each[:1, :, first] for each in (q, k, log_decay, write)))

    def _look(self, q: Tensor, k: Tensor, log_decay: Tensor, write: Tensor) -> None:
        length = q.shape[2]
        positions = spread(length, PICTURED_QUERIES if self.pictured else QUERIES, q.device)
        influence = self.core.influence(q, k, log_decay, write, positions).abs()[0]  # (H, S, T)
        distance = (positions[:, None] - torch.arange(length, device=q.device)).abs()
        self.sums[2:] += torch.stack([(influence * distance).sum(), influence.sum()])
        if self.pictured:
            self.drawn = picture(columns_of(influence)).cpu()

    def metrics(self) -> dict[str, float]:
        """Mean over heads, and their extremes: `decay`, `write`, `memory`; beside them:

        `memory`, the tokens after which a head has kept 1/e, decay alone counting; there is none where nothing decays;
        `memory_share`, the same as a share of the sequence, at most 1;
        `effective_context`, the distance of what is read, weighed by the size of its influence.
        """
        of_heads, sums = (sum_over_ranks(each.clone()) for each in (self.of_heads, self.sums))
        tokens, sequences, distance, influence = sums.tolist()
        found = super().metrics()
        if not tokens:
            return found
        decay, rate, write = of_heads / tokens
        for name, each in (("decay", decay), ("write", write), ("memory", 1 / rate)):
            if each.isfinite().all():
                found |= {f"{name}_mean": each.mean().item(), f"{name}_min": each.min().item()}
                found[f"{name}_max"] = each.max().item()
        found["memory_share"] = (sequences / tokens / rate).clamp(max=1).mean().item()
        if influence:
            found["effective_context"] = distance / influence
        return found

    def picture(self) -> Tensor | None:
        return self.drawn
