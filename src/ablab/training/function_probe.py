"""What a model as a whole makes of a few samples before it is trained: its function, in a few numbers for the record.

Two variants with the same parameters have the same initial values, so that equal numbers mean an equal function: equal
logits, and an equal first step of training, with what acts in training alone. All is computed in double precision and
beside the run, whatever its device, precision and strategy are. Rounding is then far below what is told apart, and so
is what an optimizer that divides by a gradient's size makes of the rounding of gradients that are zero.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.draws import seed_pass
from ablab.model.initialisation import keyed_generator
from ablab.model.mechanism import NUMBERS
from ablab.model.transformer import Transformer
from ablab.results.record import FUNCTION
from ablab.training.build import BuiltRun
from ablab.training.cost import one_sample, without_trace
from ablab.training.optimizers.groups import build_optimizer

SAMPLES = 2
LITTLE = 1e10  # operations on numbers: seconds of one core
SHARE = 0.01  # of the run's own
DOUBLE = 2  # as long as the same in single precision
MOST_ON_GPU = 500_000_000  # parameters, whose gradients and moments are there, too
ROUNDING = 1e-9  # gradients this much smaller than most are zero
ROW = 1024  # numbers that share their directions

Named = Mapping[str, Tensor]


def function_responses(built: BuiltRun, model: Transformer, device: torch.device) -> dict[str, list[float]]:
    """For logits, gradients and the first update: the size, and random projections of all of it.

    Each is empty where computing it would take too long. `model` has its initial values, and stays as it is.
    """
    place = _place(built, sum(parameter.numel() for parameter in model.parameters()), device)
    if place is None:
        return {name: [] for name in FUNCTION}
    with without_trace(), _on_gpu(place) if place.type == "cuda" else contextlib.nullcontext():
        return dict(zip(FUNCTION, map(summary, _computed(built, _copy(built, model), place)), strict=True))


@contextlib.contextmanager
def _on_gpu(place: torch.device) -> Iterator[None]:
    """Within it work goes to that GPU; afterwards its memory is free, and not counted as the run's."""
    try:
        with torch.cuda.device(place):
            yield
    finally:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place)


def _place(built: BuiltRun, parameters: int, device: torch.device) -> torch.device | None:
    """Where it takes little of the time that the run takes, if anywhere."""
    task, trainer = built.task, built.config.trainer
    work = 8 * DOUBLE * parameters * task.seq_len * SAMPLES  # a pass, and another one forward and back
    samples = task.batch_size * trainer.accumulate_grad_batches * trainer.max_steps
    of_run = 6 * parameters * task.seq_len * samples if device.type == "cpu" else 0
    if work <= max(LITTLE, SHARE * of_run):
        return torch.device("cpu")
    return device if device.type == "cuda" and parameters <= MOST_ON_GPU else None


def _copy(built: BuiltRun, model: Transformer) -> Transformer:
    try:
        return copy.deepcopy(model)
    except Exception:  # of what somebody's component holds
        return built.build_model()


def _computed(built: BuiltRun, model: Transformer, device: torch.device) -> Iterable[Named]:
    """Logits of evaluation, gradients of a batch in training, and what the optimizer's step by them changes."""
    model = model.double().to(device)
    inputs, targets = move_data_to_device(one_sample(built.task, SAMPLES), device)
    with torch.no_grad():
        yield {"logits": model.eval()(inputs)}
    model.train()
    model.resample(0)
    seed_pass(built.config.seed, 0)
    (built.task.loss(model(inputs, targets=targets), targets) + model.penalty()).backward()
    parameters = dict(model.named_parameters())
    gradients = {name: each.grad for name, each in parameters.items() if each.grad is not None}
    yield gradients
    _leave_rounding_out(gradients)
    optimizer: Any = build_optimizer(built.optimizer, model)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    getattr(optimizer, "train", lambda: None)()
    optimizer.step()
    yield {name: before.pop(name).neg_().add_(parameter.detach()) for name, parameter in parameters.items()}


def _leave_rounding_out(gradients: Named) -> None:
    """Make zero what is zero but for rounding, which a rule that goes by signs would make as much of as of the rest."""
    size = sum(float(each.square().sum()) for each in gradients.values()) ** 0.5
    least = ROUNDING * size / max(1, sum(each.numel() for each in gradients.values())) ** 0.5
    for each in gradients.values():
        each.masked_fill_(each.abs() < least, 0)


@torch.no_grad()
def summary(named: Named) -> list[float]:
    """The size of all numbers together, and their projections onto random directions, which are as large."""
    size = sum(float(each.double().square().sum()) for each in named.values()) ** 0.5
    projections = torch.stack([_projected(name, each) for name, each in sorted(named.items())])
    return [size, *projections.sum(0).tolist()]


def _projected(name: str, x: Tensor) -> Tensor:
    """(NUMBERS,): a direction is the same for every row of `x`, times a number for the row, so that few are drawn."""
    width = min(ROW, max(1, x.numel()))
    rows = pad(x.double().flatten(), (0, -x.numel() % width)).view(-1, width)
    generator = keyed_generator("function", name)
    along, across = (
        torch.randn(size, NUMBERS, generator=generator, dtype=torch.float64) for size in (width, len(rows))
    )
    return ((rows @ along.to(x.device)) * across.to(x.device)).sum(0).cpu()
