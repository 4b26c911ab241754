"""Train eight comparisons at twelve layers, with and without what is to make pairing pay; one line of JSON a run.

    OMP_NUM_THREADS=1 python experiments/pairing/measure.py runs.jsonl 0 8 short    # eight seeds, 40 minutes

The models, data, initial values, optimizer and schedules are the program's own; the loop is written out here, since one
trunk serves many arms, and an average of the weights with several memories follows one training.
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
from ablab.training.build import BuiltRun
from ablab.training.optimizers.groups import build_optimizer

BASE = [
    *("model.d_model=32", "model.n_heads=2", "model.n_layers=12"),
    *("task.seq_len=64", "task.batch_size=8", "task.eval_tokens=8192"),
    *("optimizer.lr=3e-3", "trainer.max_steps=200"),
]
STEPS, FORK, EVALUATED = 200, 100, (25, 50, 100, 200)
MEMORIES = (0.95, 0.98)  # of averaged weights
ARMS = {  # each against the first; the kept studies compare the same
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
SCHEDULES = {"cosine": [], "linear": ["schedule=linear"]}  # down to a tenth, and to zero
FORKED = "linear"
SHORT_SEEDS = range(1000, 1024)  # of the baseline alone, and of a quarter of the steps: the means of covariates


class Training:
    """One model in training, with averages of its weights."""

    def __init__(self, arm: str, schedule: str, seed: int, trunk: Training | None = None) -> None:
        self.built = BuiltRun.of(compose_config([*BASE, *SCHEDULES[schedule], *ARMS[arm], f"seed={seed}"]))
        self.model, self.task = self.built.build_model(), self.built.task
        self.step = 0
        self.optimizer = build_optimizer(self.built.optimizer, self.model)
        if trunk is not None:
            take_over(trunk, self)
        if arm == "perturbed":
            with torch.no_grad():
                next(p for p in self.model.parameters() if p.dim() == 2).view(-1)[0] += 1e-7
        self.schedule = self.built.schedule(self.optimizer)
        for _ in range(self.step):
            self.optimizer._opt_called = True  # type: ignore[attr-defined]
            self.schedule.step()
        self.averages = {memory: self._weights() for memory in MEMORIES}

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def run(self, until: int) -> dict[int, float]:
        """Train to the step, and give the validation loss at those that are evaluated."""
        self.task.first_step = self.step
        losses, batches = {}, iter(self.task.train_dataloader())
        while self.step < until:
            inputs, targets = next(batches)
            self.model.train()
            self.model.resample(self.step)
            loss = self.task.loss(self.model(inputs, targets=targets), targets) + self.model.penalty()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.model.after_step()
            self.step += 1
            self._average()
            if self.step in EVALUATED:
                losses[self.step] = self.loss()
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        parameters = [*self.model.parameters()]
        for memory, average in self.averages.items():
            torch._foreach_lerp_([*average.values()], parameters, 1 - memory)

    @torch.no_grad()
    def loss(self, weights: dict[str, Tensor] | None = None) -> float:
        """The validation loss, of the weights as they are or of an average of them."""
        self.model.eval()
        model: Any = self.model
        if weights is not None:
            model = copy.deepcopy(self.model)
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        total, count = 0.0, 0
        for inputs, targets in self.task.val_dataloader():
            total += float(self.task.loss(model(inputs, targets=targets), targets)) * len(targets)
            count += len(targets)
        return total / count


@torch.no_grad()
def take_over(trunk: Training, own: Training) -> None:
    """Give a model the trunk's weights and moments, by name; what the trunk has not keeps its initial value."""
    theirs = dict(trunk.model.named_parameters())
    buffers = dict(trunk.model.named_buffers())
    for name, parameter in own.model.named_parameters():
        if name in theirs:
            parameter.copy_(theirs[name])
            own.optimizer.state[parameter] = copy.deepcopy(trunk.optimizer.state[theirs[name]])
    for name, buffer in own.model.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    own.step = trunk.step


def averaged(training: Training) -> dict[str, float]:
    return {str(memory): training.loss(weights) for memory, weights in training.averages.items()}


def lines(seed: int) -> Iterable[dict[str, Any]]:
    """All runs of a seed."""
    trunks: dict[str, Training] = {}
    for schedule in SCHEDULES:
        for arm in ARMS:
            training = Training(arm, schedule, seed)
            told = {"seed": seed, "schedule": schedule, "fork": 0, "arm": arm, "untrained": training.loss()}
            losses = training.run(FORK)
            if arm == "baseline" and schedule == FORKED:
                trunks[schedule] = copy.copy(training)
                trunks[schedule].model = copy.deepcopy(training.model)
                state = zip(trunks[schedule].model.parameters(), training.model.parameters(), strict=True)
                moments = {new: copy.deepcopy(training.optimizer.state[old]) for new, old in state}
                trunks[schedule].optimizer = copy.copy(training.optimizer)
                trunks[schedule].optimizer.state = moments  # type: ignore[assignment]
            losses |= training.run(STEPS)
            yield told | {"losses": losses, "averaged": averaged(training)}
    for schedule, trunk in trunks.items():
        for arm in list(ARMS)[1:]:
            training = Training(arm, schedule, seed, trunk)
            told = {"seed": seed, "schedule": schedule, "fork": FORK, "arm": arm, "untrained": training.loss()}
            yield told | {"losses": training.run(STEPS), "averaged": averaged(training)}


def main(path: str, first: str, beyond: str, short: str = "") -> None:
    """Seeds from `first` to before `beyond`; then, where `short` is anything, the short runs."""
    torch.set_num_threads(1)
    with Path(path).open("a", encoding="utf-8") as file:
        for seed in range(int(first), int(beyond)):
            for line in lines(seed):
                print(json.dumps(line), file=file, flush=True)
        for seed in SHORT_SEEDS if short else ():
            training = Training("baseline", "cosine", seed)
            told = {"seed": seed, "schedule": "cosine", "fork": 0, "arm": "short", "untrained": training.loss()}
            print(json.dumps(told | {"losses": training.run(50)}), file=file, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
