"""Batches against the text that they were cut from."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablab.tasks.base import IGNORED
from ablab.tasks.windows import EvalBatches, TrainBatches

TOKENS = np.arange(1000, dtype=np.uint16)  # every id says where it stands


def train(**changes: int) -> TrainBatches:
    return TrainBatches(TOKENS, **{"seq_len": 7, "batch_size": 6, "seed": 3, **changes})


def test_targets_are_the_next_tokens() -> None:
    inputs, targets = train()[0]
    assert inputs.shape == targets.shape == (6, 7)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(7))
    assert torch.equal(targets, inputs + 1)


def test_a_batch_depends_on_seed_and_index_alone() -> None:
    forwards = [train()[i][0] for i in range(5)]
    fresh = train()
    assert all(torch.equal(forwards[i], fresh[i][0]) for i in (4, 0, 3, 2, 1))
    assert not torch.equal(train()[0][0], train()[1][0])
    assert not torch.equal(train()[0][0], train(seed=4)[0][0])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_of_the_processes_make_up_the_batch(processes: int) -> None:
    shares = [train(rank=rank, processes=processes)[9] for rank in range(processes)]
    whole = train()[9]
    for part in range(2):
        assert torch.equal(torch.cat([share[part] for share in shares]), whole[part])


def test_every_window_can_be_drawn_and_equally_often() -> None:
    batches = TrainBatches(TOKENS[:12], seq_len=7, batch_size=1000, seed=0)  # 5 windows
    counts = torch.bincount(batches[0][0][:, 0], minlength=5)
    assert counts.sum() == 1000
    assert len(counts) == 5
    assert (counts - 200).abs().max() < 60  # 4.7 standard deviations


def served(length: int, processes: int, **settings: int | None) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    datasets = [
        EvalBatches(TOKENS[:length], rank=rank, processes=processes, **settings)  # type: ignore[arg-type]
        for rank in range(processes)
    ]
    return [[dataset[i] for i in range(len(dataset))] for dataset in datasets]


@given(
    length=st.integers(2, 300), seq_len=st.integers(1, 20), batch_size=st.integers(1, 9), processes=st.integers(1, 4)
)
def test_evaluation_predicts_every_token_but_the_first_exactly_once(
    length: int, seq_len: int, batch_size: int, processes: int
) -> None:
    shares = served(length, processes, seq_len=seq_len, batch_size=batch_size)
    seen: Counter[int] = Counter()
    for inputs, targets in (batch for share in shares for batch in share):
        kept = targets != IGNORED
        assert torch.equal(inputs[kept] + 1, targets[kept])
        seen.update(targets[kept].tolist())
    assert seen == Counter(range(1, length))


@given(length=st.integers(2, 300), batch_size=st.integers(1, 9), processes=st.integers(1, 4), limit=st.integers(1, 40))
def test_processes_serve_equally_many_batches_of_equal_sizes(
    length: int, batch_size: int, processes: int, limit: int
) -> None:
    shapes = [
        [tuple(inputs.shape) for inputs, _ in share]
        for share in served(length, processes, seq_len=8, batch_size=batch_size, limit=limit)
    ]
    assert all(shape == shapes[0] for shape in shapes)
    assert all(0 < rows <= batch_size for rows, _ in shapes[0])


def starts(limit: int | None, processes: int = 1, batch_size: int = 4) -> list[int]:
    shares = served(1000, processes, seq_len=9, batch_size=batch_size, limit=limit)
    return sorted(int(row[0]) - 1 for share in shares for _, targets in share for row in targets if row[0] != IGNORED)


def test_a_limit_spreads_the_windows_evenly() -> None:
    assert starts(None) == list(range(0, 999, 9))
    assert starts(4) == [0, 27 * 9, 55 * 9, 83 * 9]  # quarters of 111 windows, rounded down
    assert starts(10_000) == starts(None)


def test_the_choice_of_windows_ignores_batches_and_processes() -> None:
    assert starts(17) == starts(17, processes=3) == starts(17, batch_size=5)
