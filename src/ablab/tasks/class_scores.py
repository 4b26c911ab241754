"""Precision, recall and F1 of classes, from counts that add up over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ablab.tasks.base import Totals


def class_counts(said: Tensor, answers: Tensor, classes: int, ignored: int) -> dict[str, Tensor]:
    """For each class 0..classes-1 how often it was said, should have been, and both, as float64 scalars.

    Args:
        said, answers: (N,) int64; where the answer is `ignored`, nothing counts.
    """
    kept = answers != ignored
    each = torch.arange(classes, device=answers.device)
    was_said, was_asked = said[kept, None] == each, answers[kept, None] == each
    counts = {"right": was_said & was_asked, "said": was_said, "asked": was_asked}
    return {
        f"{name}/{number}": count
        for name, which in counts.items()
        for number, count in enumerate(which.sum(0, dtype=torch.float64).unbind())
    }


def class_scores(totals: Totals, labels: Sequence[str]) -> dict[str, float]:
    """`precision`, `recall` and `f1`: of each class ("f1/class=spam"), and their means over classes (macro).

    A quotient without cases is 0: precision of what was never said, recall of what never should have been.
    """
    scores: dict[str, list[float]] = {"precision": [], "recall": [], "f1": []}
    for number in range(len(labels)):
        right, said, asked = (totals[f"{name}/{number}"] for name in ("right", "said", "asked"))
        scores["precision"].append(right / said if said else 0.0)
        scores["recall"].append(right / asked if asked else 0.0)
        scores["f1"].append(2 * right / (said + asked) if said + asked else 0.0)
    means = {name: sum(each) / len(each) for name, each in scores.items()}
    named = {
        f"{name}/class={label}": value
        for name, each in scores.items()
        for label, value in zip(labels, each, strict=True)
    }
    return means | named
