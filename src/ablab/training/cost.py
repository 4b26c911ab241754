"""What a run costs: parameters and FLOPs by counting, time and memory by measuring."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import StateDict
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ablab.model.attention.dense import computed_once
from ablab.model.protocols import PartlyActive, offering
from ablab.model.transformer import Transformer
from ablab.results.record import Cost
from ablab.tasks.base import Batch, Task
from ablab.training.checkpoints import generators, set_generators
from ablab.training.dispatcher import every_operator
from ablab.training.peak_memory import forget_peak_memory, peak_memory


def count_parameters(model: nn.Module) -> int:
    """Trainable scalars; a tied one counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_active_parameters(model: nn.Module) -> int:
    """Trainable scalars without those of experts that a token does not go to."""
    return count_parameters(model) - sum(part.inactive_parameters for _, part in offering(model, PartlyActive))


def count_body_parameters(model: Transformer) -> int:
    """Active parameters without those of embeddings, positions and the head."""
    ends = {id(each) for part in (model.embedding, model.position, model.head) for each in part.parameters()}
    return count_active_parameters(model) - sum(each.numel() for each in model.parameters() if id(each) in ends)


def count_flops(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], example: Batch) -> tuple[int, list[str]]:
    """FLOPs of forward and backward for one sample, penalties included, and the operators that could not be counted.

    A multiplication and an addition are two. Matrix products, convolutions and attention are counted; of the rest,
    what is neither element by element nor a mere view is named. What attention computes again in the backward pass to
    save memory counts once.

    Args:
        model: best on the meta device, which computes nothing and where, unlike on the CPU, the count includes
            `scaled_dot_product_attention` of every kind.
        example: inputs and targets of one sample.
    """
    inputs, targets = move_data_to_device(example, next(model.parameters()).device)
    seen: set[Any] = set()
    with computed_once(), FlopCounterMode(display=False) as counter, every_operator(seen.add) as all_seen:
        _asked_of(model, loss, inputs, targets).backward()
    uncounted = {operator.overloadpacket.__name__ for operator in seen if _is_uncounted(operator)}
    return counter.get_total_flops(), sorted(uncounted - _MOVES_DATA_ONLY) if all_seen else [_NOT_SEEN]


def _asked_of(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inputs: Any, targets: Tensor) -> Tensor:
    """What training minimises of one batch."""
    if not isinstance(model, Transformer):
        return loss(model(inputs), targets)
    asked = loss(model(inputs, targets=targets), targets)
    return asked + model.penalty() if model.training else asked


def flops_of(shapes: Transformer, task: Task, build_model: Callable[[], Transformer]) -> tuple[int | None, list[str]]:
    """The same of a model for a task: on the meta device, else of what a real sample takes, else None.

    Of a step behind every warm-up, as nearly all steps of a run are: one within it may cost more, as with an indexer
    that does not choose yet. A component that reads values (`.item()`, shapes that depend on its inputs) has none on
    the meta device.

    Args:
        shapes: the model on the meta device.
        build_model: makes it with its values.
    """
    try:
        return count_flops(warmed_up(shapes), task.loss, task.example())
    except Exception:  # whatever a component makes of tensors without values
        shapes.zero_grad()
    with without_trace(), sdpa_kernel(SDPBackend.MATH):  # whose matrix products are counted on every device
        try:
            return count_flops(warmed_up(build_model()), task.loss, one_sample(task))
        except Exception:  # on a CPU, where a kernel for GPUs need not work
            return None, [_NOT_COUNTED]


def warmed_up(model: Transformer) -> Transformer:
    """The model in the state of a late step, where its components know one: a new one is in that of the first."""
    try:
        model.resample(_LATE)
    except Exception:  # of a component that has something for each step of its run, and not beyond
        model.resample(0)
    return model


def one_sample(task: Task, samples: int = 1) -> Batch:
    """The first training sample of a task, or so many of the first, in a batch of its own."""
    one = copy.copy(task)
    one.batch_size, one.workers = samples, 0
    batch: Batch = next(iter(one.train_dataloader()))
    return batch


@contextmanager
def without_trace() -> Iterator[None]:
    """Within it, nothing moves the global generators of random numbers."""
    before = generators()
    try:
        yield
    finally:
        set_generators(before)


def _is_uncounted(operator: Any) -> bool:
    counted = operator.overloadpacket in flop_registry
    return not counted and not operator.is_view and torch.Tag.pointwise not in operator.tags


_LATE = 10**9  # optimizer steps that no warm-up has
_NOT_SEEN = "not known with this version of torch"
_NOT_COUNTED = "all of it: neither shapes nor a sample could be counted"
# These allocate, fill, copy or pick; they do no arithmetic.
_MOVES_DATA_ONLY = frozenset(
    {
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "zeros", "zeros_like", "new_zeros"),
        *("ones", "ones_like", "full", "full_like", "eye", "arange", "scalar_tensor", "fill_", "zero_", "tril", "triu"),
        *("_to_copy", "_unsafe_view", "clone", "copy_", "cat", "stack", "constant_pad_nd", "detach", "alias", "expand"),
        *("slice_backward", "select_backward", "lift_fresh", "promote_types", "new_ones", "roll", "flip", "embedding"),
        *("gather", "scatter", "index", "index_select"),
    }
)


class CostMeter(Callback):
    """Measures the time of training steps, without evaluation, checkpoints and the first steps that a process takes.

    A run that was interrupted and goes on costs what it cost until its checkpoint, and what it costs from there.

    Args:
        untimed_steps: the first steps of the process, which are left out.
        sharers: runs that the process trains together. Each has an equal share of the wall time; steps are timed of a
            run that is alone.
    """

    def __init__(self, tokens_per_step: int, untimed_steps: int = 1, sharers: int = 1) -> None:
        self._tokens_per_step = tokens_per_step
        self._untimed_left = untimed_steps
        self._sharers = sharers
        self._started = time.perf_counter()
        self._clock_started: float | None = None  # None: standing still
        self._timed_steps = 0
        self._train_time_s = 0.0
        self._processor_time_s = 0.0
        self._evaluation_time_s = 0.0
        self._evaluation_started = 0.0
        self._earlier_s = 0.0  # wall time until the checkpoint that the run goes on from
        self._earlier_peak = 0
        self._of_all = ""  # what else is in the peak

    def begin(self) -> None:
        """Leave what was done beside the training so far out of its peak memory, where that can be."""
        self._of_all = "" if forget_peak_memory() else ", with what is done before the first step"

    def state_dict(self) -> StateDict:
        return {
            "wall_time_s": self._wall_time_s(),
            "train_time_s": self._train_time_s,
            "processor_time_s": self._processor_time_s,
            "timed_steps": self._timed_steps,
            "evaluation_time_s": self._evaluation_time_s,
            "peak_memory_bytes": max(peak_memory()[0], self._earlier_peak),
            "sharers": self._sharers,
        }

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._earlier_s = state_dict["wall_time_s"]
        if state_dict.get("sharers", 1) == self._sharers:  # else that of a process with other runs beside this one
            self._earlier_peak = state_dict["peak_memory_bytes"]
        self._train_time_s, self._timed_steps = state_dict["train_time_s"], state_dict["timed_steps"]
        self._evaluation_time_s = state_dict["evaluation_time_s"]
        self._processor_time_s = state_dict.get("processor_time_s", math.nan)  # of a checkpoint that did not count it

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        # The clock starts again with the next step, so that checkpoints written meanwhile are left out too.
        if self._clock_started is not None or batch_index % trainer.accumulate_grad_batches or self._sharers > 1:
            return
        if self._untimed_left:
            self._untimed_left -= 1
            return
        self._clock_started, self._processor_started = time.perf_counter(), time.process_time()
        self._steps_at_start = trainer.global_step

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop_clock(trainer)
        self._evaluation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._evaluation_time_s += time.perf_counter() - self._evaluation_started

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.on_validation_start(trainer, module)

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.on_validation_end(trainer, module)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: StateDict) -> None:
        self._stop_clock(trainer)  # of one between evaluations: a branch point, or somebody's callback's

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop_clock(trainer)

    def _stop_clock(self, trainer: Trainer) -> None:
        if self._clock_started is not None:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize(trainer.strategy.root_device)  # what is queued has not been done yet
            self._train_time_s += time.perf_counter() - self._clock_started
            self._processor_time_s += time.process_time() - self._processor_started
            self._timed_steps += trainer.global_step - self._steps_at_start
            self._clock_started = None

    def _wall_time_s(self) -> float:
        return self._earlier_s + (time.perf_counter() - self._started) / self._sharers

    def measured(self, cost: Cost, steps: int) -> Cost:
        """`cost` with what was measured filled in, as this process saw them."""
        cost.steps = steps
        cost.tokens = steps * self._tokens_per_step
        cost.flops_total = None if cost.flops_per_step is None else cost.flops_per_step * steps
        cost.wall_time_s = round(self._wall_time_s(), 3)
        cost.evaluation_time_s = round(self._evaluation_time_s, 3)
        if self._timed_steps:
            step_time_s = self._train_time_s / self._timed_steps
            cost.train_time_s = round(steps * step_time_s, 3)
            cost.tokens_per_second = round(self._tokens_per_step / step_time_s, 1)
            if math.isfinite(self._processor_time_s):
                cost.processor_time_s = round(steps * self._processor_time_s / self._timed_steps, 3)
        peak, method = peak_memory()
        cost.peak_memory_method = method if "cuda" in method else method + self._of_all
        cost.peak_memory_bytes = max(peak, self._earlier_peak)
        return cost
