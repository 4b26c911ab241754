"""The trainer's settings, checked before a run: its precision, its devices, and what Lightning itself refuses."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Timer

from ablab.config import RunConfig
from ablab.errors import UserError, one_line
from ablab.tasks.base import Task
from ablab.training.build import build_strategy
from ablab.training.compile import check_compiler
from ablab.training.strategies.base import Parallel, parallel
from ablab.training.trainer import build_profiler, idle_trainer, leaves_out, trainer_settings
from ablab.training.world import launched


def check_trainer(config: RunConfig) -> Parallel:
    """Check what the axis `trainer` says, and the strategy with it, which is returned.

    Raises:
        UserError: with one line, if the run cannot be trained so on this machine.
    """
    target, settings = config.options["trainer"]["_target_"], trainer_settings(config)
    if target != "lightning.Trainer":
        raise UserError(f"trainer._target_={target}: only lightning.Trainer is used")
    config.trainer  # noqa: B018 (reading it is the check)
    build_profiler(settings.get("profiler"), Path("profile"))  # writes nothing before it is used
    strategy = build_strategy(config)
    _check_devices(config)
    _check_precision(config, parallel(strategy))
    _check_compile(config, parallel(strategy))
    try:
        trainer = idle_trainer(config, strategy)
    except Exception as error:  # of whatever an accelerator or a plugin needs
        raise UserError(f"trainer: {one_line(error)}") from error
    _check_time(trainer, settings.get("max_time"))
    return parallel(strategy)


def check_evaluations(config: RunConfig, task: Task) -> None:
    """Check how many batches are to be evaluated.

    Raises:
        UserError: so few that there is none, or none of a subset.
    """
    loaders = {"val": task.val_dataloader(), "test": task.test_dataloader() if task.primary.split == "test" else []}
    for split in ("val", "test"):
        name = f"limit_{split}_batches"
        limit = config.options["trainer"].get(name)
        share = isinstance(limit, float)
        found = loaders[split]
        for loader in found if isinstance(found, list) else [found]:
            batches = len(loader)
            if limit is not None and not (int(batches * limit) if share else limit) > 0:
                of = f"of {batches} batches none is left, and " if limit else ""
                raise UserError(f"trainer.{name}={limit}: {of}without an evaluation there is nothing to compare")
        subsets = len(task.subsets(split))
        if subsets > 1 and limit and leaves_out(limit):  # with 0 there is no test at all
            raise UserError(
                f"trainer.{name}={limit}: {config.chosen('task')} evaluates {subsets} subsets, one after another, and "
                "would end before the last: leave it out, and use task.eval_samples for fewer samples of each"
            )


def _check_time(trainer: Trainer, asked: object) -> None:
    """Raises UserError for a `trainer.max_time` of nothing, after which an untrained model would be a run's result."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, Timer) and callback.time_remaining() == 0 for callback in callbacks):
        raise UserError(f"trainer.max_time={asked}: leaves no time for a step: give DD:HH:MM:SS, or null for no limit")


def _check_precision(config: RunConfig, strategy: Parallel) -> None:
    precision, scaled = config.trainer.precision, ("16", "16-mixed", 16)
    if precision in scaled and strategy.takes_scaled and _on_cpu(config.trainer.accelerator):
        raise UserError(
            f"trainer.precision={precision}: a CPU has no float16 to mix with, and Lightning would take bfloat16 "
            "instead: use trainer.precision=bf16-mixed"
        )


def _check_compile(config: RunConfig, strategy: Parallel) -> None:
    asked = config.trainer.compile
    if not asked:
        return
    trainer, said = config.trainer, asked if isinstance(asked, str) else "true"
    try:
        strategy.check_compile(asked)
    except ValueError as error:
        raise UserError(f"{config.chosen('strategy')} does not work with trainer.compile={said}: {error}") from error
    check_compiler(asked, on_gpu=not _on_cpu(trainer.accelerator), batches=trainer.accumulate_grad_batches)


def _on_cpu(accelerator: str) -> bool:
    others = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not others)


def _check_devices(config: RunConfig) -> None:
    """Raises UserError for more GPUs than there are. On CPUs there are as many processes as one likes."""
    devices = config.options["trainer"].get("devices", 1)
    if type(devices) is not int or devices < 1:
        raise UserError(f"trainer.devices={devices}: must be a whole number, at least 1")
    wanted, accelerator = config.processes, config.trainer.accelerator
    there = torch.cuda.device_count()
    if accelerator not in ("auto", "gpu", "cuda") or not there or type(wanted) is not int or wanted <= there:
        return
    count = f"{there} GPUs" if there > 1 else "1 GPU"
    if (place := launched()) is not None and place.on_node == wanted:
        raise UserError(
            f"trainer.devices={wanted}: each process sees {count}, and must see all {wanted} of its node: "
            "with srun, leave out --gpus-per-task and --gpu-bind"
        )
    raise UserError(
        f"trainer.devices={wanted}: there {'are' if there > 1 else 'is'} {count}; choose fewer, or "
        "trainer.accelerator=cpu"
    )
