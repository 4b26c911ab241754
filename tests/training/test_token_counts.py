"""Shares of padding and of waiting against figures by hand; the same in one process and in several."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from strategies.ranks import together

from ablab.tasks.base import Batch
from ablab.training.token_counts import TokenCounts

Widths = list[list[tuple[int, list[int]]]]  # of each process: of each batch the length, and the tokens of each sequence

# Two steps of two batches each. Real tokens of a step: 12 and 8, then 2 and 6; computed: 16 and 12, then 4 and 8.
TWO: Widths = [[(4, [4, 3]), (4, [2, 3]), (1, [1]), (3, [1])], [(6, [4]), (6, [4]), (4, [2]), (4, [4])]]
FIGURES = {
    "balance/imbalance": (12 / 10 - 1 + 6 / 4 - 1) / 2,
    "balance/padding_share": 1 - 28 / 40,
    "balance/idle_share": 1 - (14 + 6) / (16 + 8),
}


def batch(length: int, tokens: list[int]) -> Batch:
    there = torch.arange(length) < torch.tensor(tokens)[:, None]
    return there.long(), torch.zeros(len(tokens), 1, dtype=torch.long)


def count(counts: TokenCounts, batches: list[Batch], **task: Any) -> None:
    described = {"padding": 0, "modalities": {}, **task}
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(**described))
    for index, each in enumerate(batches):
        counts.on_train_batch_start(trainer, None, each, index)  # type: ignore[arg-type]


def counted(rank: int, widths: Widths) -> list[dict[str, float]]:
    """In one go, and with a checkpoint between the steps."""
    batches = [batch(*each) for each in widths[rank]]
    whole, first, second = (TokenCounts(accumulate=2) for _ in range(3))
    count(whole, batches)
    count(first, batches[:2])
    second.load_state_dict(first.state_dict())
    count(second, batches[2:])
    return [whole.metrics(), second.metrics(), second.metrics()]


def test_two_processes_count_together_and_go_on_counting() -> None:
    for figures in together(counted, 2, TWO):
        assert figures == [pytest.approx(FIGURES)] * 3


def test_one_process_waits_for_nobody() -> None:
    figures = counted(0, [[(4, [4, 3]), (4, [2, 3]), (1, [1]), (3, [1])]])
    assert figures == [pytest.approx({**dict.fromkeys(FIGURES, 0.0), "balance/padding_share": 1 - 14 / 20})] * 3


def test_modalities_say_themselves_where_they_have_no_token_and_full_sequences_are_not_counted() -> None:
    padding = torch.tensor([[False, True, True, False], [False, False, False, False]])
    counts, none = TokenCounts(), TokenCounts()
    count(counts, [({"padding": padding}, torch.zeros(2, 1))], padding=None, modalities={"text": None})
    assert counts.metrics()["balance/padding_share"] == pytest.approx(2 / 8)
    count(none, [batch(4, [4, 4])], padding=None)
    assert none.metrics() == {}
