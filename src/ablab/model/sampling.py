"""Which token comes next: the likeliest, or one that is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_RANGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


class SettingError(ValueError):
    """A setting of the user's that cannot be: `name`=`value`, and what it must be."""

    def __init__(self, name: str, value: object, words: str) -> None:
        super().__init__(f"{name}={value}: {words}")
        self.name, self.value, self.words = name, value, words


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a token is chosen.

    Args:
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_k: draw among this many likeliest tokens; None: among all.
        top_p: of these draw among the fewest likeliest ones whose probabilities, at this temperature, add up to at
            least as much (Holtzman et al. 2020, arXiv 1904.09751, section 3.1); at least one. None: among all.

    Raises:
        SettingError: a setting is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:  # NaN is not either
            raise SettingError("temperature", self.temperature, "must be at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise SettingError("top_k", self.top_k, "must be at least 1")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise SettingError("top_p", self.top_p, "must lie in 0..1")

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        """A token, by its logits (V,).

        Args:
            generator: on the CPU, as the logits; greedy choices draw nothing from it.

        Raises:
            ValueError: the logits are not numbers.
        """
        if logits.isnan().any() or logits.max().isinf():
            raise ValueError("the model's logits are infinite or NaN: did its training diverge?")
        if self.temperature == 0:
            return int(logits.argmax())
        tokens, weights = self.among(logits)
        return int(tokens[torch.multinomial(weights, 1, generator=generator)])

    def among(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that may be drawn, the likeliest first, and their weights, by logits (V,), at a temperature above
        0; the weights need not add up to 1."""
        size = len(logits)
        likeliest = logits.float().topk(size if self.top_k is None else min(self.top_k, size))
        # Relative to the largest, so that a temperature close to 0 makes no infinities; none is 0 or inf in float32.
        scores = (likeliest.values - likeliest.values[0]) / min(max(self.temperature, _RANGE[0]), _RANGE[1])
        weights = scores.softmax(-1)
        if self.top_p is None or self.top_p == 1:
            return likeliest.indices, weights
        before = weights.double().cumsum(-1) - weights.double()
        count = max(1, int((before < self.top_p).sum()))
        return likeliest.indices[:count], weights[:count]


GREEDY = Sampler(temperature=0)
