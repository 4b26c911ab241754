"""Objectives that ask for the wrong thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.objective.base import IGNORED, Asked, Objective, log_z
from ablab.model.objective.multi_token import DepthModule, MultiToken
from ablab.model.spec import LayerSpec


class _OneAhead(MultiToken):
    """One module; subclasses say what it is given and what is asked of it."""

    def __init__(self, spec: LayerSpec, *, block: Callable[..., Any], norm: Callable[..., Any]) -> None:
        super().__init__(spec, block=block, norm=norm, total_steps=100)

    def ahead(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor]]:
        ids, module = asked.context.ids, self.depths[0]
        assert ids is not None
        assert isinstance(module, DepthModule)
        later, targets = self.given(ids, asked.targets)
        mask = asked.context.key_padding_mask
        mask = None if mask is None else mask[:, :-2] | mask[:, 1:-1] | mask[:, 2:]
        context = replace(asked.context, key_padding_mask=mask, ids=later, shared={})
        hidden = module(asked.hidden[:, :-2], asked.embed(later), context)
        yield asked.head(module.norm(hidden)), targets if mask is None else targets.masked_fill(mask, IGNORED)

    def given(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that the module is given, and those it is asked for, (B, T - 2) each."""
        raise NotImplementedError


class AsksForWhatItSees(_OneAhead):
    """Targets off by one: the module is asked for the token that it is given."""

    def given(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return ids[:, 1:-1], targets[:, :-2]


class SeesWhatIsAsked(_OneAhead):
    """Tokens off by one: the module is given the token that it is asked for."""

    def given(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return ids[:, 2:], targets[:, 1:-1]


class IgnoredTargetsCount(Objective):
    """The mean over tokens has those whose targets are ignored."""

    def __init__(self, spec: LayerSpec, *, block: Callable[..., Any], norm: Callable[..., Any]) -> None:
        super().__init__(spec, block=block, norm=norm)
        self._asked: Tensor | None = None

    def forward(self, asked: Asked) -> None:
        self._asked = 0.1 * log_z(asked.logits).square().mean()

    def penalty(self) -> Tensor:
        """Of the last pass."""
        assert self._asked is not None
        return self._asked


class SumOfAllPasses(Objective):
    """What is asked for is added up from pass to pass, graphs and all."""

    def __init__(self, spec: LayerSpec, *, block: Callable[..., Any], norm: Callable[..., Any]) -> None:
        super().__init__(spec, block=block, norm=norm)
        self._asked = torch.zeros(())

    def forward(self, asked: Asked) -> None:
        counted = asked.targets != IGNORED
        self._asked = self._asked + 0.1 * log_z(asked.logits)[counted].square().mean()

    def penalty(self) -> Tensor:
        """Of all passes."""
        return self._asked


class PenaltyNotFinite(Objective):
    """The logarithm of the entropy's distance from the largest: minus infinity at the start."""

    def __init__(self, spec: LayerSpec, *, block: Callable[..., Any], norm: Callable[..., Any]) -> None:
        super().__init__(spec, block=block, norm=norm)
        self._asked: Tensor | None = None

    def forward(self, asked: Asked) -> None:
        shares = asked.logits.softmax(-1)
        self._asked = (shares * shares.log()).where(asked.targets[..., None] != IGNORED, 0.0).sum().sqrt()

    def penalty(self) -> Tensor:
        """Of the last pass."""
        assert self._asked is not None
        return self._asked


class BoundOverTokens(Objective):
    """Logits are bounded by the largest of the whole sequence."""

    def bound(self, logits: Tensor) -> Tensor:
        largest = logits.abs().amax((-2, -1), keepdim=True)
        return largest * (2 * logits / (largest + 1e-6)).tanh()


class NotRegistered(Objective):
    """A module of a Python list has weights that nobody trains."""

    def __init__(self, spec: LayerSpec, *, block: Callable[..., Any], norm: Callable[..., Any]) -> None:
        super().__init__(spec, block=block, norm=norm)
        self.probes = [nn.Linear(spec.d_model, 1)]
        self._asked: Tensor | None = None

    def forward(self, asked: Asked) -> None:
        counted = asked.targets != IGNORED
        self._asked = self.probes[0](asked.hidden).squeeze(-1)[counted].square().mean()

    def penalty(self) -> Tensor:
        """Of the last pass."""
        assert self._asked is not None
        return self._asked
