"""Lightning's view of a model and its task. It holds no training logic of its own beyond joining them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import StateDict

from ablab.model.draws import key_draws, seed_pass
from ablab.model.protocols import FollowsSteps, has_penalties, offering
from ablab.model.ranks import sum_over_ranks
from ablab.model.transformer import Transformer
from ablab.results.record import KEPT_EVALUATIONS
from ablab.tasks.base import Batch, EvalBatch, Inputs, Task
from ablab.training.gradients import clip, parameters_of, ratio, scale_of, unscale
from ablab.training.optimizers.groups import base_rate, build_optimizer
from ablab.training.strategies.base import parallel
from ablab.training.totals import EvaluationTotals

_HISTORY = "history"  # the module's own part of a checkpoint
_REMEMBERED = ("evaluated_at", "metrics", "last", "evaluated", "steps_to_target")  # in it, as they are


class TrainingModule(LightningModule):
    """A model that learns a task, as any LightningModule does: by Lightning's automatic optimization.

    What is minimised is the task's loss and the penalties that components ask for (`Transformer.penalty`). `train_loss`
    is the task's own, which can be compared with `val_loss`.

    Evaluation adds up the task's totals over all batches and processes and turns them into metrics once, so that a
    shorter last batch or an uneven share of the samples changes nothing.
    """

    def __init__(
        self,
        model: Transformer,
        task: Task,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
    ) -> None:
        super().__init__()
        self.model = model
        key_draws(model)
        self.evaluated_at: int | None = None  # the step of the last validation
        self.metrics: dict[str, float] = {}  # of the last evaluation of each split, unrounded
        self.last: dict[str, list[float]] = {}  # each metric of the last validations, the latest one last
        self.learning_rates: list[float] = []  # of each step
        self.train_loss = torch.zeros(())  # the task's own at the last step: the mean over the step's batches
        self.update_ratio: Tensor | None = None  # norm of the last update before an evaluation over that of the weights
        self.steps_to_target: int | None = None  # of the task's primary metric, at the first evaluation that had it
        self.task = task
        self._optimizer = optimizer
        self._schedule = schedule
        self._penalised = has_penalties(model)
        self._follows_steps = any(True for _ in offering(model, FollowsSteps))
        self.evaluated: dict[str, int] = {}  # samples of the last evaluation of each split, over all processes
        self._totals = EvaluationTotals(task)
        self.convert: Callable[[StateDict, Transformer], None] | None = (
            None  # a checkpoint of another model to this one's
        )

    def forward(self, inputs: Inputs, targets: Tensor | None = None) -> Tensor:
        """Logits for what the task's loaders serve, in the shape of its targets and one dimension more."""
        logits: Tensor = self.model(inputs, targets=targets)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, penalties included."""
        self.begin_batch(batch_idx)
        inputs, targets = batch
        loss = self.task.loss(self.model(inputs, targets=targets), targets)
        if (share := self._share(targets)) is not None:
            loss = loss * share
        self.count_loss(loss.detach())
        return loss + self.model.penalty() if self._penalised else loss

    def begin_batch(self, batch_idx: int) -> None:
        """Ready what draws at random, and for the first of a step's batches model and optimizer."""
        number = batch_idx % self.trainer.accumulate_grad_batches
        rank = parallel(self.trainer.strategy).dp_rank(self.trainer.global_rank)
        seed_pass(self.task.seed, self.trainer.global_step, number, rank)
        if number == 0:
            self.train_loss = torch.zeros((), device=self.device)
            self._switch("train")
            self.model.resample(self.trainer.global_step)

    def count_loss(self, loss: Tensor) -> None:
        """Add the task's loss on one batch to `train_loss`."""
        self.train_loss = self.train_loss + loss / self.trainer.accumulate_grad_batches

    def _share(self, targets: Tensor) -> Tensor | None:
        """By what the loss of a batch counts in this process, so that the mean over the processes is the batch's.

        A loss is a mean over so many targets, and processes may have got more or fewer of them than others.
        """
        world = self.trainer.world_size
        if self.task.equal_shares or parallel(self.trainer.strategy).dp_size(world) == 1:
            return None
        own = self.task.weight(targets).to(self.device, torch.float64)
        everyones = sum_over_ranks(own.clone())
        return (own * world / everyones.clamp(min=1)).float()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        strategy = parallel(self.trainer.strategy)
        # The last step of a run is followed by an evaluation, wherever it falls.
        last = self.trainer.global_step + 1 == self.trainer.max_steps
        measured = last or (batch_idx + 1) % int(self.trainer.val_check_batch or 1) == 0
        self.learning_rates.append(base_rate(optimizer.param_groups))
        before: list[Tensor] = []

        def closure() -> Any:
            assert optimizer_closure is not None
            loss = optimizer_closure()
            strategy.sync_gradients()
            unscale(self, optimizer)
            if measured:
                before.extend(p.detach().clone() for p in parameters_of(optimizer))
            return loss

        scale = scale_of(self) if self._follows_steps else 1.0
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        if self._follows_steps and scale_of(self) >= scale:  # else the step was skipped
            self.model.after_step()
        if measured:
            self.update_ratio = ratio(before, parameters_of(optimizer), strategy.global_norm)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does, by the norm over all processes where each holds a part of the gradient."""
        clip(self, optimizer, gradient_clip_val or 0, gradient_clip_algorithm or "norm")

    def on_validation_start(self) -> None:
        self._switch("eval")

    def on_train_end(self) -> None:
        self._switch("eval")

    def _switch(self, mode: Literal["train", "eval"]) -> None:
        """For optimizers that train with other weights than they evaluate with; for the others nothing."""
        for optimizer in self.trainer.optimizers:
            getattr(optimizer, mode, lambda: None)()

    def validation_step(self, batch: EvalBatch, batch_index: int) -> None:
        self._add(batch)

    def test_step(self, batch: EvalBatch, batch_index: int) -> None:
        self._add(batch)

    def on_validation_epoch_end(self) -> None:
        parallel(self.trainer.strategy).reshard(self.model)
        named = self._log_totals("val")
        again = self.evaluated_at == self.trainer.global_step  # of the same weights
        for name, value in named.items():
            before = self.last.get(name, [])
            self.last[name] = [*(before[:-1] if again else before), value][-KEPT_EVALUATIONS:]
        self.evaluated_at = self.trainer.global_step
        self._tell_of_evaluation()

    def on_test_epoch_end(self) -> None:
        parallel(self.trainer.strategy).reshard(self.model)
        self._log_totals("test")

    def rehearse(self, model: nn.Module) -> None:
        """One pass forward and back through `model`, which stands for this module's own, that leaves no trace."""
        training = self.model.training
        self.model.eval()  # components that follow their inputs stand still, and nothing is drawn at random
        self.model.objective.training = True  # it alone: what it adds to a model takes part in training alone
        inputs, targets = self.trainer.strategy.batch_to_device(self.task.example())
        logits: Tensor = model(inputs, targets)
        loss = logits.sum()
        (loss + self.model.penalty() if self._penalised else loss).backward()  # which some parameters are in alone
        self.model.zero_grad()
        self.model.train(training)

    def configure_model(self) -> None:
        parallel(self.trainer.strategy).parallelize(self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(self._optimizer, self.model)
        parallel(self.trainer.strategy).wrap_optimizer(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: StateDict) -> None:
        """What a resumed run has to remember."""
        checkpoint[_HISTORY] = {
            "learning_rates": torch.tensor(self.learning_rates, dtype=torch.float64),
            "update_ratio": self.update_ratio,
            **{name: getattr(self, name) for name in _REMEMBERED},
        }

    def on_load_checkpoint(self, checkpoint: StateDict) -> None:
        if self.convert is not None:
            self.convert(checkpoint, self.model)
        history = dict(checkpoint[_HISTORY])
        self.learning_rates = history.pop("learning_rates").tolist()
        for name, value in history.items():
            setattr(self, name, value)
        self.task.first_step = checkpoint["global_step"] * self.trainer.accumulate_grad_batches  # before the loaders

    def _tell_of_evaluation(self) -> None:
        """Let the schedule hear of it, and see whether the task's target has been reached."""
        primary = self.task.primary
        value = self.metrics.get(primary.name)
        if value is None:  # a task may be judged on its test split alone
            return
        lower, target = primary.direction == "min", self.task.target
        if self.trainer.state.fn == TrainerFn.FITTING:  # else no step is to come
            getattr(self.lr_schedulers(), "evaluated", lambda *_: None)(value, lower)
        if target is not None and self.steps_to_target is None and (value <= target if lower else value >= target):
            self.steps_to_target = self.trainer.global_step

    def _add(self, batch: EvalBatch) -> None:
        inputs, targets, *subset = batch
        self._totals.add(self.model(inputs, targets=targets), targets, *subset)

    def _log_totals(self, split: str) -> dict[str, float]:
        """Log the metrics of the evaluation that has ended, and return them."""
        totals, self.evaluated[split] = self._totals.take(split, self.trainer.strategy)
        named = {f"{split}_{name}": value for name, value in self.task.evaluation_metrics(totals).items()}
        self.metrics |= named
        # For whoever monitors them, rounded to float32. Every process computed the same metrics, so nothing is left
        # to synchronise; and Lightning would give the loggers the step before this one.
        self.log_dict(named, logger=False)
        for logger in self.loggers:
            logger.log_metrics(named, step=self.trainer.global_step)
        return named
