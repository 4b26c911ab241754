"""Multi-token prediction: modules behind the model that look further ahead, one token each.

They are computed in training alone, and where they guess tokens (`ablab.model.drafting`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ablab.model.attention.cache import LayerCache
from ablab.model.block import Block
from ablab.model.context import LayerContext
from ablab.model.norm import Norm
from ablab.model.objective.base import IGNORED, Asked, Objective, mean_over_data
from ablab.model.spec import LayerSpec, require_at_least


class MultiToken(Objective):
    """The next token, and `depth` tokens behind it by modules one behind the other (DeepSeek-V3, 2412.19437, §2.2).

    With h^0_i what the head reads at position i of a window of T tokens t_0..t_{T-1}, module k is

        h^k_i = Block_k(M_k [norm(h^{k-1}_i); norm(emb(t_{i+k}))]),   i = 0..T-1-k,

    and the model's own head gives P^k_i of norm(h^k_i). Its target is that of the model itself at position i + k, which
    for a text is t_{i+k+1}. Blocks are as the last layer's, with weights of their own, and see no later position;
    embedding and head are the model's. `weight` / depth times the sum over k of the mean cross entropies is added to
    the loss. Ignored targets, padding, and what lies beyond the window do not count.

    Deviations: the paper divides by T and not by the number of terms, and does not say where h^0 and the last norm
    are; here h^0 is behind the model's last norm, and each module has a last norm of its own, as in the released
    weights.

    Args:
        depth: D, modules.
        weight: lambda.
        weight_end: lambda from `end_share` of training on; None: it stays as it is.
        end_share: of the steps.
        total_steps: those of training.
        z_loss: of the model's own logits, as is `softcap` of all; see `Objective`.

    Raises:
        ValueError: a value is out of its range, or a window has no place for so many tokens.
    """

    penalty_of_pass = True

    def __init__(
        self,
        spec: LayerSpec,
        *,
        block: Callable[[LayerSpec], Block],
        norm: Callable[[LayerSpec], Norm],
        depth: int = 1,
        weight: float = 0.3,
        weight_end: float | None = None,
        end_share: float = 0.67,
        total_steps: int,
        z_loss: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__(spec, block=block, norm=norm, z_loss=z_loss, softcap=softcap)
        require_at_least(1, "objective.depth", depth)
        if depth >= spec.max_length:
            raise ValueError(_too_deep(depth, spec.max_length))
        for name, value in (("weight", weight), ("weight_end", weight if weight_end is None else weight_end)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"objective.{name} must be at least 0, got {value}")
        if not 0 <= end_share <= 1:
            raise ValueError(f"objective.end_share must lie in 0..1, got {end_share}")
        self.weights = weight, weight if weight_end is None else weight_end
        self.ends_at = round(end_share * total_steps)
        self.weight = weight
        self.resample(0)
        self.reach = depth
        self.depths = nn.ModuleList(DepthModule(spec, block=block, norm=norm) for _ in range(depth))
        self._asked: Tensor | None = None  # of the last pass

    def resample(self, step: int) -> None:
        """Take the weight of a step, which follows from the steps taken."""
        self.weight = self.weights[step >= self.ends_at]

    def forward(self, asked: Asked) -> None:
        super().forward(asked)
        if not self.training:
            return
        terms = [(nats(*each).sum(), (each[1] != IGNORED).sum()) for each in self.ahead(asked)]
        sums, counts = (torch.stack(each) for each in zip(*terms, strict=True))
        self._asked = self.weight / len(self.depths) * mean_over_data(sums, counts).sum()

    def ahead(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor]]:
        hidden, ids, nowhere = asked.hidden, asked.context.ids, asked.context.key_padding_mask
        assert ids is not None
        if ids.shape[1] <= len(self.depths):
            raise ValueError(_too_deep(len(self.depths), ids.shape[1]))
        missing = nowhere
        for k, module in enumerate(self.depths, 1):
            assert isinstance(module, DepthModule)
            later, targets = ids[:, k:], asked.targets[:, k:]
            if nowhere is not None and missing is not None:
                missing = missing[:, :-1] | nowhere[:, k:]
                targets = targets.masked_fill(missing, IGNORED)
            context = replace(asked.context, key_padding_mask=missing, ids=later, shared={})
            hidden = module(hidden[:, :-1], asked.embed(later), context)
            yield asked.head(module.norm(hidden)), targets

    def asks(self) -> list[float]:
        first, last = self.weights
        when = float(self.ends_at) if first != last else 0.0
        depth = float(len(self.depths)) if first or last else 0.0
        return [super().asks()[0], first, last, when, depth]

    def penalty(self) -> Tensor:
        """What is added to the training loss, of the last pass."""
        asked, self._asked = self._asked, None  # lets go of the graph
        assert asked is not None, "asked for before any pass with targets"
        return asked


class DepthModule(nn.Module):
    """Joins what is known of each position with one token more.

    Attributes:
        norm: the last one, in front of the head.
    """

    def __init__(
        self, spec: LayerSpec, *, block: Callable[[LayerSpec], Block], norm: Callable[[LayerSpec], Norm]
    ) -> None:
        super().__init__()
        self.hidden_norm, self.token_norm, last = norm(spec), norm(spec), norm(spec)
        self.join = nn.Linear(2 * spec.d_model, spec.d_model, bias=False)
        self.block = block(spec)
        self.ends = self.block.attention_residual.ends(spec)
        self.norm = nn.Identity() if last.placement == "post" else last

    def forward(self, hidden: Tensor, tokens: Tensor, context: LayerContext) -> Tensor:
        """What is known of positions and embedded tokens, (B, S, d_model) each -> the same."""
        known: Tensor = self.ends(self.block(self._begin(hidden, tokens), context))
        return known

    def extend(self, hidden: Tensor, tokens: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        """`forward` for new positions alone, which the context's `step` names; the block's cache has those before."""
        known: Tensor = self.ends(self.block.extend(self._begin(hidden, tokens), context, cache))
        return known

    def _begin(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return self.ends.begin(self.join(torch.cat([self.hidden_norm(hidden), self.token_norm(tokens)], -1)))


def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy of each target (B, S) by logits (B, S, V); 0 of one that is ignored."""
    each = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return each.view(targets.shape)


def _too_deep(depth: int, length: int) -> str:
    most = f"give at most {length - 1}, or longer windows"
    return f"objective.depth={depth} reaches beyond a window of {length} tokens: {most}"
