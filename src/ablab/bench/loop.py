"""What the harness costs: the same training in a bare PyTorch loop beside it.

Both train the same model on the same batches with the same optimizer, schedule and clipping, in one process, in
turn: a block of steps by Lightning with logging, checkpoints and progress on, then the same block by the bare loop.
At the end both must have the same weights to the last bit, or the figures are refused.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.apply_func import move_data_to_device
from omegaconf import OmegaConf, open_dict
from torch import nn

from ablab.config import conf_folder, freeze, register_schema
from ablab.config.explain import ConfigErrors, explain
from ablab.errors import UserError
from ablab.study.planning.preflight import Preflight
from ablab.study.progress import run_bar
from ablab.tasks.base import Batch, Task
from ablab.training.build import build_model, build_task
from ablab.training.callbacks import Mechanisms, ReportProgress
from ablab.training.checkpoint_files import Origin
from ablab.training.cost import CostMeter
from ablab.training.loggers import build_loggers, close_loggers
from ablab.training.module import has_penalties
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.trainer import build_module, build_trainer, quiet_lightning


def bench_loop(overrides: list[str], steps: int, rounds: int, output: Path | None) -> str:
    """Run the comparison and describe it.

    Args:
        overrides: of the config, as for a run.
        steps: in a block.
        rounds: blocks of each, after one of warm-up that is not counted.
        output: a JSON file for the figures, or None.

    Raises:
        UserError: the config cannot work, a number is out of range, or the two loops did not do the same work, as
            with dropout, which each draws for itself.
    """
    if steps < 1 or rounds < 1:
        raise UserError(f"--steps {steps} --rounds {rounds}: both must be at least 1")
    total = steps * (rounds + 1)
    config = compose_config([*overrides, f"trainer.max_steps={total}", "strategy=single"])
    Preflight().check(config)
    if output is not None and not output.parent.is_dir():
        raise UserError(f"--json {output}: no such folder")
    with tempfile.TemporaryDirectory() as folder:
        tokens_per_batch, measured = _measure(config, Path(folder), steps)
    figures = _figures(measured[1:], config, tokens_per_batch)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return (
        f"bare loop  {figures['bare_step_ms']:.2f} ms a step, {figures['bare_tokens_per_second']:,.0f} tokens/s\n"
        f"harness    {figures['harness_step_ms']:.2f} ms a step, {figures['harness_tokens_per_second']:,.0f} tokens/s\n"
        f"harness / bare loop, tokens per second: {figures['ratio']:.3f} "
        f"({figures['ratio_min']:.3f} to {figures['ratio_max']:.3f} over tenths of {figures['steps']} steps)"
    )


class Round(NamedTuple):
    """The same steps, by the harness and by the bare loop."""

    steps: int
    harness_s: float
    bare_s: float


class BareLoop:
    """Training without a harness: what one would write by hand."""

    def __init__(self, config: dict[str, Any], task: Task, device: torch.device) -> None:
        self.device = device
        self.model = build_model(config, task).to(device)
        self.optimizer = build_optimizer(instantiate(config["optimizer"], _convert_="all"), self.model)
        getattr(self.optimizer, "train", lambda: None)()
        self.schedule = instantiate(config["schedule"], _convert_="all")(self.optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.clip = config["trainer"]["gradient_clip_val"]
        self.accumulate = config["trainer"]["accumulate_grad_batches"]
        self.penalised = has_penalties(self.model)
        self.steps = 0
        self.task = task
        self.batches: Iterator[Batch] = iter(task.train_dataloader())

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.model.resample(self.steps)
            for _ in range(self.accumulate):
                inputs, targets = move_data_to_device(next(self.batches), self.device)
                loss = self.task.loss(self.model(inputs), targets)
                if self.penalised:
                    loss = loss + self.model.penalty()
                (loss / self.accumulate).backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.steps += 1


class _TakeTurns(Callback):
    """Stops the harness's clock after each round, and lets the bare loop train as many steps.

    The clock stands still during evaluation, which the bare loop does not do; it runs while checkpoints are written.
    """

    bare: BareLoop

    def __init__(self, steps: int) -> None:
        self.rounds: list[Round] = []
        self._steps = steps
        self._done = 0
        self._harness_s = 0.0
        self._since = 0.0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        if index == 0:
            self._since = self._now()
        elif index % trainer.accumulate_grad_batches == 0 and trainer.global_step - self._done >= self._steps:
            self._turn(trainer.global_step - self._done)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._harness_s += self._now() - self._since

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._since = self._now()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._turn(trainer.global_step - self._done)

    def _turn(self, steps: int) -> None:
        self._harness_s += self._now() - self._since
        started = self._now()
        self.bare.train(steps)
        self.rounds.append(Round(steps, self._harness_s, self._now() - started))
        self._done += steps
        self._harness_s = 0.0
        self._since = self._now()

    def _now(self) -> float:
        """Seconds, once the device has done what it was asked to."""
        if self.bare.device.type == "cuda":
            torch.cuda.synchronize(self.bare.device)
        return time.perf_counter()


def _measure(config: dict[str, Any], folder: Path, steps: int) -> tuple[int, list[Round]]:
    """Tokens in a batch, and the rounds."""
    task = build_task(config)
    turns = _TakeTurns(steps)
    module = build_module(config, task)
    loggers = build_loggers(config["logger"], folder, study="bench", variant="", seed=config["seed"], config=config)
    with quiet_lightning(), run_bar("bench loop") as report:
        watching = [
            CostMeter(task.tokens_per_batch * config["trainer"]["accumulate_grad_batches"]),
            Mechanisms(),
            ReportProgress(report, task.primary),
            turns,
        ]
        trainer = build_trainer(config, folder, task, loggers, watching, Origin(run="bench", corpus=task.corpus.sha256))
        turns.bare = bare = BareLoop(config, task, trainer.strategy.root_device)
        trainer.fit(module, datamodule=task)
    close_loggers(loggers, "ok")
    for (name, ours), theirs in zip(module.model.named_parameters(), bare.model.parameters(), strict=True):
        if not torch.equal(ours.cpu(), theirs.cpu()):
            raise UserError(f"the two loops did not do the same work: {name} differs; use a config without dropout")
    return task.tokens_per_batch, turns.rounds


def _figures(rounds: list[Round], config: dict[str, Any], tokens_per_batch: int) -> dict[str, Any]:
    """Totals over all rounds, so that what happens seldom (a checkpoint) counts; the spread is over tenths of them."""
    batches = config["trainer"]["accumulate_grad_batches"]  # in a step
    tokens = batches * tokens_per_batch
    steps = sum(each.steps for each in rounds)
    harness, bare = sum(each.harness_s for each in rounds) / steps, sum(each.bare_s for each in rounds) / steps
    tenth = max(1, len(rounds) // 10)
    parts = [rounds[start : start + tenth] for start in range(0, len(rounds) - tenth + 1, tenth)]
    ratios = [sum(each.bare_s for each in part) / sum(each.harness_s for each in part) for part in parts]
    return {
        "harness_step_ms": harness * 1e3,
        "bare_step_ms": bare * 1e3,
        "harness_tokens_per_second": tokens / harness,
        "bare_tokens_per_second": tokens / bare,
        "ratio": bare / harness,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": len(rounds),
        "steps": steps,
        "threads": torch.get_num_threads(),
    }


def compose_config(overrides: list[str]) -> dict[str, Any]:
    register_schema()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("config", overrides, return_hydra_config=True)
    except ConfigErrors as error:
        raise UserError(explain(error)) from error
    HydraConfig.instance().set_config(config)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return freeze(config, choices, overrides)
