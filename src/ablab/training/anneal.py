"""Shorter runs on the way of a longer one, by one training (`schedule.anneal_at`).

With a schedule that is stable in its middle a run of T steps and a longer one are alike until the shorter one decays.
There the longer run leaves a checkpoint (a branch point), and goes on. When it has ended, each shorter run is decayed
from its branch point to its end and evaluated. What comes of it is to the last bit what a run of T steps by itself
comes to, with as many steps of warm-up and the same share of decay; it costs the steps of the decay.

Each has a folder of its own, which is removed when it is done: its branch point is its `last.ckpt`, and it writes its
own later checkpoints over that, so that one that was interrupted goes on as any run does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import SGD

from ablab.config import RunConfig
from ablab.config.identity import OBSERVER
from ablab.errors import Diverged
from ablab.results.evaluation import as_number, as_numbers
from ablab.results.record import Anneal, Record
from ablab.results.store import ANNEAL_FOLDER, CHECKPOINT_FOLDER, finite, parse_json, remove, write_atomically
from ablab.training.build import BuiltRun
from ablab.training.callback_group import build_callbacks
from ablab.training.callbacks import Heartbeat, LateLoss, ends_step, seed_everything_else
from ablab.training.checkpoint_files import OWN
from ablab.training.checkpoint_list import LAST, Origin, newest_whole
from ablab.training.schedules.decay import Branch, Branching
from ablab.training.strategies.base import parallel
from ablab.training.trainer import begin_and_end, build_module, build_trainer, evaluate
from ablab.training.watchers import Watchers
from ablab.training.world import world


def branches_of(built: BuiltRun) -> Sequence[Branch]:
    """The shorter runs that a run is to give on its way, in ascending order."""
    if not built.config.options["schedule"].get("anneal_at"):
        return ()
    schedule = built.schedule(SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    return schedule.branches if isinstance(schedule, Branching) else ()


class BranchPoints(Callback):
    """Leaves a checkpoint where the decay of each shorter run begins, behind the evaluation that is due there.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path, branches: Sequence[Branch]) -> None:
        self._at: dict[int, list[Path]] = {}
        for branch in branches:
            self._at.setdefault(branch.start, []).append(_folder_of(folder, branch) / CHECKPOINT_FOLDER / LAST)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if ends_step(trainer, batch_index) and (batch_index + 1) % int(trainer.val_check_batch or 1):
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        for path in self._at.get(trainer.global_step, ()):
            trainer.save_checkpoint(path, storage_options=OWN)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a shorter run, as its file has it until the record is written."""

    run: str  # the fingerprint of the longer one
    metrics: dict[str, float] | None  # None: it did not end well
    note: str = ""  # why
    steps: int = 0  # that it took
    time_s: float = 0.0


def anneal(
    built: BuiltRun,
    folder: Path,
    record: Record,
    stop: Callable[[], bool] = lambda: False,
    beat: Callable[[], None] | None = None,
) -> None:
    """Make the shorter runs of a run that has ended, those that are not made yet, and tell the record of all.

    Every process of the run calls it.

    Raises:
        Interrupted: the run was asked to stop, and goes on from here when it is resumed.
    """
    branches = branches_of(built)
    found = [(branch, _outcome(built, folder, record, branch, stop, beat)) for branch in branches]
    per_step, tokens = built.cost.flops_per_step if world().rank == 0 else None, _tokens_per_step(built)
    for branch, outcome in found:
        if outcome.metrics is None:
            record.notes.append(f"annealed after {branch.steps} steps: {outcome.note}")
    record.annealed = tuple(
        Anneal(
            step=branch.steps,
            tokens=branch.steps * tokens,
            flops=as_number(None if per_step is None else float(per_step * branch.steps)),
            metrics=outcome.metrics,
        )
        for branch, outcome in found
        if outcome.metrics is not None
    )
    if branches:
        _add_cost(record, [each for _, each in found])


def tidy(folder: Path, record: Record) -> None:
    """Remove what shorter runs have left once the record has all of it."""
    if record.status == "ok":
        remove(folder / CHECKPOINT_FOLDER / ANNEAL_FOLDER)


def _folder_of(folder: Path, branch: Branch) -> Path:
    return folder / CHECKPOINT_FOLDER / ANNEAL_FOLDER / f"steps={branch.steps}"


def _tokens_per_step(built: BuiltRun) -> int:
    return built.task.tokens_per_batch * built.config.trainer.accumulate_grad_batches


def _add_cost(record: Record, outcomes: Sequence[Outcome]) -> None:
    cost, seconds = record.cost, sum(outcome.time_s for outcome in outcomes)
    steps = sum(outcome.steps for outcome in outcomes)
    cost.annealing_steps, cost.annealing_time_s = steps, round(seconds, 3)
    cost.annealing_flops = None if cost.flops_per_step is None else float(cost.flops_per_step * steps)
    cost.wall_time_s = None if cost.wall_time_s is None else round(cost.wall_time_s + seconds, 3)


def _outcome(
    built: BuiltRun,
    folder: Path,
    record: Record,
    branch: Branch,
    stop: Callable[[], bool],
    beat: Callable[[], None] | None,
) -> Outcome:
    """What came of a shorter run, which is made now unless it has been before."""
    own = _folder_of(folder, branch)
    path = own.with_name(f"{own.name}.json")
    outcome = _read(path, record.fingerprint)
    if outcome is None:
        began = time.perf_counter()
        found = _made(built, own, record, branch, stop, beat)
        outcome = replace(found, time_s=time.perf_counter() - began)
        if world().rank == 0:
            write_atomically(path, json.dumps(finite(asdict(outcome))))
    if world().rank == 0:
        remove(own)
    return outcome


def _read(path: Path, run: str) -> Outcome | None:
    """What an earlier attempt at the run has found; None if it had not come so far."""
    try:
        data = parse_json(path.read_bytes())
        found = Outcome(**{**data, "metrics": data["metrics"] and as_numbers(data["metrics"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if found.run == run else None


def _made(
    built: BuiltRun,
    own: Path,
    record: Record,
    branch: Branch,
    stop: Callable[[], bool],
    beat: Callable[[], None] | None,
) -> Outcome:
    """Decay from the branch point, or from where an earlier attempt at that came to; from the start where neither is.

    Args:
        own: the folder of the shorter run.
    """
    config, task = config_of(built.config, branch), built.task
    origin = Origin(run=record.fingerprint, corpus=task.corpus.sha256)
    checkpoint, _ = newest_whole(own / CHECKPOINT_FOLDER, origin)
    if checkpoint is None and (record.cost.steps < branch.start or config.continue_from is not None):
        return Outcome(run=record.fingerprint, metrics=None, note="the run has no checkpoint of where it would decay")
    heart = [] if beat is None else [Heartbeat(beat)]
    theirs = build_callbacks(_acting(config), own)
    shorter = replace(built, config=config, counted=built.cost if world().rank == 0 else built.counted)
    trainer = build_trainer(shorter, own, [], [Watchers(LateLoss(), *heart), *theirs], origin, stop)
    seed_everything_else(config.seed, parallel(trainer.strategy).dp_rank(trainer.global_rank))
    module = build_module(shorter)
    task.first_step = 0
    metrics, note = None, ""
    try:
        trainer.fit(module, datamodule=task, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True)
        if checkpoint and checkpoint.step >= branch.steps:
            begin_and_end(trainer, module)
        if trainer.global_step == branch.steps:
            metrics = evaluate(trainer, module, task)
        else:
            note = f"stopped early, at step {trainer.global_step}"
    except Diverged as outcome:
        note = str(outcome)
    began = min(branch.start, checkpoint.step) if checkpoint else 0  # an earlier attempt's steps were its own, too
    return Outcome(run=record.fingerprint, metrics=metrics, note=note, steps=trainer.global_step - began)


def config_of(config: RunConfig, branch: Branch) -> RunConfig:
    """The config of the shorter run by itself."""
    schedule = {f"schedule.{name}": value for name, value in branch.settings.items()}
    return config.with_values({"trainer.max_steps": branch.steps, "trainer.profiler": None, **schedule})


def _acting(config: RunConfig) -> dict[str, Any]:
    """The callbacks of a run without those that only watch it: nobody looks at their curves here."""
    nodes = config.options["callbacks"]
    return {name: node for name, node in nodes.items() if node.get(OBSERVER) is not True}
