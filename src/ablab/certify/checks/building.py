"""Whether it can be built: settings that are checked, sizes that models have, initial values of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from ablab.certify.outcomes import Failed
from ablab.certify.passes import Model
from ablab.certify.subject import Subject
from ablab.config.signature import hints_of, settings_of
from ablab.config.targets import import_target
from ablab.errors import UserError
from ablab.study.planning.preflight import check_options

UNKNOWN = "no_setting_of_anybody"


def settings(subject: Any) -> str:
    """Settings are known by name and type, so that a misspelt or wrong one is refused before anything runs."""
    axis, node = subject.axis, subject.node
    check_options(axis, subject.config.options)
    target = import_target(axis.name, node["_target_"])
    _check_unknown(subject)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = [name for name, each in settings_of(target).items() if each.kind in kinds]
    own, hints = [key for key in taken if key not in axis.supplied], hints_of(node["_target_"])
    untyped = [key for key in own if key not in hints]
    beside = f"; without a type, so that any value is accepted: {', '.join(untyped)}" if untyped else ""
    return f"{len(own)} settings, {len(own) - len(untyped)} of them typed{beside}"


def _check_unknown(subject: Any) -> None:
    """Raises Failed where a setting that there is not is taken all the same."""
    if not isinstance(subject, Subject):
        return
    try:
        subject.build(settings={UNKNOWN: 1})
    except (UserError, TypeError, ValueError):
        return
    raise Failed(f"takes any setting (**kwargs), {UNKNOWN}=1 for one: a misspelt one would be accepted in silence")


def builds(subject: Subject) -> str:
    """A model with it can be made: of the usual sizes, one layer, grouped heads, not causal, without values."""
    model = subject.build()
    refused: list[str] = []
    for _ in of_sizes(subject, refused):
        pass
    with torch.device("meta"):
        subject.build()
    count = sum(parameter.numel() for parameter in subject.own_parameters(model).values())
    if not subject.own(model):
        raise Failed("the model that was built has no module of it")
    return f"{count:,} parameters of its own" + (f"; refuses {'; '.join(refused)}" if refused else "")


def of_sizes(subject: Subject, refused: list[str] | None = None) -> Iterator[tuple[str, Model]]:
    """New models of other sizes, and what is said of each; those that it refuses are added to `refused`."""
    for said, changes in _SIZES.items():
        if subject.several and "causal" in changes:
            continue
        try:
            model = subject.build(**changes)
        except (ValueError, UserError) as error:  # it says that it cannot, and why
            if refused is not None:
                refused.append(f"{said} ({str(error)[:80]})")
        else:
            yield said, model


_SIZES: dict[str, dict[str, Any]] = {
    "one layer": {"n_layers": 1},
    "four layers of width 48": {"n_layers": 4, "d_model": 48, "n_heads": 3},
    "grouped heads": {"n_kv_heads": 2},
    "no biases": {"bias": False},
    "not causal": {"causal": False},
}
