"""The lightning indexer: a small attention without values that says which keys a query is to look at.

DeepSeek-AI 2025, "DeepSeek-V3.2" (arXiv 2512.02556), section 2.1, equation 1: I(t, s) = sum_h w_h(t) ReLU(q_h(t) k(s)).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.attention.kernel import without_autocast
from ablab.model.attention.layer import Rotate
from ablab.model.attention.projections import split_heads
from ablab.model.position import Rope
from ablab.model.spec import LayerSpec, require_at_least

Index = tuple[Tensor, Tensor, Tensor]  # queries (B, heads, T, D), their weights (B, heads, T) and keys (B, 1, T, D)


COMPARED = ("index_recall", "index_recall_at_random", "index_loss")


class LightningIndexer(nn.Module):
    """Makes an index of a layer's input: a few heads of queries with a weight each, and one head of keys for all.

    Its heads are as wide as the model's where nothing else is said, so that the position rotates the same coordinates
    of queries and keys as it does for the attention. Keys are normalised (layer norm), and none of its projections has
    a bias, as in the released model.

    Args:
        heads: at least 1.
        size: coordinates of each; None for those of the model's.
        inputs: width of what its queries are made of; None for the layer's input.
    """

    def __init__(self, spec: LayerSpec, *, heads: int, size: int | None = None, inputs: int | None = None) -> None:
        super().__init__()
        require_at_least(1, "attention.index_heads", heads)
        self.head_size = size = spec.head_size if size is None else size
        self.scale = (heads * size) ** -0.5
        self.query = nn.Linear(spec.d_model if inputs is None else inputs, heads * size, bias=False)
        self.key = nn.Linear(spec.d_model, size, bias=False)
        self.key_norm = _KeyNorm(size, eps=1e-6)
        self.weight = nn.Linear(spec.d_model, heads, bias=False)

    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        """The index of x (B, T, d_model). What it is learned from never changes x, of which it keeps no graph.

        Args:
            queries: what its queries are made of, (B, T, inputs), where that is not x.
        """
        x = x.detach()
        q = self.query(x if queries is None else queries.detach())
        q, k = rotate(split_heads(q, self.head_size), split_heads(self.key_norm(self.key(x)), self.head_size))
        weight: Tensor = self.weight(x)
        return q, self.scale * weight.transpose(1, 2), k


def require_rotated(size: int, rope: Rope) -> None:
    """Raises ValueError where an indexer's heads have fewer coordinates than are rotated."""
    if size < rope.cos.shape[-1]:
        raise ValueError(f"attention.index_size={size}: must be at least the {rope.cos.shape[-1]} rotated coordinates")


class _KeyNorm(nn.LayerNorm):
    """In the precision of its weights: under autocast its input has less."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class IndexLearning(nn.Module):
    """Keeps what an index is to lose, for the training loss, and says which steps are its warm-up.

    In the first steps of training queries see all that they may, and the index learns from all of it; evaluation always
    chooses.

    Args:
        weight: by what it counts beside the task's loss, above 0.
        warmup_steps: at least 0.
    """

    penalty_of_pass = True

    def __init__(self, *, weight: float, warmup_steps: int) -> None:
        super().__init__()
        require_at_least(0, "attention.warmup_steps", warmup_steps)
        if not weight > 0:
            raise ValueError(f"attention.index_weight must be above 0, or the indexer never learns, got {weight}")
        self.weight, self.warmup_steps = weight, warmup_steps
        self.warming = warmup_steps > 0
        self.asked: Tensor | None = None  # of the last pass in training

    def resample(self, step: int) -> None:
        """Take `step` for the optimizer steps taken."""
        self.warming = step < self.warmup_steps

    def keep(self, lost: Tensor, key_padding_mask: Tensor | None) -> None:
        """Remember what each token's query lost, (B, T): the mean over sequences of the means over their tokens."""
        if key_padding_mask is None:
            self.asked = lost.mean()
            return
        there = ~key_padding_mask
        self.asked = ((lost * there).sum(1) / there.sum(1).clamp(min=1)).mean()

    def penalty(self) -> Tensor:
        """What the last pass in training asks for."""
        asked, self.asked = self.asked, None  # lets go of the graph
        return torch.zeros(()) if asked is None else self.weight * asked


def unchosen(model: nn.Module, steps: int) -> list[str]:
    """A line where training ends before an indexer chooses: the attention that was trained saw everything."""
    found = {part.warmup_steps for part in model.modules() if isinstance(part, IndexLearning)}
    return [
        f"attention.warmup_steps={each}: in training, which had {steps} steps, no indexer chose any query's keys"
        for each in sorted(found)
        if each >= steps
    ]


def index_scores(q: Tensor, weight: Tensor, k: Tensor) -> Tensor:
    """Scores (B, S, T), in single precision at least.

    Args:
        q: (B, heads, S, D).
        weight: (B, heads, S).
        k: (B, 1, T, D).
    """
    with without_autocast(q.device):
        exact = torch.promote_types(q.dtype, torch.float32)
        alike = (q.to(exact) @ k.to(exact).transpose(-1, -2)).relu()  # (B, heads, S, T)
        return (weight.to(exact).transpose(1, 2).unsqueeze(2) @ alike.transpose(1, 2)).squeeze(2)


def divergence(scores: Tensor, weights: Tensor, seen: Tensor) -> Tensor:
    """KL(p || softmax of the index) for each query, (B, S); 0 where a query sees nothing.

    p is what the heads of the attention give to a key, summed up and made to sum to 1. It has no gradient.

    Args:
        scores: of the index, (B, S, T).
        weights: of the attention, (B, H, S, T).
        seen: bool, broadcastable to (B, S, T), the keys that both go over.
    """
    total = weights.detach().sum(1).to(scores.dtype)
    p = total / total.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    log_q = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).log_softmax(-1)
    return (torch.xlogy(p, p) - p * log_q).sum(-1)


def recall(chosen: Tensor, best: Tensor, allowed: Tensor) -> dict[str, Tensor]:
    """The share of the best that are chosen, and what it would be if so many were chosen at random; bool (B, S, T).

    Where there is nothing to choose, nothing is missed: both are 1.
    """
    count, choices = best.sum(-1), allowed.sum(-1)
    found = (best & chosen).sum(-1) / count.clamp(min=1)
    at_random = chosen.sum(-1) / choices.clamp(min=1)
    return {
        "index_recall": found.where(count > 0, 1.0),
        "index_recall_at_random": at_random.where(choices > 0, 1.0),
    }
