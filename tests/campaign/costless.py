"""Runs of a campaign that cost nothing: their losses are functions of what is proposed and of the seed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ablab.campaign import judge as _judge_function
from ablab.campaign import read_campaign
from ablab.config import fingerprint
from ablab.results.campaign import JudgedRun
from ablab.results.record import Cause, Cost, Metric, Record
from ablab.results.store import write_record
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.preflight import Preflight
from ablab.training.begin import new_record

BASELINE = (
    *("task=sorting", "task.seq_len=8", "task.symbols=4", "task.batch_size=4", "task.eval_samples=8", "logger=csv"),
    *("model.d_model=16", "model.n_heads=2", "model.n_layers=1", "trainer.accelerator=cpu"),
    *("trainer.max_steps=2", "trainer.val_check_interval=2"),
)
MODULE = sys.modules[_judge_function.__module__]
Loss = Callable[[str, int], float]
CHECKED = Preflight()
GOOD = "optimizer.lr=0.5"


class Runs:
    """Trains nothing: the loss of a run is a function of its label and its seed."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.made, self.stop_after = loss, 0, 10**9
        self.failing: dict[str, Cause] = {}  # by the label of a run

    def __call__(self, runs: Sequence[PlannedRun]) -> list[Record]:
        return [self._one(run) for run in runs]

    def _one(self, run: PlannedRun) -> Record:
        if self.made >= self.stop_after:
            raise KeyboardInterrupt
        self.made += 1
        if cause := self.failing.get(run.info.variant):
            record = new_record(run.config, run.context)
            record.cause, record.reason = cause, f"its end was {cause}"
            return record
        loss = self.loss(run.info.variant, run.info.seed)
        diverged = loss != loss
        record = Record(
            status="diverged" if diverged else "ok",
            reason="val_loss became nan at step 1" if diverged else None,
            fingerprint=fingerprint(run.config),
            study="campaign",
            variant=run.info.variant,
            seed=run.info.seed,
            axes=run.config.axes,
            config=run.config.shown(),
            primary=Metric(name="val_loss", direction="min", split="val"),
            metrics={} if diverged else {"val_loss": loss},
            cost=Cost(parameters=100, flops_total=150 if GOOD in run.info.variant else 100),
        )
        run.folder.mkdir(parents=True)
        write_record(run.folder, record)
        return record


def noisy(variant: str, seed: int) -> float:
    """The loss of a run; a paired difference has a standard deviation of .01, and `GOOD` is better by 3 of them."""
    noise = random.Random(f"{variant} {seed}").gauss(0, 0.007)
    return 2.0 + 0.1 * random.Random(seed).random() + noise - (0.03 if GOOD in variant else 0.0)


def null(number: int) -> str:
    return f"optimizer.weight_decay=0.{number:03d}"


def written(folder: Path) -> list[JudgedRun]:
    campaign = read_campaign(folder)
    return [run for runs in (*campaign.baseline_runs, *(each.runs for each in campaign.proposals)) for run in runs]
