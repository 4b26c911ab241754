"""What the harness costs: the same training in a bare PyTorch loop and under plain Lightning beside it.

All three train the same model on the same batches with the same optimizer, schedule and clipping, in one process, in
turn: some steps by the harness with logging, checkpoints and progress on, then the same steps by a LightningModule as
anybody would write it, with TensorBoardLogger and ModelCheckpoint at the same cadence, then by the bare loop. At last
all must have the same weights to the last bit, or the figures are refused.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf, open_dict

from ablab.bench.output import check_output
from ablab.bench.runners import BareLoop, LightningRunner, PlainModule
from ablab.config import RunConfig, conf_folder, register_schema, resolve
from ablab.config.explain import ConfigErrors, explain
from ablab.errors import Diverged, UserError
from ablab.results.record import Status
from ablab.study.job import run_bar
from ablab.study.planning.preflight import Preflight
from ablab.training.build import BuiltRun, build_task
from ablab.training.callbacks import Progress
from ablab.training.checkpoint_list import Origin
from ablab.training.loggers import build_loggers, close_loggers
from ablab.training.trainer import build_module, build_trainer, quiet_lightning
from ablab.training.watching import watching

_PARTS = 10  # of all rounds, over which the spread is


def bench_loop(overrides: list[str], steps: int, rounds: int, output: Path | None) -> str:
    """Run the comparison and describe it.

    Args:
        overrides: of the config, as for a run.
        steps: of each runner in a round.
        rounds: after one of warm-up that is not counted.
        output: a JSON file for the figures, or None.

    Raises:
        UserError: the config cannot work, a number is out of range, the training diverges, or the runners did not do
            the same work, as with dropout, which each draws for itself.
    """
    if steps < 1 or rounds < 1:
        raise UserError(f"--steps {steps} --rounds {rounds}: both must be at least 1")
    total = steps * (rounds + 1)
    config = compose_config([*overrides, f"trainer.max_steps={total}"])
    check_output(output)
    if config.options["callbacks"]:
        raise UserError(f"callbacks.{next(iter(config.options['callbacks']))}: bench loop has none; leave it out")
    if config.world_size != 1:
        raise UserError(
            f"{config.chosen('strategy')}: bench loop measures one process; ablab bench strategies compares several"
        )
    if config.trainer.compile:
        raise UserError("trainer.compile: bench loop compares loops as they are written; leave it out")
    if config.trainer.precision not in (None, 32, "32", "32-true"):
        raise UserError(
            f"trainer.precision={config.trainer.precision}: bench loop compares loops in single precision; leave it out"
        )
    Preflight().check(config)
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokens_per_batch, measured = _measure(config, Path(folder), steps, rounds + 1)
        except Diverged as end:
            raise UserError(f"the training diverged ({end}): lower optimizer.lr, or take fewer --steps") from end
    figures = _figures(measured[1:], config, tokens_per_batch)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"{said:<15} {figures[f'{name}_step_ms']:.2f} ms a step, {figures[f'{name}_tokens_per_second']:,.0f} tokens/s"
        for name, said in (("bare", "bare loop"), ("plain", "plain Lightning"), ("harness", "harness"))
    ]
    parts = "tenths" if figures["parts"] == _PARTS else f"{figures['parts']} parts"
    for key, other in (("ratio", "bare loop"), ("ratio_plain", "plain Lightning")):
        lines.append(
            f"harness / {other}, tokens per second: {figures[key]:.3f} ({figures[f'{key}_min']:.3f} to "
            f"{figures[f'{key}_max']:.3f} over {parts} of {figures['steps']} steps)"
        )
    return "\n".join(lines)


class Round(NamedTuple):
    """The same steps, by each of the runners."""

    steps: int
    harness_s: float
    plain_s: float
    bare_s: float


def _harness(config: RunConfig, folder: Path, report: Progress) -> tuple[LightningRunner, torch.device]:
    """A run as any other, and the device that it is on."""
    built = BuiltRun.of(config)
    task = built.task
    module = build_module(built)
    runner = LightningRunner(module.model)
    loggers = build_loggers(
        config.options["logger"], folder, study="bench", variant="", seed=config.seed, config=config.shown()
    )
    watched = watching(built, folder, report, beat=lambda: None)  # a supervised run's heart beats, too
    callbacks = [*watched.callbacks, runner]
    trainer = build_trainer(built, folder, loggers, callbacks, Origin(run="bench", corpus=task.corpus.sha256))

    def fit() -> None:
        status: Status = "failed"
        try:
            trainer.fit(module, datamodule=task)
            status = "ok"
        finally:
            close_loggers(loggers, status)

    runner.fit = fit
    return runner, trainer.strategy.root_device


def _plain(config: RunConfig, folder: Path) -> LightningRunner:
    """The same by Lightning alone."""
    task, settings = build_task(config), config.options["trainer"]
    module = PlainModule(config, task)
    runner = LightningRunner(module.model)
    same = ("accelerator", "precision", "deterministic", "max_steps", "log_every_n_steps", "gradient_clip_val")
    trainer = Trainer(
        **{name: settings[name] for name in (*same, "accumulate_grad_batches")},
        devices=1,
        max_epochs=-1,
        val_check_interval=settings["val_check_interval"] * settings["accumulate_grad_batches"],
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", monitor="val_loss", save_last=True, save_on_train_epoch_end=False),
            runner,
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    runner.fit = lambda: trainer.fit(module, datamodule=task)
    return runner


def _measure(config: RunConfig, folder: Path, steps: int, rounds: int) -> tuple[int, list[Round]]:
    """Tokens in a batch, and the rounds."""
    task = build_task(config)
    with quiet_lightning(), run_bar("bench loop") as report:
        harness, device = _harness(config, folder / "harness", report)
        plain, bare = _plain(config, folder / "plain"), BareLoop(config, task, device)
        measured = [Round(steps, *(each.train(steps) for each in (harness, plain, bare))) for _ in range(rounds)]
        for each in (harness, plain):
            each.end()
    for (name, its), *others in zip(
        bare.model.named_parameters(), harness.model.parameters(), plain.model.parameters(), strict=True
    ):
        if not all(torch.equal(its.cpu(), other.cpu()) for other in others):
            raise UserError(
                f"the loops did not do the same work: {name} differs; leave out what each draws for "
                "itself (dropout), or does beside its steps"
            )
    return task.tokens_per_batch, measured


def _figures(rounds: list[Round], config: RunConfig, tokens_per_batch: int) -> dict[str, Any]:
    """Totals over all rounds, so that what happens seldom (a checkpoint) counts; the spread is over up to ten parts."""
    tokens = config.trainer.accumulate_grad_batches * tokens_per_batch  # in a step
    steps = sum(each.steps for each in rounds)
    count = min(_PARTS, len(rounds))
    bounds = [round(each * len(rounds) / count) for each in range(count + 1)]
    parts = [rounds[start:end] for start, end in itertools.pairwise(bounds)]
    figures: dict[str, Any] = {}
    for name in ("harness", "plain", "bare"):
        seconds = _seconds(rounds, name) / steps
        figures |= {f"{name}_step_ms": seconds * 1e3, f"{name}_tokens_per_second": tokens / seconds}
    for key, other in (("ratio", "bare"), ("ratio_plain", "plain")):
        ratios = [_seconds(part, other) / _seconds(part, "harness") for part in parts]
        whole = _seconds(rounds, other) / _seconds(rounds, "harness")
        figures |= {key: whole, f"{key}_min": min(ratios), f"{key}_max": max(ratios)}
    return figures | {
        "rounds": len(rounds),
        "parts": len(parts),
        "steps": steps,
        "threads": torch.get_num_threads(),
    }


def _seconds(rounds: list[Round], name: str) -> float:
    return sum(float(getattr(each, f"{name}_s")) for each in rounds)


def compose_config(overrides: list[str]) -> RunConfig:
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
    return resolve(config, choices, overrides)
