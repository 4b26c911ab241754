"""What every task promises: the same data for the same seed, splits apart, and targets that are to be told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ablab.certify.outcomes import Skipped, require
from ablab.certify.target import Target
from ablab.config import RunConfig
from ablab.tasks.base import IGNORED, Task
from ablab.training.build import build_task

BATCHES = 12


class TaskSubject:
    """A task, with its data."""

    def __init__(self, target: Target) -> None:
        self.axis, self.config = target.axis, target.config
        self.task = build_task(self.config)

    @property
    def node(self) -> Any:
        return self.config.options[self.axis.name]

    def again(self, seed: int = 0) -> Task:
        config: RunConfig = self.config.with_values({"seed": seed})
        return build_task(config)


def batches(task: Task, count: int = BATCHES) -> list[Any]:
    """The first ones for training."""
    return list(islice(iter(task.train_dataloader()), count))


def serves(subject: TaskSubject) -> str:
    """Batches have the shapes, types and range that it says, and something to be told."""
    task = subject.task
    example_inputs, example_targets = task.example()
    counted = 0
    for number, (inputs, targets) in enumerate(batches(task)):
        for one, shown in zip(flat(inputs, targets), flat(example_inputs, example_targets), strict=True):
            shape = (task.batch_size, *shown.shape[1:])
            require(one.shape == shape, f"batch {number}: a tensor of {tuple(one.shape)}, where {shape} is promised")
            require(one.dtype == shown.dtype, f"batch {number}: {one.dtype}, where {shown.dtype} is promised")
            require(not one.is_floating_point() or bool(one.isfinite().all()), f"batch {number}: is not finite")
        asked = targets[targets != IGNORED]
        require(len(asked) > 0, f"batch {number}: every target is ignored")
        most = task.n_outputs or task.vocab_size
        require(int(asked.min()) >= 0 and int(asked.max()) < most, f"batch {number}: targets lie outside 0..{most - 1}")
        if isinstance(inputs, Tensor):
            there = int(inputs.min()) >= 0 and int(inputs.max()) < task.vocab_size
            require(there, f"batch {number}: tokens lie outside 0..{task.vocab_size - 1}")
        counted += len(asked)
    return f"{BATCHES} batches of {task.batch_size}: {counted:,} targets, all within range"


def repeats(subject: TaskSubject) -> str:
    """Training batch n is a function of the settings, the seed and n; a run that goes on is served what is left."""
    before = torch.get_rng_state()
    first, again = batches(subject.task), batches(subject.again())
    require(torch.equal(before, torch.get_rng_state()), "serving moves torch's global generator")
    for number, (one, other) in enumerate(zip(first, again, strict=True)):
        require(same(one, other), f"training batch {number} is another one for the same seed")
    moved = subject.again()
    moved.first_step = 5
    require(same(first[5], batches(moved, 1)[0]), "with first_step=5, the first batch is not batch 5")
    require(not same(first[0], first[1]), "training batches 0 and 1 are the same")
    require(not same(first[0], batches(subject.again(seed=1), 1)[0]), "another seed serves the same batch")
    val = evaluated(subject.task, "val")
    require(all(map(same, val, evaluated(subject.again(), "val"))), "the validation samples differ from time to time")
    return f"{BATCHES} batches and {len(val)} of validation again the same; another seed serves others"


def apart(subject: TaskSubject) -> str:
    """No sample of validation or test is among those for training, or among each other's."""
    task = subject.task
    if task.modalities:
        raise Skipped("samples of several modalities are drawn anew, with noise, from splits of their own")
    seen: dict[str, set[bytes]] = {"train": set()}
    for inputs, targets in batches(task, 40):
        seen["train"] |= rows(inputs, targets)
    for split in ("val", "test"):
        seen[split] = set()
        for inputs, targets, *_ in evaluated(task, split):
            seen[split] |= rows(inputs, targets)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        both = seen[one] & seen[other]
        require(not both, f"{len(both)} of {len(seen[other])} samples of {other} are in {one}, too")
    counts = ", ".join(f"{len(each):,} of {split}" for split, each in seen.items())
    return f"no sample in two splits ({counts})"


def targets(subject: TaskSubject) -> str:
    """Targets are not the tokens that they stand at: what is asked for is not given away."""
    task = subject.task
    if task.modalities or task.pooled or task.n_outputs is not None:
        raise Skipped("the answer is a class")
    equal = total = shifted = 0
    for inputs, asked in batches(task):
        there = asked != IGNORED
        equal += int((inputs == asked)[there].sum())
        shifted += int((inputs[:, 1:] == asked[:, :-1])[there[:, :-1]].sum())
        total += int(there.sum())
    require(equal < 0.9 * total, f"{equal / total:.0%} of the targets are the token that they stand at: not shifted")
    return f"{shifted / total:.0%} of {total:,} targets are the next token, {equal / total:.0%} the own one"


def judges(subject: TaskSubject) -> str:
    """Loss and metrics are finite, ignored targets do not count, and totals of halves add up to those of all."""
    task = subject.task
    _, asked = batches(task, 1)[0]
    most = task.n_outputs or task.vocab_size
    logits = torch.zeros(*asked.shape, most)
    value = float(task.loss(logits, asked))
    require(value == value and abs(value) < 1e6, f"the loss of equal logits is {value}")
    drawn = torch.randn(*asked.shape, most, generator=torch.Generator().manual_seed(0))
    whole = task.totals(drawn, asked)
    half = len(asked) // 2
    if half:
        parts = [task.totals(drawn[:half], asked[:half]), task.totals(drawn[half:], asked[half:])]
        for name, total in whole.items():
            added = float(sum(part[name] for part in parts))
            near = abs(added - float(total)) <= 1e-6 * max(1.0, abs(float(total)))
            require(near, f"totals: {name} of halves is {added}, and {float(total)} of all")
    metrics = task.metrics({name: float(total) for name, total in whole.items()})
    name = task.primary.name.removeprefix(f"{task.primary.split}_")
    require(name in metrics, f"metrics have no {name}, by which runs are compared")
    bad = [key for key, each in metrics.items() if each != each]
    require(not bad, f"metrics: {', '.join(bad)} of random logits is no number")
    return f"loss of equal logits {value:.3f}; {', '.join(metrics)} of random ones are numbers"


def evaluated(task: Task, split: str) -> list[Any]:
    """All batches of a split."""
    loader: Any = task.val_dataloader() if split == "val" else task.test_dataloader()
    loaders = loader if isinstance(loader, list) else [loader]
    return [batch for each in loaders for batch in each]


def rows(inputs: Tensor, asked: Tensor) -> set[bytes]:
    """Each sample that has something to be told, as bytes."""
    there = (asked != IGNORED).any(1)
    return {torch.cat([x, y]).numpy().tobytes() for x, y in zip(inputs[there], asked[there], strict=True)}


def flat(inputs: Any, asked: Tensor) -> list[Tensor]:
    """The tensors of a batch, in order."""
    return [*(inputs.values() if isinstance(inputs, dict) else [inputs]), asked]


def same(one: Any, other: Any) -> bool:
    """Whether two batches are the same bit for bit."""
    return all(map(torch.equal, flat(*one[:2]), flat(*other[:2])))


def measures() -> Iterator[tuple[str, Any]]:
    """The checks of the axis beside those of its settings."""
    yield from {
        "serves": serves,
        "repeats": repeats,
        "splits": apart,
        "targets": targets,
        "judges": judges,
    }.items()
