"""Sequences of unequal length among processes: every sample once, the least that can be, and nothing else changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from ablab.config import RunConfig, conf_folder
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import supervise
from ablab.tasks.balance import WINDOW, BalancedBatches, deal
from ablab.tasks.base import Batch
from ablab.tasks.batches import EpochBatches, Rows
from ablab.tasks.synthetic.listops import ListOps
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.generation import load_run

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]
LONGEST = 40


def lengths_of(seed: int, count: int) -> Rows:
    """Many short, a few long."""
    drawn = np.random.default_rng(seed).lognormal(2, 1, count)
    return np.clip(drawn, 1, LONGEST).astype(np.int64)


class Fixed(Dataset[Batch]):
    """Batches in which every sample has a number of its own, its target, and so many tokens as its turn says."""

    def __init__(self, batch_size: int) -> None:
        self._size = batch_size

    def __getitem__(self, index: int) -> Batch:
        numbers = np.arange(index * self._size, (index + 1) * self._size)
        return padded(numbers, lengths_of(index, self._size))


def padded(numbers: Rows, lengths: Rows) -> Batch:
    inputs = np.where(np.arange(LONGEST) < lengths[:, None], numbers[:, None] + 1, 0)
    return torch.from_numpy(inputs), torch.from_numpy(numbers[:, None].copy())


def shares(whole: Dataset[Batch], processes: int, by_length: bool = False, seed: int = 0) -> list[BalancedBatches]:
    settings = {"padding": 0, "by_length": by_length, "seed": seed, "processes": processes}
    return [BalancedBatches(whole, rank=rank, **settings) for rank in range(processes)]  # type: ignore[arg-type]


def computed(lengths: Rows, owners: Rows, processes: int) -> list[int]:
    """Tokens that each process computes."""
    own = [lengths[owners == rank] for rank in range(processes)]
    return [len(each) * int(each.max(initial=0)) for each in own]


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=7), processes=st.integers(1, 3))
def test_no_dealing_makes_the_most_that_is_computed_less(lengths: list[int], processes: int) -> None:
    """Against all dealings there are."""
    array = np.array(lengths)
    ways = itertools.product(range(processes), repeat=len(lengths))
    least = min(max(computed(array, np.array(way), processes)) for way in ways)
    assert max(computed(array, deal(array, processes), processes)) == least


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60), processes=st.integers(1, 8))
def test_all_get_something_and_no_one_more_than_of_equal_shares(lengths: list[int], processes: int) -> None:
    array = np.array(lengths)
    owners = deal(array, processes)
    assert len(set(owners.tolist())) == min(processes, len(lengths))
    assert 0 <= owners.min() <= owners.max() < processes
    assert max(computed(array, owners, processes)) <= -(-len(lengths) // processes) * array.max()


def test_equal_lengths_are_shared_equally() -> None:
    assert np.bincount(deal(np.full(24, 7), 4)).tolist() == [6, 6, 6, 6]


@pytest.mark.parametrize("by_length", [False, True])
@given(size=st.integers(1, 4), processes=st.integers(1, 4), seed=st.integers(0, 3))
def test_every_sample_is_with_one_process_whole_and_cut_to_the_longest_there(
    by_length: bool, size: int, processes: int, seed: int
) -> None:
    whole = Fixed(size * processes)
    dealt = shares(whole, processes, by_length, seed)
    served: list[int] = []
    for index in range(WINDOW):
        own = []
        for share in dealt:
            inputs, targets = share[index]
            assert isinstance(inputs, Tensor)
            assert (inputs != 0).any(0).all()  # no column of padding alone
            own += targets.flatten().tolist()
            for row, number in zip(inputs, targets.flatten().tolist(), strict=True):
                batch, place = divmod(number, size * processes)
                assert (row != 0).sum() == lengths_of(batch, size * processes)[place]
                assert set(row[row != 0].tolist()) == {number + 1}
        assert len(own) == size * processes
        if not by_length:
            assert sorted(own) == list(range(index * size * processes, (index + 1) * size * processes))
        served += own
    assert sorted(served) == list(range(WINDOW * size * processes))


def batch_of(parts: list[BalancedBatches], index: int) -> list[int]:
    return sorted(number for part in parts for number in part[index][1].flatten().tolist())


def test_batches_by_length_are_the_same_for_any_number_of_processes_and_from_anywhere_on() -> None:
    whole = Fixed(12)
    alone = shares(whole, 1, by_length=True, seed=3)
    batches = [batch_of(alone, index) for index in range(2 * WINDOW)]
    for processes in (2, 3):
        parts = shares(whole, processes, by_length=True, seed=3)
        for index in (WINDOW + 5, 0, 2 * WINDOW - 1, 4):  # windows come and go
            assert batch_of(parts, index) == batches[index]
    assert batch_of(shares(whole, 1, by_length=True, seed=4), 0) != batches[0]


def test_by_length_long_batches_do_not_come_last_and_padding_falls() -> None:
    (sorted_,), (plain,) = (shares(Fixed(16), 1, by_length) for by_length in (True, False))
    widths = [sorted_[index][0].shape[1] for index in range(WINDOW)]  # type: ignore[union-attr]
    assert widths != sorted(widths)

    def padding(batches: BalancedBatches) -> float:
        inputs: list[Any] = [batches[index][0] for index in range(2 * WINDOW)]
        real = sum(int((each != 0).sum()) for each in inputs)
        return 1 - real / sum(int(each.numel()) for each in inputs)

    assert padding(sorted_) < 0.25
    assert padding(plain) > 0.5


@pytest.mark.parametrize("count", [30, 100])
def test_by_length_every_sample_of_a_small_set_once_an_epoch_and_seldom_twice_in_a_batch(count: int) -> None:
    """The set is smaller than a window; without care what returns in the next epoch would join itself."""
    lengths = lengths_of(0, count)
    whole = EpochBatches(lambda rows: padded(rows, lengths[rows]), count, batch_size=10, seed=1)
    (dealt,) = shares(whole, 1, by_length=True)
    batches = [batch_of([dealt], index) for index in range(WINDOW)]
    assert sorted(itertools.chain(*batches)) == sorted(np.concatenate([whole.rows(i) for i in range(WINDOW)]).tolist())
    assert all(len(set(batch)) == len(batch) for batch in batches)  # these counts end epochs where batches end


def test_less_waits_on_a_skewed_distribution() -> None:
    """What is computed most, and the share of time that is idle, over many batches and numbers of processes."""
    for processes in (2, 4, 8):
        plain, dealt = [], []
        for seed in range(20):
            lengths = lengths_of(seed, 64)
            as_they_come = np.repeat(np.arange(processes), 64 // processes)
            plain.append(computed(lengths, as_they_come, processes))
            dealt.append(computed(lengths, deal(lengths, processes), processes))
        most = [np.array(each).max(1).sum() for each in (plain, dealt)]
        idle = [1 - np.array(each).mean(1).sum() / np.array(each).max(1).sum() for each in (plain, dealt)]
        assert most[1] < 0.6 * most[0]
        assert idle[1] < 0.5 * idle[0]


LENGTH_MATTERS = {"lsh", "dynamic"}  # whose numbers of buckets follow the length of the sequence
HASHED = ("attention.dense_below=0", "attention.bucket_size=16")  # no short cut for short sequences
MENU = {axis: sorted(p.stem for p in (conf_folder() / axis).glob("*.yaml")) for axis in ("attention", "position")}


@pytest.mark.parametrize(("axis", "option"), [(axis, option) for axis in MENU for option in MENU[axis]])
def test_a_sequence_that_is_cut_is_answered_as_before(axis: str, option: str, tiny_config: TinyConfig) -> None:
    config = tiny_config(
        "task=listops",
        "task.seq_len=400",
        "task.min_length=20",
        f"{axis}={option}",
        "model.n_layers=2",
        *(HASHED if option in ("lsh", "dynamic") else ()),
    )
    task = build_task(config)
    model = build_model(config, task).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(1, task.vocab_size, (5, 400), generator=generator)
    ends = torch.tensor([60, 131, 7, 90, 1])
    assert task.padding is not None
    inputs[torch.arange(400) >= ends[:, None]] = task.padding
    with torch.no_grad():
        if axis == "position":
            for parameter in model.position.parameters():
                parameter.normal_(generator=generator)  # which are zero at first
        whole, cut = model(inputs), model(inputs[:, :131])
    assert ((cut - whole).abs().max() < 1e-6) == (option not in LENGTH_MATTERS)


@pytest.mark.parametrize("task", ["listops", "classification"])
def test_a_run_that_goes_on_is_served_what_comes_next(task: str, tiny_config: TinyConfig) -> None:
    made = build_task(tiny_config(f"task={task}", "task.balance=length", "task.batch_size=4", "task.seq_len=48"))
    batches = [batch for batch, _ in zip(made.train_dataloader(), range(WINDOW + 4), strict=False)]
    made.first_step = WINDOW + 2
    again = next(iter(made.train_dataloader()))
    assert all(torch.equal(one, other) for one, other in zip(again, batches[WINDOW + 2], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers: int, tiny_config: TinyConfig) -> None:
    config = tiny_config("task=classification", "task.balance=length", f"task.workers={workers}", "task.batch_size=6")
    task = build_task(config)
    whole = task.train_batches(0, 1)  # type: ignore[attr-defined]
    (alone,) = shares_of(whole, task.padding)
    for index, (inputs, targets) in zip(range(5), task.train_dataloader(), strict=False):
        assert torch.equal(inputs, alone[index][0])  # type: ignore[arg-type]
        assert torch.equal(targets, alone[index][1])


def shares_of(whole: Dataset[Batch], padding: int | None) -> list[BalancedBatches]:
    assert padding is not None
    return [BalancedBatches(whole, padding=padding, by_length=True, seed=0)]


def test_what_cannot_be_is_refused_in_a_line(tiny_config: TinyConfig) -> None:
    with pytest.raises(UserError, match=r"^task\.balance='size': must be one of none, length, tokens$"):
        Preflight().check(tiny_config("task=listops", "task.balance=size"))
    with pytest.raises(UserError, match=r"^task\.balance: no such setting of task"):
        Preflight().check(tiny_config("task=recall", "+task.balance=tokens"))
    with pytest.raises(ValueError, match=r"task\.balance=size: must be one of none, length, tokens"):
        ListOps(seq_len=32, max_depth=3, max_args=3, min_length=4, batch_size=2, seed=0, balance="size")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("_costs_are_known")
def test_two_processes_learn_from_dealt_samples_what_one_does_from_all(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    """Plain gradient descent, whose weights show a sample that counts for too much."""
    settings = (
        *("task=listops", "task.batch_size=12", "task.eval_samples=8", "trainer.max_steps=6", "optimizer=sgd"),
        *("optimizer.lr=0.5", "trainer.val_check_interval=3", "trainer.accumulate_grad_batches=2"),
    )
    plain = run(tiny_config(*settings), tmp_path / "plain")
    dealt, sorted_ = (
        run(tiny_config(*settings, f"task.balance={name}"), tmp_path / name) for name in ("tokens", "length")
    )
    both = supervise(
        tiny_config(*settings, "task.balance=tokens", "strategy=ddp"),
        tmp_path / "both",
        lambda step, steps, shown: None,
    )
    assert {each.status for each in (plain, dealt, sorted_, both)} == {"ok"}, both.reason
    weights = {
        name: load_run(tmp_path / name, "last")[0].state_dict() for name in ("plain", "tokens", "length", "both")
    }
    for name, value in weights["plain"].items():
        torch.testing.assert_close(weights["tokens"][name], value, rtol=0, atol=1e-5)
        torch.testing.assert_close(weights["both"][name], value, rtol=0, atol=1e-5)
    assert any(
        not torch.allclose(weights["length"][name], value, atol=1e-4) for name, value in weights["plain"].items()
    )
    assert both.metrics == pytest.approx(plain.metrics, rel=1e-5)
    padding = [each.mechanism["balance/padding_share"] for each in (plain, dealt, both)]
    assert padding == sorted(padding, reverse=True)
    assert len(set(padding)) == 3
    assert plain.mechanism["balance/imbalance"] == plain.mechanism["balance/idle_share"] == 0
    assert 0 < both.mechanism["balance/idle_share"] < 0.5
    assert both.cost is not None
    assert plain.cost is not None
    assert both.cost.tokens == plain.cost.tokens
