"""Layers shared out among processes in order; the microbatches of a batch pass through them one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from ablab.config.run_config import GRAPHS, Compile
from ablab.errors import require_at_least
from ablab.model import ranks
from ablab.model.protocols import FollowsBatches, Penalised, offering
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.tasks.base import Batch, Task
from ablab.training.strategies.plans import axis_of
from ablab.training.strategies.replicas import Replicas
from ablab.training.strategies.stages import Stage, merged, owners, share_layers_out, shared

_SCHEDULES: dict[str, type[PipelineScheduleSingle]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


class Trained(Protocol):
    """The LightningModule whose model is trained; see `TrainingModule`."""

    model: nn.Module
    task: Task
    trainer: Trainer

    def begin_batch(self, batch_idx: int) -> None: ...

    def count_loss(self, loss: Tensor) -> None: ...


class Pipeline(Replicas):
    """Pipeline parallel training by PyTorch's schedules (Huang et al. 2019, GPipe; Narayanan et al. 2019, 1F1B).

    Each process trains the layers of its stage: it computes their activations and gradients, and keeps the optimizer's
    moments of them. Every batch is cut into microbatches, which follow each other through the stages; what one stage
    makes of a microbatch is sent to the next, and its gradient back. The step is that of one process with the whole
    batch.

    Lightning has no strategy for this, so its processes, checkpoints and loops are those of data parallel training, and
    that sets the limits: the weights themselves are whole in every process. Before an evaluation each stage sends its
    own to all; evaluation is then shared out by samples, as in data parallel training.

    Passes forward and back alternate, so both happen where Lightning asks for the one back, and a callback that looks
    at the loss of a batch before that finds NaN.

    Args:
        processes: stages; at least 2, and not more than layers.
        microbatches: m of a batch, at least 1; of p stages (p - 1) / (m + p - 1) of the time is spent waiting, at best.
        schedule: "gpipe" does all passes forward, then all back; "1f1b" alternates, and keeps the activations of at
            most as many microbatches as there are stages.

    Raises:
        ValueError: a number is out of its range.
    """

    holds_all = False
    takes_scaled = False

    def __init__(self, *, processes: int, microbatches: int = 4, schedule: Literal["gpipe", "1f1b"] = "1f1b") -> None:
        super().__init__(processes=processes)
        require_at_least(1, microbatches=microbatches)
        if schedule not in _SCHEDULES:
            raise ValueError(f"schedule={schedule}: must be {' or '.join(_SCHEDULES)}")
        if schedule == "1f1b" and microbatches < processes:
            raise ValueError(
                f"microbatches={microbatches}: 1f1b needs at least as many as stages, trainer.devices={processes}"
            )
        self._stages, self._count, self._schedule = processes, microbatches, schedule
        self._batch: Batch | None = None  # that is gone over when Lightning asks for the pass back
        self._scale = torch.ones(())  # by which the loss of a microbatch counts, times its weight
        self._passes: dict[torch.Size, tuple[PipelineScheduleSingle, Stage]] = {}  # by the shape of the batch
        self._parameters: list[Tensor] = []  # of the optimizer, in its order
        self._of_stage: list[int] = []  # the stage of each
        self._held: list[bool] = []  # whether it is this one, which counts it where all are added up
        self._shared: list[tuple[Tensor, list[int], Any]] = []  # weights of several stages; these; their group

    # What the training loop asks.

    def dp_size(self, processes: int) -> int:
        return 1

    def check_model(self, model: nn.Module) -> None:
        assert isinstance(model, Transformer)
        if len(model.modalities) > 1:
            raise ClashError("strategy", "task", "layers of several modalities do not follow each other in one line")
        if next(model.layers())[1].attention_residual.shares:
            raise ClashError("strategy", "residual", "what the first layer leaves to the others stays in its stage")
        for name, _ in offering(model, Penalised):
            raise ClashError(
                "strategy",
                axis_of(model, name),
                "it asks for a penalty, and the last stage alone knows the loss that this adds to",
            )
        if len(model.blocks) < self._stages:
            raise ValueError(
                f"model.n_layers={len(model.blocks)} are fewer than the stages, trainer.devices={self._stages}"
            )

    def check_compile(self, asked: Compile) -> None:
        if asked == GRAPHS:
            raise ValueError("several microbatches are under way at a time, and CUDA graphs have room for one")

    def check_batch(self, samples: int) -> None:
        if samples % self._count:
            raise ValueError(f"strategy.microbatches={self._count} does not divide task.batch_size={samples}")

    def sync_gradients(self) -> None:
        for weight, stages, group in self._shared:
            if self.global_rank in stages:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                dist.all_reduce(weight.grad, group=group)

    def global_norm(self, norms: Tensor) -> Tensor:
        return self._global_sums(norms.square()).sum().sqrt()

    def wrap_optimizer(self, optimizer: Optimizer) -> None:
        names = {id(parameter): name for name, parameter in self.transformer.named_parameters()}
        stage_of = owners(self.transformer, self._stages)
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._of_stage = [stage_of[names[id(parameter)]] for parameter in self._parameters]
        self._held = [stage == self.global_rank for stage in self._of_stage]
        optimizer.global_sums = self._global_sums  # type: ignore[attr-defined] # for a schedule that sums
        users = shared(self.transformer, self._stages)
        groups = {tuple(stages): dist.new_group(stages) for _, stages in users}
        self._shared = [(weight, stages, groups[tuple(stages)]) for weight, stages in users]

    def mechanism(self) -> dict[str, float]:
        waiting = (self._stages - 1) / (self._count + self._stages - 1)
        return {"stages": float(self._stages), "microbatches": float(self._count), "bubble_share": waiting}

    # What Lightning asks.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.module.begin_batch(batch_idx)
        self._batch = batch
        return torch.full((), torch.nan, device=self.root_device, requires_grad=True)

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Go over the batch, forward and back."""
        assert self._batch is not None
        (inputs, targets), self._batch = self._batch, None
        task, model = self.module.task, self.transformer
        assert isinstance(inputs, Tensor)
        scale = 1 / self.module.trainer.accumulate_grad_batches
        self._scale = scale / task.weight(targets).clamp(min=1)
        passes, stage = self._passes_of(model, inputs)
        stage.microbatch = 0
        losses: list[Tensor] = []
        followers = [module for _, module in offering(model, FollowsBatches)]
        for each in followers:
            each.begin_microbatches()
        first = [inputs] if self.global_rank == 0 else []
        with self.precision_plugin.train_step_context():
            passes.step(*first, target=targets, losses=losses, return_outputs=False, inputs=inputs)
        for each in followers:
            each.end_microbatches()
        known = torch.stack(losses).sum() if losses else torch.zeros((), device=self.root_device)
        self.batch_loss = known.detach().float()
        # The last stage alone knows it. As whole numbers, which are not counted as traffic: they are bookkeeping.
        dist.broadcast(self.batch_loss.view(torch.int32), src=self._stages - 1)
        self.module.count_loss(self.batch_loss / scale)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        trainer = None if self.lightning_module is None else self.lightning_module.trainer
        if trainer is not None and trainer.training:
            return {"num_replicas": 1, "rank": 0}
        return super().distributed_sampler_kwargs

    def setup(self, trainer: Trainer) -> None:
        if trainer.state.fn != TrainerFn.FITTING:  # Lightning then gives everyone the first process's weights
            self.model_to_device()  # which training leaves on the CPU at its end, and NCCL sends from GPUs alone
            self._share_weights()
        super().setup(trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        ranks.stand_alone(True)  # every process sees all samples of its layers

    def on_validation_start(self) -> None:
        self._share_weights()

    def on_test_start(self) -> None:
        self._share_weights()

    def lightning_module_state_dict(self) -> StateDict:
        self._share_weights()
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> StateDict:
        """That of every stage, which is the state of an optimizer over the whole model."""
        return cast(StateDict, merged(ranks.of_all_ranks(super().optimizer_state(optimizer))))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        super().load_optimizer_state_dict(checkpoint)
        trained = {id(p) for p, its in zip(self._parameters, self._of_stage, strict=True) if its == self.global_rank}
        trained |= {id(weight) for weight, stages, _ in self._shared if self.global_rank in stages}
        for optimizer in self.optimizers:
            for part in getattr(optimizer, "parts", [optimizer]):
                for parameter in [parameter for parameter in part.state if id(parameter) not in trained]:
                    del part.state[parameter]  # of another stage, where it goes on

    def save_checkpoint(self, checkpoint: StateDict, filepath: Any, storage_options: Any = None) -> None:
        assert self.lightning_module is not None
        configs = self.lightning_module.trainer.lr_scheduler_configs
        for state, config in zip(checkpoint.get("lr_schedulers", ()), configs, strict=False):  # none of weights alone
            for name in getattr(config.scheduler, "per_parameter", ()):
                everyones = ranks.of_all_ranks([tensor.cpu() for tensor in state[name]])
                if everyones[0]:
                    state[name] = [everyones[stage][place] for place, stage in enumerate(self._of_stage)]
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def teardown(self) -> None:
        ranks.stand_alone(False)
        self._passes.clear()  # they hold the model
        super().teardown()

    @property
    def module(self) -> Trained:
        assert self.lightning_module is not None
        return cast(Trained, self.lightning_module)

    @property
    def transformer(self) -> Transformer:
        model = self.module.model
        assert isinstance(model, Transformer)
        return model

    def _passes_of(self, model: Transformer, inputs: Tensor) -> tuple[PipelineScheduleSingle, Stage]:
        """The schedule for batches of this shape, which says what is sent from stage to stage."""
        if inputs.shape not in self._passes:
            rank = self.global_rank
            layers = share_layers_out(len(model.blocks), self._stages)[rank]
            stage = Stage(model, layers)
            microbatch = inputs[: len(inputs) // self._count].to("meta")
            into = (microbatch,) if rank == 0 else stage.streams(microbatch, layers.start)
            out = (stage.logits(microbatch),) if rank == self._stages - 1 else stage.streams(microbatch, layers.stop)
            made = PipelineStage(
                stage,
                rank,
                self._stages,
                self.root_device,
                input_args=into,
                output_args=out,
            )
            make = _SCHEDULES[self._schedule]
            schedule = make(made, self._count, loss_fn=self._loss, scale_grads=False)
            self._passes[inputs.shape] = schedule, stage
        return self._passes[inputs.shape]

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        task = self.module.task
        return task.loss(logits, targets) * (task.weight(targets) * self._scale)

    @torch.no_grad()
    def _share_weights(self) -> None:
        """Every stage sends its weights and buffers to all."""
        ranks.stand_alone(False)
        stage_of = owners(self.transformer, self._stages)
        tensors = {**dict(self.transformer.named_parameters()), **dict(self.transformer.named_buffers())}
        for stage in range(self._stages):
            own = [tensor for name, tensor in tensors.items() if stage_of[name] == stage]
            for dtype in dict.fromkeys(tensor.dtype for tensor in own):  # in an order that all processes share
                same = [tensor for tensor in own if tensor.dtype == dtype]
                flat = torch.cat([tensor.detach().flatten() for tensor in same])
                dist.broadcast(flat, src=stage)
                for tensor, value in zip(same, flat.split([t.numel() for t in same]), strict=True):
                    tensor.detach().copy_(value.view_as(tensor))

    def _global_sums(self, sums: Tensor) -> Tensor:
        """Of sums (..., P) over each parameter, as this process has them, those of the stage that trains it."""
        counted = sums * torch.tensor(self._held, dtype=sums.dtype, device=sums.device)
        dist.all_reduce(counted)
        return counted
