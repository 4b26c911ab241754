"""A rule for the matrices of the blocks, and AdamW for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import StateDict

from ablab.errors import require_at_least, require_shares
from ablab.training.optimizers.cautious import Caution

State = dict[str, Any]
Groups = list[State]
Update = tuple[Tensor, float]  # with the factor in front of it
MATRICES, EXPERTS = "matrices", "experts"  # names of the groups that have what a rule for matrices treats


class WithAdamW(Optimizer):
    """One optimizer of two: a rule for matrices that map features to features, and PyTorch's `AdamW`.

    The rule gets what has two dimensions of the group "matrices", and the stacks of matrices of the group "experts".
    Embeddings, heads, norms, biases and kernels of convolutions go to AdamW. Learning rate and weight decay are those
    of both.

    Args:
        params: groups of parameters.
        rule: makes the optimizer of the groups of matrices; their learning rates and weight decays are set.
        lr, weight_decay: at least 0, decoupled.
        betas: of AdamW, each in [0, 1).
        eps: of AdamW, at least 0.
        caution: about the steps of both.

    Raises:
        ValueError: a value is out of its range, whether or not the model has parameters that it concerns.
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: Callable[[Groups], Optimizer],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        caution: Caution,
    ) -> None:
        require_at_least(0, lr=lr, weight_decay=weight_decay, eps=eps)
        require_shares(**{"betas[0]": betas[0], "betas[1]": betas[1]})
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        common = {"lr": lr, "weight_decay": weight_decay}
        matrices, others = ([common | group for group in some if group["params"]] for some in _split(groups))
        self.parts: list[Optimizer] = []
        if matrices:
            self.parts.append(rule(matrices))
        if others:
            self.parts.append(AdamW(others, betas=(betas[0], betas[1]), eps=eps))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        for part in self.parts:
            for group in part.param_groups:
                group["rule"] = type(part).__name__
        self._caution = caution
        self._join()

    @overload
    def step(self, closure: None = ...) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            self._caution.step(part)
        return loss

    def state_dict(self) -> StateDict:
        """Those of both, in their order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: StateDict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()

    def _join(self) -> None:
        """Groups and state are those of the parts themselves, so that a schedule reaches both."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state: Any = {parameter: state for part in self.parts for parameter, state in part.state.items()}


def _split(groups: Groups) -> tuple[Groups, Groups]:
    """The groups of what a rule for matrices treats, and of all else."""
    chosen = [{**group, "params": [p for p in group["params"] if _is_matrix(p, group)]} for group in groups]
    others = [{**group, "params": [p for p in group["params"] if not _is_matrix(p, group)]} for group in groups]
    return chosen, others


def _is_matrix(parameter: Tensor, group: dict[str, Any]) -> bool:
    return parameter.dim() == {MATRICES: 2, EXPERTS: 3}.get(str(group.get("name")))


class MatrixRule(Optimizer):
    """A rule for matrices, each by itself, with decoupled weight decay."""

    @overload
    def step(self, closure: None = ...) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        assert closure is None, "gradients are there before"
        for group in self.param_groups:
            for some in self.alike([parameter for parameter in group["params"] if parameter.grad is not None]):
                gradients = [parameter.grad for parameter in some if parameter.grad is not None]  # all have one
                updates = self.updates(gradients, [self.state[parameter] for parameter in some], group)
                for parameter, (update, factor) in zip(some, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * factor)
        return None

    def alike(self, parameters: Sequence[Tensor]) -> Iterable[Sequence[Tensor]]:
        """Those whose updates are found at once."""
        return ([parameter] for parameter in parameters)

    def updates(self, gradients: Sequence[Tensor], states: Sequence[State], group: State) -> Iterable[Update]:
        """What is subtracted of each is learning rate times factor times update. Gradients are left as they are.

        Args:
            gradients: each (outputs, inputs), or (E, inputs, outputs), a matrix for each of E experts.
            states: of each, empty at first; they are brought up to date.
        """
        raise NotImplementedError
