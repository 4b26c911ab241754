"""What the harness costs: the same training in a bare PyTorch loop beside it.

Both train the same model on the same batches with the same optimizer, schedule and clipping, in one process, in
turn: a block of steps by Lightning with logging, checkpoints and progress on, then the same block by the bare loop.
At the end both must have the same weights to the last bit, or the figures are refused.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from ablab.config import conf_folder, freeze, register_schema
from ablab.config.explain import ConfigErrors, explain
from ablab.errors import UserError
from ablab.study.preflight import Preflight
from ablab.tasks.base import Task
from ablab.training.build import build_model, build_task
from ablab.training.callbacks import Mechanisms
from ablab.training.cost import CostMeter
from ablab.training.loggers import build_loggers, close_loggers
from ablab.training.module import TrainingModule
from ablab.training.optimizers import build_optimizer
from ablab.training.trainer import build_trainer, quiet_lightning


def bench_loop(overrides: list[str], steps: int, rounds: int, output: Path | None) -> str:
    """Run the comparison and describe it.

    Args:
        overrides: of the config, as for a run.
        steps: in a block.
        rounds: blocks of each, after one of warm-up that is not counted.
        output: a JSON file for the figures, or None.

    Raises:
        UserError: the config cannot work, or a number is out of range.
    """
    if steps < 1 or rounds < 1:
        raise UserError(f"--steps {steps} --rounds {rounds}: both must be at least 1")
    total = steps * (rounds + 1)
    fixed = [f"trainer.max_steps={total}", f"trainer.val_check_interval={steps}", "strategy=single"]
    config = _compose([*overrides, *fixed])
    Preflight().check(config)
    with tempfile.TemporaryDirectory() as folder:
        blocks = _measure(config, Path(folder), steps)
    figures = _figures(blocks[1:], config, steps)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return (
        f"bare loop  {figures['bare_step_ms']:.2f} ms a step, {figures['bare_tokens_per_second']:,.0f} tokens/s\n"
        f"harness    {figures['harness_step_ms']:.2f} ms a step, {figures['harness_tokens_per_second']:,.0f} tokens/s\n"
        f"harness / bare loop, tokens per second: {figures['ratio']:.3f} "
        f"({figures['ratio_min']:.3f} to {figures['ratio_max']:.3f} over {rounds} rounds of {steps} steps, median)"
    )


class BareLoop:
    """Training without a harness: what one would write by hand."""

    def __init__(self, config: dict[str, Any], task: Task) -> None:
        self.model = build_model(config, task)
        self.optimizer = build_optimizer(instantiate(config["optimizer"]), self.model)
        self.schedule = instantiate(config["schedule"])(self.optimizer)
        self.clip = config["trainer"]["gradient_clip_val"]
        self.task = task
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(task.train_dataloader())

    def train(self, steps: int) -> None:
        for _ in range(steps):
            inputs, targets = next(self.batches)
            loss = self.task.loss(self.model(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.schedule.step()


class _TakeTurns(Callback):
    """Stops the harness's clock after each block, and lets the bare loop train the same block.

    The clock stands still during evaluation, which the bare loop does not do; it runs while checkpoints are written.
    """

    def __init__(self, bare: BareLoop, steps: int) -> None:
        self.blocks: list[tuple[float, float]] = []  # seconds of the harness, of the bare loop
        self._bare, self._steps = bare, steps
        self._harness_s = 0.0
        self._since = 0.0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        if index % self._steps == 0:
            self._turn(index)
            self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._harness_s += time.perf_counter() - self._since

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._turn(trainer.global_step)

    def _turn(self, steps_done: int) -> None:
        if steps_done:
            self._harness_s += time.perf_counter() - self._since
            started = time.perf_counter()
            self._bare.train(self._steps)
            self.blocks.append((self._harness_s, time.perf_counter() - started))
            self._harness_s = 0.0


def _measure(config: dict[str, Any], folder: Path, steps: int) -> list[tuple[float, float]]:
    task = build_task(config)
    bare = BareLoop(config, task)
    turns = _TakeTurns(bare, steps)
    module = TrainingModule(
        build_model(config, task), task, instantiate(config["optimizer"]), instantiate(config["schedule"])
    )
    loggers = build_loggers(config["logger"], folder, study="bench", variant="", seed=config["seed"], config=config)
    callbacks = [CostMeter(task.tokens_per_batch), Mechanisms(), turns]
    with quiet_lightning():
        trainer = build_trainer(config, folder, task, loggers, callbacks, progress_bar=True)
        trainer.fit(module, datamodule=task)
    close_loggers(loggers, "ok")
    for (name, ours), theirs in zip(module.model.named_parameters(), bare.model.parameters(), strict=True):
        if not torch.equal(ours, theirs):
            raise UserError(f"the two loops did not do the same work: {name} differs; use a config without dropout")
    return turns.blocks


def _figures(blocks: list[tuple[float, float]], config: dict[str, Any], steps: int) -> dict[str, Any]:
    tokens = config["task"]["batch_size"] * config["task"]["seq_len"] * steps
    ratios = [bare / harness for harness, bare in blocks]
    harness, bare = (statistics.median(block[i] for block in blocks) for i in (0, 1))
    return {
        "harness_step_ms": harness / steps * 1e3,
        "bare_step_ms": bare / steps * 1e3,
        "harness_tokens_per_second": tokens / harness,
        "bare_tokens_per_second": tokens / bare,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": len(blocks),
        "steps": steps,
        "threads": torch.get_num_threads(),
    }


def _compose(overrides: list[str]) -> dict[str, Any]:
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
