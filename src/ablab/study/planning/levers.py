"""The settings by which a variant is brought to a budget, and the values of them that come nearest to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.study.planning.units import Unit
from ablab.tasks.base import Task
from ablab.training.build_model import build_model

WIDEST = 64  # times the hidden units that a variant has by itself

D_FF, D_MODEL, STEPS = "model.d_ff", "model.d_model", "trainer.max_steps"
N_KV_HEADS, KV_RANK, WINDOW = "model.n_kv_heads", "attention.kv_rank", "attention.window"


@dataclass(frozen=True)
class Measured:
    """A variant, and what it has of what is to be equal."""

    name: str
    config: RunConfig
    task: Task
    unit: Unit

    def with_(self, settings: dict[str, int]) -> int:
        """What it would have."""
        assert self.unit.measure is not None
        return self.unit.measure(self.config.with_values(settings), self.task)

    def before(self, key: str) -> int:
        """The value of a setting, or what its null stands for."""
        axis, name = key.split(".")
        value: int | None = self.config.options[axis][name]
        if value is not None:
            return value
        if key == KV_RANK:
            return int(self._layer.kv_rank)  # of latent attention
        return int(self.config.options["model"]["n_heads"]) if key == N_KV_HEADS else 4 * self.before(D_MODEL)

    @property
    def _layer(self) -> Any:
        """The first layer's attention, without values."""
        return next(build_model(self.config, self.task, device="meta").layers())[1].attention

    def has(self, lever: str) -> bool:
        """Whether it has the setting that a lever moves."""
        value = self.config.options["attention"].get(lever, "none")
        if lever == "window":
            return isinstance(value, int)
        if lever == "kv_rank":
            return bool(value != "none")
        if lever == "n_kv_heads":
            return bool(self._layer.groups_heads)
        return True


Lever = Callable[[Measured, int], dict[str, int]]


def pull(variant: Measured, wanted: int, lever: str | None) -> dict[str, int]:
    """The settings that bring a variant nearest to what is wanted; none where it has as much.

    Args:
        lever: by which; None: by the first of the unit's that the variant has.

    Raises:
        UserError: it has no such setting.
    """
    if lever is not None and not variant.has(lever):
        raise UserError(
            f"budget.adjust={lever}: {variant.config.chosen('attention')} has no such setting: "
            f"take {' or '.join(each for each in variant.unit.levers if variant.has(each))}"
        )
    chosen = next(each for each in variant.unit.levers if variant.has(each)) if lever is None else lever
    return LEVERS[chosen](variant, wanted)


def _by_d_ff(variant: Measured, wanted: int) -> dict[str, int]:
    """Hidden units of the feed-forward parts: the finest lever, which leaves heads and embeddings as they are."""
    before = variant.before(D_FF)
    value = variant.with_({})
    if value == wanted:
        return {D_FF: before}
    return {D_FF: _nearest(lambda width: variant.with_({D_FF: width}), wanted, WIDEST * before, {before: value})}


def _by_steps(variant: Measured, wanted: int) -> dict[str, int]:
    before, value = variant.before(STEPS), variant.with_({})
    if value == wanted:
        return {STEPS: before}
    highest = max(1, 2 * before * wanted // max(1, value))
    return {STEPS: _nearest(lambda steps: variant.with_({STEPS: steps}), wanted, highest, {before: value})}


def _by_d_model(variant: Measured, wanted: int) -> dict[str, int]:
    """The width of the stream, with hidden units in proportion, and these alone for what whole heads leave over."""
    before, hidden = variant.before(D_MODEL), variant.before(D_FF)
    value = variant.with_({})
    if value == wanted:
        return {D_MODEL: before}
    # Pairs of features, which rotary positions and their halves need, in every head.
    heads = 2 * variant.config.options["model"]["n_heads"]

    def scaled(count: int) -> dict[str, int]:
        width = heads * count
        return {D_MODEL: width, D_FF: max(1, round(hidden * width / before))}

    taken = {} if before % heads else {before // heads: value}
    count = _nearest(lambda count: variant.with_(scaled(count)), wanted, max(2, WIDEST * before // heads), taken)
    near = scaled(count)
    width = near[D_MODEL]

    def of_width(d_ff: int) -> int:
        return variant.with_({D_MODEL: width, D_FF: d_ff})

    known = {near[D_FF]: taken[count]} if count in taken else {}
    return {D_MODEL: width, D_FF: _nearest(of_width, wanted, WIDEST * hidden, known)}


def _nearest(measured: Callable[[int], int], wanted: int, highest: int, taken: dict[int, int] | None = None) -> int:
    """The whole number from 1 to `highest` whose measure, which rises with it, is nearest to what is wanted.

    Most measures rise evenly, and a model is built for each that is taken.

    Args:
        taken: measures that are known; those that are taken are added.
    """
    taken = {} if taken is None else taken
    low = max((number for number in taken if taken[number] <= wanted), default=1)
    high = min((number for number in taken if taken[number] > wanted), default=highest)
    while high - low > 1:
        number = _proportional(taken, wanted) if len(taken) == 1 else None
        if _EVEN_FROM <= len(taken) <= _EVEN_UNTIL:
            number = _on_the_line(taken, wanted)
        middle = (low + high) // 2 if number is None else min(max(number, low + 1), high - 1)
        taken[middle] = measured(middle)
        if taken[middle] <= wanted:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda number: abs((taken[number] if number in taken else measured(number)) - wanted))


_EVEN_FROM, _EVEN_UNTIL = 2, 8  # measures that are taken, between which the next is sought on a line through two


def _proportional(taken: dict[int, int], wanted: int) -> int:
    """The number that would have what is wanted if the measure were in proportion to it."""
    ((number, value),) = taken.items()
    return round(number * wanted / max(1, value))


def _on_the_line(taken: dict[int, int], wanted: int) -> int | None:
    """The number that would have what is wanted if measures rose evenly; None where these do not rise."""
    one, other = sorted(taken, key=lambda number: abs(taken[number] - wanted))[:2]
    rise = taken[other] - taken[one]
    return round(one + (wanted - taken[one]) * (other - one) / rise) if rise else None


def _by_n_kv_heads(variant: Measured, wanted: int) -> dict[str, int]:
    heads = int(variant.config.options["model"]["n_heads"])
    divisors = [count for count in range(1, heads + 1) if heads % count == 0]
    return {N_KV_HEADS: min(divisors, key=lambda count: abs(variant.with_({N_KV_HEADS: count}) - wanted))}


def _by_kv_rank(variant: Measured, wanted: int) -> dict[str, int]:
    return _by_one(variant, KV_RANK, wanted, WIDEST * variant.before(KV_RANK))


def _by_window(variant: Measured, wanted: int) -> dict[str, int]:
    return _by_one(variant, WINDOW, wanted, variant.config.budget.length)


def _by_one(variant: Measured, key: str, wanted: int, highest: int) -> dict[str, int]:
    before = variant.before(key)
    if variant.with_({}) == wanted:
        return {key: before}
    return {key: _nearest(lambda value: variant.with_({key: value}), wanted, highest)}


LEVERS: dict[str, Lever] = {
    "d_ff": _by_d_ff,
    "d_model": _by_d_model,
    "steps": _by_steps,
    "n_kv_heads": _by_n_kv_heads,
    "kv_rank": _by_kv_rank,
    "window": _by_window,
}
