"""Muon and NorMuon for the matrices of the blocks, AdamW for all else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from torch import Tensor

from ablab.errors import require_shares
from ablab.training.optimizers.cautious import Caution
from ablab.training.optimizers.with_adamw import MatrixRule, State, Update, WithAdamW

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
_RMS = 0.2  # of an update, as AdamW's have it: Liu et al. 2025, section 2.2
_TINY = 1e-7
_TOGETHER = 2**20  # numbers of matrices that are stacked: more take longer than a call does


def orthogonalised(matrices: Tensor, steps: int) -> Tensor:
    """Each matrix of (..., m, n) with singular values brought near 1, in bfloat16: `steps` Newton-Schulz iterations.

    The same for a matrix among others as for it alone, to rounding. Of a matrix of zeros zeros.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.size(-2) <= matrices.size(-1)
    x = matrices if wide else matrices.mT
    x = x.bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=_TINY)  # no singular value above 1
    combine = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(steps):
        square = x @ x.mT
        x = combine(x, combine(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(MatrixRule):
    """Orthogonalised momentum: as PyTorch's `Muon` with `adjust_lr_fn="match_rms_adamw"`, and for stacks of matrices.

    Jordan et al. 2024 ("Muon"), with updates of the size that AdamW's have (Liu et al. 2025, "Muon is Scalable",
    section 2.2). Each matrix is orthogonalised by itself, each expert's, too, and those of one shape in one product.

    Args:
        params: groups of parameters, with their learning rates and weight decays.
        momentum: weight of the past.
        nesterov: look ahead along the momentum.
        ns_steps: Newton-Schulz iterations.
    """

    width_rule: ClassVar = "spectral"  # see `ablab.training.optimizers.widths`

    def __init__(self, params: Iterable[Any], *, momentum: float, nesterov: bool, ns_steps: int) -> None:
        super().__init__(params, {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps})

    def alike(self, parameters: Sequence[Tensor]) -> Iterable[Sequence[Tensor]]:
        """Small ones of one shape: a model's many small matrices wait for the calls, not for the numbers."""
        shapes: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
        for parameter in parameters:
            if parameter.numel() <= _TOGETHER // 2:
                shapes.setdefault((parameter.shape, parameter.device), []).append(parameter)
            else:
                yield [parameter]
        for (shape, _), some in shapes.items():
            most = _TOGETHER // max(1, shape.numel())
            yield from (some[start : start + most] for start in range(0, len(some), most))

    def updates(self, gradients: Sequence[Tensor], states: Sequence[State], group: State) -> Iterable[Update]:
        ahead = [_ahead(gradient, state, group) for gradient, state in zip(gradients, states, strict=True)]
        if len(ahead) == 1:
            orthogonal: Sequence[Tensor] = [orthogonalised(ahead[0], group["ns_steps"])]
        else:
            stack = torch.stack(ahead)
            orthogonal = orthogonalised(stack.flatten(0, -3), group["ns_steps"]).reshape(stack.shape).unbind()
        return [
            self.sized(each.to(gradient.dtype), state, group)
            for each, gradient, state in zip(orthogonal, gradients, states, strict=True)
        ]

    def sized(self, update: Tensor, state: State, group: State) -> Update:
        """An orthogonal update with the factor that gives it its size."""
        return update, _RMS * math.sqrt(max(update.shape[-2:]))


def _ahead(gradient: Tensor, state: State, group: State) -> Tensor:
    """The momentum, which is brought up to date, or what it will be."""
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
    past, momentum = state["momentum_buffer"], group["momentum"]
    past.lerp_(gradient, 1 - momentum)
    return gradient.lerp(past, momentum) if group["nesterov"] else past


class NorMuon(Muon):
    """Muon whose updates are divided by the root mean square of each output's, averaged over the steps.

    Li et al. 2025 ("NorMuon", algorithm 1). An output, or neuron, is a row of (outputs, inputs), and a column of an
    expert's (inputs, outputs). The update of a matrix has AdamW's size exactly.

    Args:
        beta2: weight of the past in the average over the steps.
        params, momentum, nesterov, ns_steps: as of `Muon`.
    """

    def __init__(self, params: Iterable[Any], *, momentum: float, nesterov: bool, ns_steps: int, beta2: float) -> None:
        super().__init__(params, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps)
        for group in self.param_groups:
            group["beta2"] = beta2

    def sized(self, update: Tensor, state: State, group: State) -> Update:
        over_inputs = -1 if update.dim() == 2 else -2
        squares = update.square().mean(over_inputs, keepdim=True)
        if "square_buffer" not in state:
            state["square_buffer"] = torch.zeros_like(squares)
        average = state["square_buffer"].lerp_(squares, 1 - group["beta2"])
        update = update / (average.sqrt() + _TINY)
        size = update.square().mean((-2, -1), keepdim=True).sqrt()
        return update / size.clamp(min=_TINY), _RMS


class MuonSettings(TypedDict, total=False):
    """What Muon and its variants take beside AdamW; see `MuonWithAdamW`."""

    lr: float
    weight_decay: float
    momentum: float
    nesterov: bool
    ns_steps: int
    betas: tuple[float, float]
    eps: float
    cautious_update: bool
    cautious_decay: bool


class MuonWithAdamW(WithAdamW):
    """Muon where a matrix maps features to features, each expert's included, and AdamW for all else.

    One learning rate and one weight decay serve both, since Muon's updates are scaled to the size of AdamW's.

    Args:
        params: groups of parameters.
        lr: at least 0.
        weight_decay: at least 0, decoupled, of both.
        momentum: of Muon, in [0, 1).
        nesterov: of Muon.
        ns_steps: Newton-Schulz iterations, 1 to 99.
        betas: of AdamW, each in [0, 1).
        eps: of AdamW, at least 0.
        cautious_update, cautious_decay: as `update` and `decay` of `Caution`, for both.

    Raises:
        ValueError: a value is out of its range, whether or not the model has parameters that it concerns.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        cautious_update: bool = False,
        cautious_decay: bool = False,
    ) -> None:
        require_shares(momentum=momentum)
        if not 1 <= ns_steps < 100:
            raise ValueError(f"ns_steps={ns_steps} must be 1 to 99")
        rule = partial(self._rule(), momentum=momentum, nesterov=nesterov, ns_steps=ns_steps)
        caution = Caution(cautious_update, cautious_decay)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, caution=caution)

    def _rule(self) -> Callable[..., Muon]:
        """What is done with the matrices, given their groups and the settings of `Muon`."""
        return Muon


class NorMuonWithAdamW(MuonWithAdamW):
    """NorMuon where a matrix maps features to features, each expert's included, and AdamW for all else.

    Args:
        beta2: of NorMuon's average over the steps, in [0, 1).
        params, settings: as of `MuonWithAdamW`.

    Raises:
        ValueError: a value is out of its range, whether or not the model has parameters that it concerns.
    """

    def __init__(self, params: Iterable[Any], *, beta2: float = 0.95, **settings: Unpack[MuonSettings]) -> None:
        require_shares(beta2=beta2)
        self._beta2 = beta2
        super().__init__(params, **settings)

    def _rule(self) -> Callable[..., Muon]:
        return partial(NorMuon, beta2=self._beta2)
