"""The search of a study for the settings that suit each variant: the same points for all, and one budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ablab.config import RunConfig
from ablab.config.nearest import nearest
from ablab.config.schema import TUNING_FOLDER
from ablab.config.tune import RATE, TUNABLE, Scalar, said
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.run_context import TuningReport
from ablab.study.designs.factors import written
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.trials.choice import best_of, end_of, hints, report_of, shown, told, unjudged, without
from ablab.study.trials.points import Point, Side, beyond, check_size, points_of, projected
from ablab.study.trials.trial import first_of_each, record_in, trial

Check = Callable[[RunConfig], object]  # raises UserError for a run that cannot work


class Search:
    """The tuning of all variants of a plan."""

    def __init__(self, compose: Composer, plan: Sequence[Run], check: Check) -> None:
        self._compose, self._check = compose, check
        self.variants = first_of_each(plan)
        self._configs = {variant: compose(run)[0] for variant, run in self.variants.items()}
        first = next(iter(self._configs.values()))
        self._tune = first.tune
        self._given = first.tune.grids
        self.grids: dict[str, list[Scalar]] = dict(self._given)
        self.seeds: list[int] = list(first.tune.seeds)
        self.keys = {variant: own_keys(config, self.grids) for variant, config in self._configs.items()}
        self._steps: dict[str, list[int]] = {}  # key -> by how many values its grid has grown, below and above
        self._ended: set[tuple[str, Side]] = set()  # grids that cannot grow there
        self._trials: dict[tuple[Any, ...], Run] = {}

    def points(self, variant: str) -> list[Point]:
        """What a variant is tried at, in ascending order."""
        keys = self.keys[variant]
        return projected(points_of(self.grids, self._tune.trials), keys) if keys else []

    @property
    def counts(self) -> dict[str, int]:
        """The tuning runs of each variant, without those by which grids will be extended."""
        return {variant: len(self.points(variant)) * len(self.seeds) for variant in self.variants}

    def done(self, ended: Callable[[Run], bool]) -> dict[str, int]:
        """Those of each variant that are done with.

        Args:
            ended: whether one is, as `Before.has_ended` tells.
        """
        trials = {
            v: [self._trial(v, point, s, 0) for point in self.points(v) for s in self.seeds] for v in self.variants
        }
        return {variant: sum(map(ended, made)) for variant, made in trials.items()}

    @property
    def count(self) -> int:
        """Those of all variants."""
        return sum(self.counts.values())

    @property
    def most(self) -> int:
        """Those of all variants if every grid that can be extended is, to either side as far as it may."""
        if not self._extends:
            return self.count
        grown = {key: len(values) + self._reach(key) for key, values in self._given.items()}
        each = [math.prod(grown[key] for key in keys) for keys in self.keys.values() if keys]
        return sum(each) * len(self.seeds)

    @property
    def _extends(self) -> bool:
        """Whether grids are whole: a number of points that somebody gave is the budget, and stays."""
        return self._tune.trials is None

    def _reach(self, key: str) -> int:
        given = self._given[key]
        return 0 if beyond(given, given, "largest") is None else 2 * self._tune.extend

    def check_keys(self) -> None:
        """Raises UserError for a key that no variant has, with the nearest of those that there are; or for too many."""
        check_size(self.grids, self._tune.trials)
        for key in self.grids:
            if not any(key in keys for keys in self.keys.values()):
                known = dict.fromkeys(name for config in self._configs.values() for name in _settings(config))
                axis = [name for name in known if name.startswith(f"{key.split('.')[0]}.")]
                raise UserError(f"{said(key)}: no variant has the setting {key}{nearest(key, known, axis)}")

    def check_values(self) -> None:
        """Raises UserError where a variant cannot be built with one of the values that it is to be tried at."""
        for variant, keys in self.keys.items():
            others = [(key, value) for key in keys if key != RATE for value in self.grids[key]]
            first = self.points(variant)[:1]  # where rates alone are tuned, the runs may still be too short
            for point in projected([*first, *(self._with(variant, *each) for each in others)], keys):
                self._try_out(variant, point)

    def _with(self, variant: str, key: str, value: Scalar) -> Point:
        """A point of a variant at that value."""
        return next(point for point in self.points(variant) if key in point) | {key: value}

    def _try_out(self, variant: str, point: Point) -> None:
        try:
            self._check(self._compose(self._trial(variant, point, self.seeds[0], 0))[0])
        except UserError as error:
            raise UserError(f"{error} [in a tuning run of {variant or 'the one variant'}]") from error

    def outline(self) -> str:
        """What is tuned, in a line."""
        counts = {variant: len(self.points(variant)) for variant in self.variants}
        least, most = min(counts.values()), max(counts.values())
        points = f"{most}" if least == most else f"{least} to {most}"
        what = "rates" if list(self.grids) == [RATE] else "points"
        return f"tuning {', '.join(self.grids)}: {len(counts)} x {points} {what} on {len(self.seeds)} seeds"

    def launch(self, launch: Callable[[list[Run]], object]) -> None:
        """Run what has not been run yet of all that is to be tried."""
        left = []
        for variant in self.variants:
            for point in self.points(variant):
                for seed in self.seeds:
                    key = (variant, *point.items(), seed)
                    if key not in self._trials:
                        self._trials[key] = self._trial(variant, point, seed, len(self._trials))
                        left.append(self._trials[key])
        launch(left)

    def results(self, variant: str) -> list[tuple[Point, list[Record | None]]]:
        """Each point of a variant with its records, by seed."""
        return [(point, [self._record(variant, point, seed) for seed in self.seeds]) for point in self.points(variant)]

    def grow(self) -> bool:
        """Extend each grid at each end where the best of a variant lies, for all variants; whether any was."""
        grown = False
        for key, side, variant in dict.fromkeys(self._wanted()):
            place = 0 if side == "smallest" else 1
            steps = self._steps.setdefault(key, [0, 0])
            value = beyond(self._given[key], self.grids[key], side)
            if value is None or steps[place] >= self._tune.extend or (key, side) in self._ended:
                continue
            if (why := self._refusal(key, value)) is not None:
                self._ended.add((key, side))
                print(f"{said(key)}: not extended beyond its {side} value ({why})")
                continue
            print(f"{said(key)}: extended to {value:g} for all variants, since the {side} is the best of {variant}")
            self.grids[key] = sorted([*self.grids[key], value])  # type: ignore[type-var]
            steps[place] += 1
            grown = True
        return grown

    def _wanted(self) -> Iterator[tuple[str, Side, str]]:
        """The ends at which the best of some variant lies; the first variant of each is named."""
        met: set[tuple[str, Side]] = set()
        for variant in self.variants if self._extends else ():
            for key, side in self._ends(variant):
                if (key, side) not in met:
                    met.add((key, side))
                    yield key, side, variant or "the one variant"

    def _ends(self, variant: str) -> Iterator[tuple[str, Side]]:
        results = self.results(variant)
        best = best_of(results)
        if best is None:  # at smaller rates what diverged may not
            diverged = any(record and record.status == "diverged" for _, records in results for record in records)
            if diverged and RATE in self.keys[variant]:
                yield RATE, "smallest"
            return
        for key, value in best.items():
            if (side := end_of(value, self.grids[key])) is not None:
                yield key, side

    def _refusal(self, key: str, value: float) -> str | None:
        """Why some variant cannot have the value; None if all can that have the key."""
        try:
            for variant, keys in self.keys.items():
                if key in keys and key != RATE:
                    self._try_out(variant, self._with(variant, key, value))
        except UserError as error:
            return str(error)
        return None

    def report(self, variant: str) -> TuningReport:
        """What was chosen for a variant, and what was tried. Raises UserError where nothing ended well."""
        results, name = self.results(variant), variant or "the one variant"
        if not results:
            return TuningReport(lacking=[*self.grids])
        best = best_of(results)
        if best is None:
            what = "learning rate of tune.lr" if list(self.grids) == [RATE] else "point that tune tries"
            raise UserError(f"{name}: no {what} ended well; lower the rates, or see the logs below tune/")
        made = report_of(best, results, self.grids)
        lacking = [key for key in self.grids if key not in self.keys[variant]]
        print(f"{name}: {told(best, results)}{hints(made, self.grids)}{without(lacking)}{unjudged(results)}")
        extended = {key: steps for key, steps in self._steps.items() if any(steps) and key in best}
        return TuningReport(**{**vars(made), "extended": extended, "lacking": lacking})

    def _record(self, variant: str, point: Point, seed: int) -> Record | None:
        return record_in(self._compose(self._trials[variant, *point.items(), seed])[1])

    def _trial(self, variant: str, point: Point, seed: int, index: int) -> Run:
        steps = self._tune.max_steps
        shorter = [] if steps is None else [f"trainer.max_steps={steps}"]
        named = [f"{'lr' if key == RATE else key}={shown(value)}" for key, value in point.items()]
        return trial(
            self.variants[variant],
            label=" ".join(filter(None, ["tune", variant, *named])),
            seed=seed,
            index=index,
            folder=[TUNING_FOLDER, variant, ",".join(named), f"seed={seed}"],
            without=(*(f"{key}=" for key in point), "tune."),
            settings=[*shorter, "tune.trials=0", *(f"{key}={written(value)}" for key, value in point.items())],
        )


def own_keys(config: RunConfig, keys: Iterable[str]) -> list[str]:
    """Those of dotted keys that a config has."""
    return [key for key in keys if _has(config, key)]


def _has(config: RunConfig, key: str) -> bool:
    node: Any = config.options
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return not isinstance(node, Mapping)


def _settings(config: RunConfig) -> Iterator[str]:
    """Yield the dotted keys of a config at which something can be tuned."""
    for axis in TUNABLE:
        yield from _leaves(axis, config.options.get(axis) or {})


def _leaves(prefix: str, node: Mapping[str, Any]) -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{prefix}.{name}", value)
        elif not name.startswith("_"):
            yield f"{prefix}.{name}"
