"""What all generated tasks have in common: samples that depend on seed, split and index alone, and disjoint splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ablab.config import conf_folder
from ablab.config.signature import check_signature
from ablab.errors import UserError
from ablab.tasks.base import IGNORED
from ablab.tasks.batches import SubsetBatches
from ablab.tasks.synthetic.base import HashSplitTask, _TrainBatches, draw_split, fetching, split_of
from ablab.tasks.synthetic.sequences import Copying, Parity

SYNTHETIC = ["copying", "induction", "parity", "recall", "selective_copying", "sorting"]


def make(option: str, **changes: Any) -> HashSplitTask:
    node = OmegaConf.load(conf_folder() / "task" / f"{option}.yaml")
    task: HashSplitTask = instantiate(node, seed=changes.pop("seed", 5), **changes)
    return task


def rows(inputs: Any) -> set[tuple[int, ...]]:
    return {tuple(row) for row in np.asarray(inputs).tolist()}


@pytest.mark.parametrize("option", SYNTHETIC)
def test_splits_share_no_sample(option: str) -> None:
    """The shortest sequences: there are so few that independent draws would meet."""
    small = {"copying": 6, "induction": 4, "parity": 12, "recall": 8, "selective_copying": 16, "sorting": 6}
    sizes = {"recall": {"vocab_size": 8, "pairs": 2}, "selective_copying": {"memorize": 2}}
    task = make(option, seq_len=small[option], eval_samples=30, **sizes.get(option, {}))
    train = rows(np.concatenate([draw_split(task.draw, "train", 5, index, 200)[0] for index in range(20)]))
    val, test = rows(task.samples("val")[0]), rows(task.samples("test")[0])
    assert not train & val
    assert not train & test
    assert not val & test


@pytest.mark.parametrize("option", SYNTHETIC)
def test_samples_depend_on_seed_split_and_index_alone(option: str) -> None:
    batches: Any = _TrainBatches(make(option), 0, 1)
    forwards = [batches[index] for index in range(3)]
    again: Any = _TrainBatches(make(option), 0, 1)
    elsewhere: Any = _TrainBatches(make(option, seed=6), 0, 1)
    assert all(torch.equal(forwards[i][part], again[i][part]) for i in (2, 0, 1) for part in (0, 1))
    assert not torch.equal(forwards[0][0], forwards[1][0])
    assert not torch.equal(forwards[0][0], elsewhere[0][0])
    assert not np.array_equal(make(option).samples("val")[0], make(option, seed=6).samples("val")[0])


@pytest.mark.parametrize("option", SYNTHETIC)
def test_tokens_are_in_the_vocabulary_and_answers_were_asked_for(option: str) -> None:
    task = make(option)
    inputs, targets = task.samples("val")
    assert inputs.shape == targets.shape == (1000, task.seq_len)
    assert inputs.min() >= 0
    assert inputs.max() < task.vocab_size
    answers = targets[targets != IGNORED]
    assert answers.min() >= 0
    assert answers.max() < task.vocab_size
    assert (targets != IGNORED).any(axis=1).all()
    assert 0 < task.oracle["chance"] < task.oracle["ceiling"] == 1


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_evaluation_sample_is_served_once_and_all_processes_take_equal_steps(
    processes: int, batch_size: int
) -> None:
    task = make("copying", eval_samples=25)
    subsets = [fetching(task.samples("val"))]
    shares = [
        SubsetBatches(subsets, batch_size=batch_size, rank=rank, processes=processes) for rank in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    served = [
        tuple(inputs.tolist())
        for share in shares
        for index in range(len(share))
        for inputs, targets in zip(*share[index][:2], strict=True)
        if (targets != IGNORED).any()
    ]
    assert sorted(served) == sorted(map(tuple, task.samples("val")[0].tolist()))


def test_shares_of_the_processes_make_up_the_batch() -> None:
    task = make("recall", batch_size=6)
    whole: Any = _TrainBatches(task, 0, 1)[9]
    shares: list[Any] = [_TrainBatches(task, rank, 3)[9] for rank in range(3)]
    for part in range(2):
        assert torch.equal(torch.cat([share[part] for share in shares]), whole[part])


def test_the_hash_spreads_evenly() -> None:
    inputs = np.random.default_rng(0).integers(0, 2, size=(20_000, 16))
    places = split_of(np.unique(inputs, axis=0))
    counts, _ = np.histogram(places, bins=10, range=(0, 1))
    expected = len(places) / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square of 9 degrees of freedom, p = 0.001


def test_too_few_samples_are_said_to_be() -> None:
    with pytest.raises(ValueError, match="too few different samples for a"):
        make("parity", seq_len=1).setup()


def test_samples_that_are_mostly_the_same_are_told(caplog: pytest.LogCaptureFixture) -> None:
    make("parity", seq_len=16).setup()
    assert caplog.messages == []
    task = make("parity", seq_len=4)
    task.setup()
    counts = {split: len(rows(task.samples(split)[0])) for split in ("val", "test")}
    assert caplog.messages == [f"Parity: {n} of 1000 {split} samples are different ones" for split, n in counts.items()]


def test_totals_of_perfect_and_of_wrong_answers() -> None:
    task = Copying(symbols=4, seq_len=6, batch_size=2, seed=0, eval_samples=10)
    targets = torch.tensor([[IGNORED, 2, 3], [IGNORED, 4, 5], [IGNORED, IGNORED, IGNORED]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 2, 3], [0, 4, 2], [0, 0, 0]]), 6) * 50.0
    totals = {name: value.item() for name, value in task.totals(logits, targets).items()}
    assert totals == {"nats": pytest.approx(50.0), "correct": 3, "answers": 4, "exact": 1, "sequences": 2}
    assert task.metrics(totals) == {"loss": pytest.approx(12.5), "accuracy": 0.75, "exact": 0.5}


@pytest.mark.parametrize("option", [*SYNTHETIC, "listops", "needle"])
def test_the_option_gives_all_that_its_class_wants_and_no_more(option: str) -> None:
    """What the command line asks of it; `seed` is the program's own."""
    node = OmegaConf.to_container(OmegaConf.load(conf_folder() / "task" / f"{option}.yaml"))
    assert isinstance(node, dict)
    check_signature("task", {str(key): value for key, value in node.items()}, supplied={"seed"})


def test_there_is_no_text() -> None:
    with pytest.raises(UserError, match="are no text"):
        Parity(seq_len=8, batch_size=1, seed=0).encode("x")


@pytest.mark.parametrize(
    ("option", "changes", "words"),
    [
        ("recall", {"pairs": 17}, r"task\.pairs=17"),
        ("recall", {"vocab_size": 8}, r"task\.vocab_size=8 has 3 keys: give at least 8"),
        ("recall", {"power_a": 0}, r"task\.power_a=0"),
        ("copying", {"symbols": 1}, r"task\.symbols=1"),
        ("copying", {"eval_samples": 0}, r"task\.eval_samples must be at least 1"),
        ("selective_copying", {"memorize": 33}, r"task\.memorize=33"),
        ("induction", {"seq_len": 2}, r"task\.seq_len=2"),
        ("parity", {"workers": -1}, "workers must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(option: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        make(option, **changes)
