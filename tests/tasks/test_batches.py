"""Batches against what they were cut from: a set of samples, and a text."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablab.tasks.base import IGNORED, Batch
from ablab.tasks.batches import EpochBatches, EvalWindowBatches, Rows, SubsetBatches, WindowBatches

TOKENS = np.arange(1000, dtype=np.uint16)  # every id says where it stands


def fetch(rows: Rows) -> Batch:
    """Sample n is its own number."""
    return torch.from_numpy(rows[:, None].copy()), torch.from_numpy(rows[:, None].copy())


@given(count=st.integers(1, 30), size=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_sample_is_seen_once_an_epoch(count: int, size: int, seed: int) -> None:
    batches = EpochBatches(fetch, count, batch_size=size, seed=seed)
    epochs = 3
    seen = np.concatenate([batches.rows(index) for index in range(-(-epochs * count // size))])[: epochs * count]
    for epoch in seen.reshape(epochs, count):
        assert sorted(epoch) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first = EpochBatches(fetch, 50, batch_size=50, seed=1)
    assert first.rows(0).tolist() != first.rows(1).tolist()
    assert first.rows(0).tolist() != EpochBatches(fetch, 50, batch_size=50, seed=2).rows(0).tolist()
    assert first.rows(0).tolist() == EpochBatches(fetch, 50, batch_size=50, seed=1).rows(0).tolist()


def test_shares_make_up_the_batch() -> None:
    whole = EpochBatches(fetch, 7, batch_size=6, seed=0)[5][0]
    shares = [EpochBatches(fetch, 7, batch_size=6, seed=0, rank=rank, processes=3)[5][0] for rank in range(3)]
    assert torch.equal(torch.cat(shares), whole)  # type: ignore[arg-type]


@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=4), size=st.integers(1, 8), processes=st.integers(1, 4))
def test_every_sample_of_every_subset_is_served_once_and_all_processes_take_equal_steps(
    counts: list[int], size: int, processes: int
) -> None:
    subsets = [(fetch, count) for count in counts]
    shares = [SubsetBatches(subsets, batch_size=size, rank=rank, processes=processes) for rank in range(processes)]
    steps = [[share[i][2] for i in range(len(share))] for share in shares]
    assert all(each == steps[0] for each in steps)
    served: dict[int, list[int]] = {subset: [] for subset in range(len(counts))}
    for share in shares:
        for index in range(len(share)):
            _, targets, subset = share[index]
            assert 0 < len(targets) <= size
            served[subset] += [target for target in targets.flatten().tolist() if target != IGNORED]
            assert len(targets) == 1 or IGNORED not in targets  # what fills up is by itself
    expected = {subset: list(range(count)) for subset, count in enumerate(counts)}
    assert {subset: sorted(rows) for subset, rows in served.items()} == expected


def test_what_fills_up_is_ignored_and_changes_no_sample() -> None:
    inputs = torch.arange(3)[:, None]
    targets = torch.arange(3)[:, None]

    def view(rows: Rows) -> Batch:
        return inputs[torch.from_numpy(rows)], targets[torch.from_numpy(rows)]

    share = SubsetBatches([(view, 3)], batch_size=1, rank=1, processes=2)
    assert [share[index][1].tolist() for index in range(len(share))] == [[[1]], [[IGNORED]]]
    assert targets.flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_change_nothing(workers: int) -> None:
    batches = SubsetBatches([(fetch, 5), (fetch, 3)], batch_size=2)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers)
    assert [(targets.flatten().tolist(), subset) for _, targets, subset in loader] == [
        ([0, 1], 0),
        ([2, 3], 0),
        ([4], 0),
        ([0, 1], 1),
        ([2], 1),
    ]


def windows(**changes: int) -> WindowBatches:
    return WindowBatches(TOKENS, **{"seq_len": 7, "batch_size": 6, "seed": 3, **changes})


def test_targets_are_the_next_tokens() -> None:
    inputs, targets = windows()[0]
    assert inputs.shape == targets.shape == (6, 7)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(7))
    assert torch.equal(targets, inputs + 1)


def test_a_batch_depends_on_seed_and_index_alone() -> None:
    forwards = [windows()[i][0] for i in range(5)]
    fresh = windows()
    assert all(torch.equal(forwards[i], fresh[i][0]) for i in (4, 0, 3, 2, 1))
    assert not torch.equal(windows()[0][0], windows()[1][0])
    assert not torch.equal(windows()[0][0], windows(seed=4)[0][0])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_of_the_processes_make_up_the_batch(processes: int) -> None:
    shares = [windows(rank=rank, processes=processes)[9] for rank in range(processes)]
    whole = windows()[9]
    for part in range(2):
        assert torch.equal(torch.cat([share[part] for share in shares]), whole[part])


def test_every_window_can_be_drawn_and_equally_often() -> None:
    batches = WindowBatches(TOKENS[:12], seq_len=7, batch_size=1000, seed=0)  # 5 windows
    counts = torch.bincount(batches[0][0][:, 0], minlength=5)
    assert counts.sum() == 1000
    assert len(counts) == 5
    assert (counts - 200).abs().max() < 60  # 4.7 standard deviations


def served(length: int, processes: int, **settings: int | None) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    datasets = [
        EvalWindowBatches(TOKENS[:length], rank=rank, processes=processes, **settings)  # type: ignore[arg-type]
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
    shares = served(length, processes, seq_len=8, batch_size=batch_size, limit=limit)
    assert len({len(share) for share in shares}) == 1
    for _, targets in itertools.chain(*shares):
        assert 0 < len(targets) <= batch_size
        assert len(targets) == 1 or (targets != IGNORED).any(1).all()  # what fills up is by itself


def starts(limit: int | None, processes: int = 1, batch_size: int = 4) -> list[int]:
    shares = served(1000, processes, seq_len=9, batch_size=batch_size, limit=limit)
    return sorted(int(row[0]) - 1 for share in shares for _, targets in share for row in targets if row[0] != IGNORED)


def test_a_limit_spreads_the_windows_evenly() -> None:
    assert starts(None) == list(range(0, 999, 9))
    assert starts(4) == [0, 27 * 9, 55 * 9, 83 * 9]  # quarters of 111 windows, rounded down
    assert starts(10_000) == starts(None)


def test_the_choice_of_windows_ignores_batches_and_processes() -> None:
    assert starts(17) == starts(17, processes=3) == starts(17, batch_size=5)
