"""SOAP for the matrices of the blocks, AdamW for all else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ablab.errors import require_at_least, require_shares
from ablab.training.optimizers.cautious import Caution
from ablab.training.optimizers.with_adamw import MatrixRule, State, Update, WithAdamW

_SIDES = {"rows": -2, "columns": -1}  # of a matrix, with their dimensions
_RANKING = 1e-3  # of the mean eigenvalue


class Soap(MatrixRule):
    """Adam in the eigenbases of Shampoo's preconditioners (Vyas et al. 2024, "SOAP", algorithm 3).

    With G the gradient, L and R the averages of G Gt and Gt G, and U and V their eigenvectors, Adam's second average is
    that of (Ut G V) squared, and the step is U (Ut M V / its root) Vt, with M the average of G. After every `frequency`
    steps the eigenvectors are brought up to date by one power iteration and a QR decomposition; a side of more than
    `max_size` has the unit matrix in their place.

    As in the authors' code, the first gradient makes the bases and nothing else: that step is weight decay alone.
    Deviations: eps is added to the root after its correction for the start at 0, as Adam has it; and directions that
    the first gradient has nothing of, as on the longer side of a matrix, are chosen by a rule, not by rounding.

    Args:
        params: groups of parameters, with their learning rates and weight decays. Each expert's matrix has bases of
            its own.
        betas: weights of the past in the averages of G and of the squares; the latter also in those of L and R.
        eps: in the unit of the gradient.
        frequency: steps from one update of the bases to the next.
        max_size: of a side that has a basis.
    """

    width_rule: ClassVar = "elementwise"  # see `ablab.training.optimizers.widths`

    def __init__(
        self, params: Iterable[Any], *, betas: tuple[float, float], eps: float, frequency: int, max_size: int
    ) -> None:
        super().__init__(params, {"betas": betas, "eps": eps, "frequency": frequency, "max_size": max_size})

    def updates(self, gradients: Sequence[Tensor], states: Sequence[State], group: State) -> Iterable[Update]:
        return (self._update(gradient, state, group) for gradient, state in zip(gradients, states, strict=True))

    def _update(self, gradient: Tensor, state: State, group: State) -> Update:
        (past, past_squares), eps = group["betas"], group["eps"]
        if not state:
            _begin(gradient, state, past_squares, group["max_size"])
            return torch.zeros_like(gradient), 1.0
        state["step"] += 1
        average, squares = state["exp_avg"], state["exp_avg_sq"]
        average.lerp_(gradient, 1 - past)
        turned = _turned(gradient, state)
        squares.mul_(past_squares).addcmul_(turned, turned, value=1 - past_squares)
        root = (squares / (1 - past_squares ** state["step"])).sqrt() + eps
        update = _turned_back(_turned(average, state) / root, state)
        _remember(gradient, state, past_squares)
        if state["step"] % group["frequency"] == 0:
            _refresh(state)
        return update, 1 / (1 - past ** state["step"])


def _begin(gradient: Tensor, state: State, beta: float, max_size: int) -> None:
    """Averages of nothing, and the eigenvectors that the first gradient has, of the largest eigenvalue first."""
    zeros = partial(torch.zeros_like, gradient, memory_format=torch.preserve_format)
    state.update(step=0, exp_avg=zeros(), exp_avg_sq=zeros())
    for side, dimension in _SIDES.items():
        if gradient.shape[dimension] <= max_size:
            state[side] = _gram(gradient, side) * (1 - beta)
            full = _in_full(state[side])
            state[f"{side}_basis"] = torch.linalg.eigh(full + _ranking(full)).eigenvectors.flip(-1).to(gradient.dtype)


def _in_full(matrix: Tensor) -> Tensor:
    """In numbers that decompositions exist for."""
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))


def _ranking(gram: Tensor) -> Tensor:
    """What is added to one to choose among directions of which it says nothing; else rounding would choose."""
    weights = torch.linspace(1, 0, gram.shape[-1], dtype=gram.dtype, device=gram.device)
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    return torch.diag_embed(_RANKING * size * weights)


def _gram(matrix: Tensor, side: str) -> Tensor:
    return matrix @ matrix.mT if side == "rows" else matrix.mT @ matrix


def _remember(gradient: Tensor, state: State, beta: float) -> None:
    """Take a gradient into the averages that the bases are of."""
    for side in _SIDES:
        if side in state:
            state[side].lerp_(_gram(gradient, side), 1 - beta)


def _turned(matrix: Tensor, state: State) -> Tensor:
    """In the bases of both sides."""
    if "rows" in state:
        matrix = state["rows_basis"].mT @ matrix
    return matrix @ state["columns_basis"] if "columns" in state else matrix


def _turned_back(matrix: Tensor, state: State) -> Tensor:
    if "rows" in state:
        matrix = state["rows_basis"] @ matrix
    return matrix @ state["columns_basis"].mT if "columns" in state else matrix


def _refresh(state: State) -> None:
    """One power iteration for each basis, the largest direction first; squares stay with their directions."""
    for side, dimension in _SIDES.items():
        if side in state:
            basis = state[f"{side}_basis"]
            moved = state[side] @ basis
            order = (basis * moved).sum(-2).argsort(dim=-1, descending=True, stable=True)
            ordered = torch.take_along_dim(moved, order.unsqueeze(-2), -1)
            state[f"{side}_basis"] = torch.linalg.qr(_in_full(ordered)).Q.to(basis.dtype)
            along = order.unsqueeze(-1 if side == "rows" else -2)
            state["exp_avg_sq"] = torch.take_along_dim(state["exp_avg_sq"], along, dimension)


class SoapWithAdamW(WithAdamW):
    """SOAP where a matrix maps features to features, each expert's included, and AdamW for all else.

    Args:
        params: groups of parameters.
        lr: at least 0, of both.
        weight_decay: at least 0, decoupled, of both.
        betas: of both, each in [0, 1).
        eps: of both, at least 0.
        frequency: steps from one update of SOAP's bases to the next, at least 1.
        max_size: of a side of a matrix that has a basis, at least 1; its basis has the square of so many numbers.
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
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        frequency: int = 10,
        max_size: int = 8192,
        cautious_update: bool = False,
        cautious_decay: bool = False,
    ) -> None:
        require_at_least(1, frequency=frequency, max_size=max_size)
        require_at_least(0, eps=eps)
        require_shares(**{"betas[0]": betas[0], "betas[1]": betas[1]})
        rule = partial(Soap, betas=betas, eps=eps, frequency=frequency, max_size=max_size)
        caution = Caution(cautious_update, cautious_decay)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, caution=caution)
