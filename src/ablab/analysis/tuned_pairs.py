"""What tuning says of a comparison: at which settings the two trained, and what it would be one step away from them.

That a verdict holds at the rates that were chosen is one thing; that it does not hang on them, another. The tuning
runs of both sides are paired by seed as those that are compared are: the effect with both of them one step of the grid
lower, and one step higher, is read off them, each side beside what was chosen for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from ablab.analysis.costs import Pairs
from ablab.analysis.pairing import Pairing
from ablab.analysis.tuned import Tuned, Values, tuning_of
from ablab.analysis.tuning_notes import Away, Chosen, OneStepAway, Step, TunedSettings
from ablab.config.value_types import is_number
from ablab.results.record import Record


def tuned_settings(pairs: Pairs) -> TunedSettings | None:
    """The settings that the two were tuned to, and how; None where neither was."""
    own, base = (_tunings(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    every = [*own, *base]
    if not any(tuned.settings for tuned in every):
        return None
    steps = {tuned.max_steps for tuned in every} - {None}
    return TunedSettings(
        own=_chosen(own),
        baseline=_chosen(base),
        same_grid=_same_grid(every),
        edges=tuple(sorted({edge for tuned in every for edge in tuned.edges}, key=str)),
        extended=tuple(sorted({(key, *steps) for tuned in every for key, steps in _extended(tuned)})),
        points=(_points(own), _points(base)),
        lacking=(_lacking(own), _lacking(base)),
        max_steps=steps.pop() if len(steps) == 1 else None,
        known=all(tuned.points for tuned in every),
    )


def one_step_away(pairing: Pairing) -> list[OneStepAway]:
    """For each number that was tuned, the effect a step to either side; none where the tuning runs do not tell."""
    if not pairing.pairs:
        return []
    own, base = (_the_one(_tunings(side)) for side in zip(*pairing.pairs, strict=True))
    keys = dict.fromkeys(key for tuned in (own, base) if tuned for key in tuned.settings)
    return [note for key in keys if (note := _away(key, own, base, pairing.metric))]


def _tunings(side: Iterable[Record]) -> list[Tuned]:
    """The tunings of some runs, each once."""
    found = [tuned for record in side if (tuned := tuning_of(record))]
    return list({tuned.told: tuned for tuned in found}.values())


def _the_one(tunings: Sequence[Tuned]) -> Tuned | None:
    return tunings[0] if len(tunings) == 1 and tunings[0].points else None


def _chosen(tunings: Iterable[Tuned]) -> tuple[Chosen, ...]:
    return tuple(sorted({tuple(tuned.settings.items()) for tuned in tunings if tuned.settings}, key=str))


def _points(tunings: Sequence[Tuned]) -> int:
    return max((len(tuned.tried) for tuned in tunings), default=0)


def _lacking(tunings: Iterable[Tuned]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for tuned in tunings for key in tuned.lacking))


def _extended(tuned: Tuned) -> list[tuple[str, tuple[int, int]]]:
    return [(key, (steps[0], steps[1])) for key, steps in tuned.extended.items()]


def _same_grid(tunings: Sequence[Tuned]) -> bool:
    keys = dict.fromkeys(key for tuned in tunings for key in tuned.settings)
    grids = ({tuple(tuned.grid(key)) for tuned in tunings if key in tuned.settings} for key in keys)
    return all(len(grid) == 1 for grid in grids)


def _away(key: str, own: Tuned | None, base: Tuned | None, metric: str) -> OneStepAway | None:
    tuned = [side for side in (own, base) if side and key in side.settings]
    if not all(is_number(value) for side in tuned for value in side.grid(key)):
        return None
    here = _effect([_at(side, key, 0, metric) for side in (own, base)], own, base)
    if here is None or own is None or base is None:
        return None
    steps: tuple[Step, Step] = (-1, 1)
    away = tuple(_one(step, key, own, base, metric) for step in steps)
    return OneStepAway(key, len({*own.seeds} & {*base.seeds}), here, away)


def _one(step: Step, key: str, own: Tuned, base: Tuned, metric: str) -> Away:
    values = [_at(side, key, step, metric) for side in (own, base)]
    own_value, base_value = _neighbour(own, key, step), _neighbour(base, key, step)
    if any(each is None for each in values):
        return Away(step, own_value, base_value, effect=None, why="not tried")
    effect = _effect(values, own, base)
    return Away(step, own_value, base_value, effect=effect, why="" if effect is not None else "did not end well")


def _neighbour(side: Tuned, key: str, step: int) -> Any:
    """The value of a key a step away from what was chosen; None at the end of the grid, or where it is not tuned."""
    if key not in side.settings:
        return None
    grid = side.grid(key)
    place = grid.index(side.settings[key]) + step
    return grid[place] if 0 <= place < len(grid) else None


def _at(side: Tuned | None, key: str, step: int, metric: str) -> Values | None:
    """What a side came to; where it has not the key, as it was chosen. None where that was not tried."""
    if side is None:
        return None
    if key not in side.settings:
        return side.values(side.chosen, metric) if side.chosen is not None else None
    value = _neighbour(side, key, step)
    return None if value is None else side.at(key, value, metric)


def _effect(values: Sequence[Values | None], own: Tuned | None, base: Tuned | None) -> float | None:
    """The mean difference over the tuning seeds that both have; None where some run did not end well."""
    first, second = values
    if own is None or base is None or not first or not second:
        return None
    by_seed = [dict(zip(side.seeds, each, strict=False)) for side, each in ((own, first), (base, second))]
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in by_seed[0] if seed in by_seed[1]]
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    return fmean(differences) if pairs and len(differences) == len(pairs) else None
