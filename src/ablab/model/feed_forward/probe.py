"""The axis `feed_forward` at work: how large its outputs are, and which experts the tokens went to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablab.model.feed_forward.experts import MixtureOfExperts
from ablab.model.feed_forward.routing import Routing, loads
from ablab.model.mechanism import Watcher, answer, drawn, place_of, projected
from ablab.model.ranks import sum_over_ranks

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

ROWS = 64  # tokens that a feed-forward part is asked about


class FeedForwardWatcher(Watcher):
    """Measures what a feed-forward part gives."""

    def __init__(self, axis: str, layer: int, module: nn.Module, *, device: torch.device) -> None:
        super().__init__(axis, layer, module)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # squares, numbers

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        own, numbers = self.kept(output)
        self.sums += torch.stack([own.float().square().sum().double(), numbers])

    def metrics(self) -> dict[str, float]:
        """`output_rms`: how large the numbers are that are added to the stream."""
        squares, count = sum_over_ranks(self.sums.clone()).tolist()
        return super().metrics() | ({"output_rms": (squares / count) ** 0.5} if count else {})


class ExpertsWatcher(Watcher):
    """Counts the tokens that each expert gets, and how sharp and how even the choice is."""

    def __init__(self, axis: str, layer: int, part: MixtureOfExperts) -> None:
        super().__init__(axis, layer, part)
        self._part = part
        # The tokens of each expert, then all tokens, the entropies of their shares, what routed and shared experts
        # count, and groups.
        size = part.n_experts + 5
        self.sums = torch.zeros(size, dtype=torch.float64, device=part.router.weight.device)

    def attach(self) -> list[RemovableHandle]:
        return [self._part.router.register_forward_hook(self.hook, with_kwargs=True)]

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Routing) -> None:
        chosen, gates, scores = output
        mask = args[1] if len(args) > 1 else None
        there = torch.ones_like(scores[..., 0]) if mask is None else (~mask).float()
        share = scores / scores.sum(-1, keepdim=True)
        entropy = torch.special.entr(share).sum(-1)
        visited = self._part.router.groups.visited(chosen, scores.shape[-1])
        of_tokens = (there, entropy, gates.sum(-1), self._part.shared_weight(args[0]), visited)
        totals = torch.stack([(each * there).sum() for each in of_tokens])
        counted = loads(chosen, scores.shape[-1], mask).sum(0)
        self.sums += torch.cat([counted, totals]).double()

    def metrics(self) -> dict[str, float]:
        """Of the loads and of the choice, over all that was seen.

        * `load_violation`: the load of the fullest expert over the mean load, less 1; 0 is even
        * `load_entropy`, `router_entropy`: of the loads, and of a token's shares of the scores (mean over the tokens),
          over the largest that they can be; 1 is even, and a router that decides nothing
        * `dead_experts`: the share of experts that got no token
        * `shared_share`: of the gates of a token, that of the experts which all tokens go to
        * `groups_visited`: groups that a token's experts come from, where there are several
        """
        n = self._part.n_experts
        load, (tokens, entropy, gates, shared, groups) = sum_over_ranks(self.sums.clone()).cpu().split([n, 5])
        if not tokens or n < 2:
            return {}
        share, most = load / load.sum(), torch.tensor(n).log()
        visited = {} if self._part.router.groups.count == 1 else {"groups_visited": float(groups / tokens)}
        return visited | {
            "load_violation": float(load.max() / load.mean() - 1),
            "load_entropy": float(torch.special.entr(share).sum() / most),
            "router_entropy": float(entropy / tokens / most),
            "dead_experts": float((load == 0).double().mean()),
            "shared_share": float(shared / (shared + gates)),
        }


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The feed-forward part of every block, and its experts where it has some."""
    for layer, block in model.layers():
        part = block.feed_forward
        yield FeedForwardWatcher("feed_forward", layer, part, device=model.head.weight.device)
        if isinstance(part, MixtureOfExperts):
            yield ExpertsWatcher("feed_forward", layer, part)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of what each block's part gives with weights drawn by their names."""
    like = model.head.weight
    tokens = drawn("tokens", (1, ROWS, like.shape[1]), like)
    ids = torch.arange(ROWS, device=like.device)[None]
    return {
        place_of(layer, place): projected(answer(block.feed_forward, tokens, None, ids))
        for place, (layer, block) in enumerate(model.layers())
    }
