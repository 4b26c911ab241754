"""Muon for the matrices of the blocks, AdamW for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.optimizer import StateDict

from ablab.errors import require_at_least, require_shares


class MuonWithAdamW(Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024, "Muon"; PyTorch's `Muon`) where a matrix maps features to features.

    Embeddings, heads, norms and biases go to PyTorch's `AdamW`, as the source has it. Updates of matrices are scaled to
    the size that AdamW's have (Liu et al. 2025, "Muon is Scalable", section 2.2), so that one learning rate and one
    weight decay serve both.

    Args:
        params: groups of parameters; Muon gets those of the group named "matrices" that have two dimensions.
        lr: at least 0.
        weight_decay: at least 0, decoupled, of both.
        momentum: of Muon, in [0, 1).
        nesterov: of Muon.
        ns_steps: Newton-Schulz iterations, 1 to 99.
        betas: of AdamW, each in [0, 1).
        eps: of AdamW, at least 0.

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
    ) -> None:
        require_at_least(0, lr=lr, weight_decay=weight_decay, eps=eps)
        require_shares(momentum=momentum, **{"betas[0]": betas[0], "betas[1]": betas[1]})
        if not 1 <= ns_steps < 100:
            raise ValueError(f"ns_steps={ns_steps} must be 1 to 99: PyTorch's Muon takes no more")
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        matrices, others = [], []
        for group in groups:
            flat = [p for p in group["params"] if p.dim() != 2 or group.get("name") != "matrices"]
            chosen = [p for p in group["params"] if p.dim() == 2 and group.get("name") == "matrices"]
            if chosen:
                matrices.append({**group, "params": chosen, "rule": "Muon"})
            if flat:
                others.append({**group, "params": flat, "rule": "AdamW"})
        self.parts: list[Optimizer] = []
        if matrices:
            rule: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
            scaled = "match_rms_adamw"
            self.parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn=scaled, **rule))
        if others:
            self.parts.append(AdamW(others, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
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
            part.step()
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
