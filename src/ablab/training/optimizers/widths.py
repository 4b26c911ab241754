"""How learning rates and weight decays follow the width of the model, by what an optimizer makes of gradients.

What a step adds to a layer's outputs must not depend on the width. How large it is for a step of a given learning rate
depends on the rule of the optimizer (Yang et al. 2022, arXiv 2203.03466, tables 3 and 8; Yang et al. 2023, "A Spectral
Condition for Feature Learning", arXiv 2310.17813):

* "elementwise": every number moves by about the learning rate, whatever its gradient is, in step with the inputs, so
  that changes add up over the fan-in: rates go by 1 / fan-in.
* "gradient": changes are gradients, which get smaller with the width by themselves: fan-out / fan-in.
* "spectral": updates are orthogonal matrices, made as large as AdamW's are by the root of the longer side. A change
  of the matrix's norm by root(fan-out / fan-in) moves outputs by their own size.

Decay is per unit of the learning rate, and takes the same share of a weight per step at every width: it grows as the
learning rate falls (Dey et al. 2025, "CompleteP", arXiv 2505.01618, table 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RMSprop

from ablab.errors import UserError
from ablab.model.parametrisation import Growth

Rule = Literal["elementwise", "gradient", "spectral"]

RATES: dict[Rule, Callable[[Growth], float]] = {
    "elementwise": lambda growth: 1 / growth.fan_in,
    "gradient": lambda growth: growth.fan_out / growth.fan_in,
    "spectral": lambda growth: math.sqrt(growth.fan_out / growth.fan_in / growth.longest),
}
_PYTORCHS: dict[type[Optimizer], Rule] = {
    SGD: "gradient",
    **dict.fromkeys((Adam, AdamW, Adamax, NAdam, Adagrad, RMSprop), "elementwise"),
}
GROWTH, FACTOR = "growth", "lr_factor"  # keys of an optimizer's group


def follow_widths(optimizer: Optimizer) -> None:
    """Set the learning rate and the decay of each group by how its parameters have grown.

    Raises:
        UserError: no rule is known.
    """
    for part in getattr(optimizer, "parts", [optimizer]):
        for group in part.param_groups:
            if (growth := group.get(GROWTH)) is not None:
                _follow(part, group, Growth(*growth))


def check_follows(optimizer: Optimizer) -> None:
    """Raise UserError where no rule is known, and change nothing."""
    for part in getattr(optimizer, "parts", [optimizer]):
        for group in part.param_groups:
            _follow(part, dict(group), Growth())


def rule_of(optimizer: type[Optimizer]) -> Rule | None:
    """The rule of an optimizer: what its class says by `width_rule`, or what PyTorch's class goes by; None: unknown."""
    said: Rule | None = getattr(optimizer, "width_rule", None)
    return said or next((_PYTORCHS[each] for each in optimizer.__mro__ if each in _PYTORCHS), None)


def _follow(optimizer: Optimizer, group: dict[str, Any], growth: Growth) -> None:
    name = type(optimizer).__name__
    rule = rule_of(type(optimizer))
    if rule not in RATES:
        raise UserError(
            f"parametrisation: no rule is known by which the learning rates of {name} follow the width: take "
            f"parametrisation=standard, or give the class a `width_rule` ({', '.join(RATES)})"
        )
    factor = RATES[rule](growth)
    if group.get("weight_decay") and rule == "elementwise" and not _decoupled(optimizer, group):
        raise UserError(
            f"parametrisation: {name} adds weight decay to gradients before it divides them by their size, for which "
            "no rule is known by which it follows the width: take optimizer.weight_decay=0, or optimizer=adamw"
        )
    group[FACTOR] = factor
    group["lr"] *= factor
    if group.get("weight_decay"):
        group["weight_decay"] /= factor


def _decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether an optimizer takes its decay off the weights themselves. PyTorch's own have it both ways."""
    ours = not any(each in _PYTORCHS for each in type(optimizer).__mro__)
    return ours or isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay"))
