"""Train eight comparisons at twelve layers, with and without what is to make pairing pay; one line of JSON a run.

    OMP_NUM_THREADS=1 python experiments/pairing/measure.py runs.jsonl 0 8 short    # eight seeds

The models, data, initial values and optimizer are the program's own. The loop is written out here, since one course at
a constant rate serves three ends: it goes on so, with and without an average of its weights, or down to zero.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablab.bench.loop import compose_config
from ablab.model.placebo import nudge
from ablab.training.build import BuiltRun
from ablab.training.optimizers.groups import build_optimizer

RATE = 3e-3
WARMUP, SHORT, FORK, DECAY, STEPS = 10, 50, 60, 110, 150  # steps until each has ended, or begins
BASE = [
    *("model.d_model=32", "model.n_heads=2", "model.n_layers=12", f"optimizer.lr={RATE}"),
    *("task.seq_len=64", "task.batch_size=4", "task.eval_tokens=8192"),
]
MEMORY = 0.95  # of averaged weights
ARMS = {  # each against the first; most of them are compared in the kept studies, too
    "baseline": [],
    "perturbed": [],  # the baseline with one number 1e-7 off
    "dynamic_sparse": ["activation=dynamic_sparse"],
    "gelu": ["activation=gelu"],
    "mean": ["layer_fusion=mean"],
    "static": ["layer_fusion=static"],
    "adaptive": ["layer_fusion=adaptive"],
    "windowed": ["attention=windowed", "attention.window=16"],
    "dynamic": ["attention=dynamic"],
    "rms": ["norm=rms"],
}
SHORT_SEEDS = range(1000, 1024)  # of the baseline alone, and of few steps: the means of covariates


class Training:
    """One model in training, with an average of its weights."""

    def __init__(self, arm: str, seed: int, trunk: Training | None = None) -> None:
        built = BuiltRun.of(compose_config([*BASE, *ARMS[arm], f"seed={seed}"]))
        self.model, self.task, self.step = built.build_model(), built.task, 0
        self.factory = built.optimizer
        self.optimizer = build_optimizer(self.factory, self.model)
        if trunk is not None:
            self.take_over(trunk)
        if arm == "perturbed":
            nudge(self.model)
        self.average = [p.detach().clone() for p in self.model.parameters()]

    def copy(self) -> Training:
        """The same as it stands, to go on by itself."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        twin.optimizer = build_optimizer(self.factory, twin.model)
        twin.take_over(self)
        twin.average = [each.clone() for each in self.average]
        return twin

    @torch.no_grad()
    def take_over(self, trunk: Training) -> None:
        """Take the trunk's weights and moments, by name; what the trunk has not keeps its initial value."""
        theirs, buffers = dict(trunk.model.named_parameters()), dict(trunk.model.named_buffers())
        for name, parameter in self.model.named_parameters():
            if name in theirs:
                parameter.copy_(theirs[name])
                self.optimizer.state[parameter] = copy.deepcopy(trunk.optimizer.state[theirs[name]])
        for name, buffer in self.model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
        self.step = trunk.step

    def run(self, until: int, decaying: bool = False) -> Training:
        """Train to the step, at the constant rate or on the way down to zero."""
        self.task.first_step = self.step
        batches = iter(self.task.train_dataloader())
        while self.step < until:
            inputs, targets = next(batches)
            rate = RATE * min((self.step + 1) / WARMUP, (STEPS - self.step) / (STEPS - DECAY) if decaying else 1)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.model.train()
            self.model.resample(self.step)
            loss = self.task.loss(self.model(inputs, targets=targets), targets) + self.model.penalty()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.model.after_step()
            self.step += 1
            with torch.no_grad():
                torch._foreach_lerp_(self.average, [*self.model.parameters()], 1 - MEMORY)
        return self

    @torch.no_grad()
    def loss(self, averaged: bool = False) -> float:
        """The validation loss, of the weights as they are or of their average."""
        model: Any = copy.deepcopy(self.model)
        if averaged:
            for parameter, value in zip(model.parameters(), self.average, strict=True):
                parameter.copy_(value)
        model.eval()
        losses: list[tuple[Tensor, int]] = []
        for inputs, targets in self.task.val_dataloader():
            losses.append((self.task.loss(model(inputs, targets=targets), targets), len(targets)))
        return sum(float(loss) * count for loss, count in losses) / sum(count for _, count in losses)


def ends(training: Training) -> dict[str, float]:
    """Validation losses at the end: at the constant rate, of the average there, after a decay, of the average there."""
    decayed = training.copy().run(STEPS, decaying=True)
    training.run(STEPS)
    return {
        "none": training.loss(),
        "averaged": training.loss(averaged=True),
        "decay": decayed.loss(),
        "decay, averaged": decayed.loss(averaged=True),
    }


def lines(seed: int) -> Iterable[dict[str, Any]]:
    """All runs of a seed."""
    trunk: Training | None = None
    for arm in ARMS:
        training = Training(arm, seed)
        line = {"seed": seed, "arm": arm, "untrained": training.loss(), "short": training.run(SHORT).loss()}
        training.run(FORK)
        trunk = trunk or training.copy()
        yield line | ends(training.run(DECAY))
    assert trunk is not None
    for arm in list(ARMS)[1:]:
        training = Training(arm, seed, trunk)
        line = {"seed": seed, "arm": arm, "inserted": training.loss() - trunk.loss()}
        decayed = training.run(DECAY).run(STEPS, decaying=True)
        yield line | {"fork, decay": decayed.loss(), "fork, decay, averaged": decayed.loss(averaged=True)}


def main(path: str, first: str, beyond: str, short: str = "") -> None:
    """Seeds from `first` to before `beyond`; then, where `short` is anything, the short runs."""
    torch.set_num_threads(1)
    with Path(path).open("a", encoding="utf-8") as file:
        for seed in range(int(first), int(beyond)):
            for line in lines(seed):
                print(json.dumps(line), file=file, flush=True)
        for seed in SHORT_SEEDS if short else ():
            training = Training("baseline", seed)
            line = {"seed": seed, "arm": "short", "untrained": training.loss(), "short": training.run(SHORT).loss()}
            print(json.dumps(line), file=file, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
