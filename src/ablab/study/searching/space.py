"""What is searched: intervals, ranges and choices of Hydra's overrides, as distributions of Optuna's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, ValueType

from ablab.config.overrides import not_too_many
from ablab.config.schema import OF_THE_STUDY
from ablab.errors import UserError
from ablab.study.designs.factors import written

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = dict[str, "BaseDistribution"]  # by key

_SEARCHED = (ValueType.INTERVAL_SWEEP, ValueType.RANGE_SWEEP, ValueType.CHOICE_SWEEP)
_DIGITS = 4  # of a number that is tried: enough for any rate, and short enough for tables
_EXAMPLE = "'optimizer.lr=tag(log, interval(1e-4, 1e-2))'"


def divide(overrides: Sequence[Override]) -> tuple[Space, list[Override]]:
    """What is searched, and the overrides that are not: those with one value, and variants (values between commas).

    Raises:
        UserError: nothing is searched, or something that cannot be.
    """
    space: Space = {}
    rest: list[Override] = []
    for override in overrides:
        key = override.get_key_element()
        space.pop(key, None)  # of two overrides of the same key the later one counts
        rest = [each for each in rest if each.get_key_element() != key]
        if override.value_type in _SEARCHED:
            _refuse_fixed(key, override)
            space[key] = _distribution(override)
        else:
            rest.append(override)
    if not space:
        raise UserError(f"hydra/sweeper=optuna: nothing is to be searched; write a setting as {_EXAMPLE}")
    return space, rest


def as_overrides(params: Mapping[str, Any]) -> dict[str, str]:
    """Values that Optuna asks for as overrides write them: numbers to four digits."""
    return {key: _text(value) for key, value in params.items()}


def corners(space: Space) -> list[dict[str, str]]:
    """All lowest and all highest values, or first and last ones: what can be tried out before anything is trained."""
    ends = {key: _ends(each) for key, each in space.items()}
    return [as_overrides({key: pair[place] for key, pair in ends.items()}) for place in (0, 1)]


def near_end(key: str, value: Any, space: Space) -> str | None:
    """The end of its interval that a value lies within a twentieth of, "low" or "high": a better one may lie beyond."""
    each: Any = space[key]
    if not isinstance(value, int | float) or not hasattr(each, "low"):
        return None
    scale = math.log if getattr(each, "log", False) else float
    low, high = scale(each.low), scale(each.high)
    place = (scale(value) - low) / (high - low) if high > low else 0.5
    return "low" if place < 0.05 else "high" if place > 0.95 else None


def _refuse_fixed(key: str, override: Override) -> None:
    name = key.lstrip("+~")
    first = name.split(".")[0].split("/")[0]
    if first in OF_THE_STUDY or first in ("seed", "task", "hydra"):
        raise UserError(f"{override.input_line}: {first} says what is compared, and cannot be searched")


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    log = "log" in sweep.tags
    try:
        if isinstance(sweep, IntervalSweep):
            kind: Any = IntDistribution if isinstance(sweep.start, int) else FloatDistribution
            return cast("BaseDistribution", kind(sweep.start, sweep.end, log=log))
        if log:
            raise UserError(f"{override.input_line}: log is for an interval")
        if isinstance(sweep, RangeSweep):
            values = not_too_many(override.sweep_iterator(), str(override.input_line))
            kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
            return cast("BaseDistribution", kind(values[0], values[-1], step=sweep.step))
        return CategoricalDistribution(not_too_many(override.sweep_string_iterator(), str(override.input_line)))
    except (ValueError, IndexError) as error:  # an empty one, or one whose ends are the wrong way round
        raise UserError(f"{override.input_line}: cannot be searched ({' '.join(str(error).split())})") from None


def _ends(each: Any) -> tuple[Any, Any]:
    return (each.choices[0], each.choices[-1]) if hasattr(each, "choices") else (each.low, each.high)


def _text(value: Any) -> str:
    if isinstance(value, str):  # of a choice, as it was written
        return value
    return written(float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value)
