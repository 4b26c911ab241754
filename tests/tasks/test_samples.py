"""A fixed set of samples in batches: each once an epoch, each once in an evaluation, whoever asks and in what order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablab.tasks.base import IGNORED, Batch
from ablab.tasks.samples import EpochBatches, Rows, SubsetBatches


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
def test_every_sample_of_every_part_is_served_once_and_all_processes_take_equal_steps(
    counts: list[int], size: int, processes: int
) -> None:
    subsets = [(fetch, count) for count in counts]
    shares = [SubsetBatches(subsets, batch_size=size, rank=rank, processes=processes) for rank in range(processes)]
    steps = [[(len(share[i][1]), share[i][2]) for i in range(len(share))] for share in shares]
    assert all(each == steps[0] for each in steps)
    served: dict[int, list[int]] = {subset: [] for subset in range(len(counts))}
    for share in shares:
        for index in range(len(share)):
            _, targets, subset = share[index]
            served[subset] += [target for target in targets.flatten().tolist() if target != IGNORED]
    expected = {subset: list(range(count)) for subset, count in enumerate(counts)}
    assert {subset: sorted(rows) for subset, rows in served.items()} == expected


def test_what_fills_up_is_ignored_and_changes_no_sample() -> None:
    inputs = torch.arange(3)[:, None]
    targets = torch.arange(3)[:, None]

    def view(rows: Rows) -> Batch:
        return inputs[torch.from_numpy(rows)], targets[torch.from_numpy(rows)]

    last = SubsetBatches([(view, 3)], batch_size=2, rank=1, processes=2)[0]
    assert last[1].tolist() == [[1], [IGNORED]]
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
