"""How far a few steps of training move what the layers of a model give, at each width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablab.config import RunConfig
from ablab.model.draws import key_draws, seed_pass
from ablab.model.transformer import Transformer
from ablab.tasks.base import Batch, Inputs, Task
from ablab.training.build import BuiltRun
from ablab.training.optimizers.groups import build_optimizer

Moves = dict[str, float]  # what of a model -> how far training has moved what it gives


@dataclass(frozen=True)
class Cell:
    """One model, by its parametrisation, width and seed, and how far so many steps have moved what its layers give."""

    parametrisation: str
    width: int
    seed: int
    steps: int
    moves: Moves


def steps_of(built: BuiltRun, model: Transformer, batches: Sequence[Batch]) -> Iterator[float]:
    """Train a model as a run would, with as many batches for a step, and tell the loss before each step."""
    optimizer = build_optimizer(built.optimizer, model)
    schedule = built.schedule(optimizer)
    getattr(optimizer, "train", lambda: None)()
    key_draws(model)
    model.train()
    accumulate = built.config.trainer.accumulate_grad_batches
    for step in range(len(batches) // accumulate):
        model.resample(step)
        mean = 0.0
        for number, (inputs, targets) in enumerate(batches[step * accumulate : (step + 1) * accumulate]):
            seed_pass(built.config.seed, step, number)
            loss = built.task.loss(model(inputs, targets=targets), targets)
            mean += float(loss.detach()) / accumulate
            ((loss + model.penalty()) / accumulate).backward()
        yield mean
        if built.config.trainer.gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(model.parameters(), built.config.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.after_step()
    getattr(optimizer, "eval", lambda: None)()
    model.eval()


def moves(config: RunConfig, task: Task, steps: int) -> Moves:
    """How far the steps move what embedding, layers' parts, blocks and head give for a batch: root mean squares."""
    built = BuiltRun(config=config, task=task)
    model = built.build_model()
    count = steps * config.trainer.accumulate_grad_batches
    batches = [batch for batch, _ in zip(task.train_dataloader(), range(count), strict=False)]
    before = answers(model, batches[0][0])
    for _ in steps_of(built, model, batches):
        pass
    after = answers(model, batches[0][0])
    return {name: float((after[name] - before[name]).square().mean().sqrt()) for name in before}


@torch.no_grad()
def answers(model: Transformer, inputs: Inputs) -> dict[str, Tensor]:
    """What the parts of a model give for a batch, in evaluation."""
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            found[name] = output.float().clone()

        return module.register_forward_hook(hook)

    handles = [keep(name, module) for name, module in _watched(model)]
    training = model.training
    found["logits"] = model.eval()(inputs).float()
    model.train(training)
    for handle in handles:
        handle.remove()
    return found


def _watched(model: Transformer) -> Iterator[tuple[str, nn.Module]]:
    yield "embedding", model.embedding
    for layer, block in model.layers():
        yield f"layer_{layer} attention", block.attention_dropout
        yield f"layer_{layer} feed_forward", block.feed_forward_dropout
        yield f"layer_{layer} block", block


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The exponent e of the power law y = c x^e that fits points (x, y) best in logarithms."""
    known = [(math.log(x), math.log(y)) for x, y in points if y > 0]
    if len({x for x, _ in known}) < 2:
        return math.nan
    xs, ys = ([point[i] for point in known] for i in (0, 1))
    middle, level = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - middle) * (y - level) for x, y in known) / sum((x - middle) ** 2 for x in xs)
