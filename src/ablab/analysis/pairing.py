"""Who is compared with whom: the baseline variant, and each variant's runs beside the baseline's, seed by seed."""

from __future__ import annotations

import contextlib
import difflib
import math
from dataclasses import dataclass
from functools import cached_property

from ablab.analysis.wording import plural
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.record import Record


@dataclass(frozen=True)
class Outcome:
    """One run as a pair sees it: `value` is NaN unless the run is ok and has a finite value of the metric."""

    record: Record
    path: str
    value: float
    repeats: int = 0  # further finished runs of the same variant, task and seed, which do not count
    last_k: int = 1  # evaluations that `value` is the mean of

    @property
    def complete(self) -> bool:
        return math.isfinite(self.value)

    def reason(self, metric: str) -> str:
        """Why there is no value: "failed (out of memory)"."""
        evaluations = len(self.record.last.get(metric, ()))
        if self.record.status == "ok" and evaluations < self.last_k != 1:
            return (
                f"ok, but with {plural(evaluations, 'evaluation')} of {metric}, and the last {self.last_k} are averaged"
            )
        if self.record.status == "ok":
            return f"ok, but without a finite {metric or 'metric'}"
        return f"{self.record.status} ({self.record.reason})" if self.record.reason else self.record.status


@dataclass(frozen=True)
class Pairing:
    """A variant's outcomes and its baseline's on one task, by seed."""

    variant: str
    baseline: str
    task: str
    metric: str
    of_variant: dict[int, Outcome]
    of_baseline: dict[int, Outcome]

    @cached_property
    def planned(self) -> list[int]:
        """Every seed that either of the two was given."""
        return sorted({*self.of_variant, *self.of_baseline})

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that both have a value for."""
        return [
            seed
            for seed in self.planned
            if all(seed in side and side[seed].complete for side in (self.of_variant, self.of_baseline))
        ]

    @cached_property
    def values(self) -> list[float]:
        return [self.of_variant[seed].value for seed in self.seeds]

    @cached_property
    def baseline_values(self) -> list[float]:
        return [self.of_baseline[seed].value for seed in self.seeds]

    @cached_property
    def differences(self) -> list[float]:
        """Variant minus baseline, one per complete pair, in the metric's unit."""
        return [value - other for value, other in zip(self.values, self.baseline_values, strict=True)]

    @property
    def pairs(self) -> list[tuple[Record, Record]]:
        """The records of the complete pairs, (variant, baseline)."""
        return [(self.of_variant[seed].record, self.of_baseline[seed].record) for seed in self.seeds]

    def gaps(self) -> list[str]:
        """One line per seed of the variant without a value, and per seed that the baseline was not given."""
        missing = [f"seed {seed} was not run." for seed in self.planned if seed not in self.of_variant]
        unpaired = [f"baseline seed {seed} was not run." for seed in self.planned if seed not in self.of_baseline]
        return remarks(self.of_variant, self.metric) + missing + unpaired


def remarks(side: dict[int, Outcome], metric: str) -> list[str]:
    """One line per seed that has no value, that was finished more than once, or whose run has a remark of its own."""
    lines = []
    for seed, outcome in side.items():
        if not outcome.complete:
            lines.append(f"seed {seed}: {outcome.reason(metric)}.")
        if outcome.repeats:
            lines.append(f"seed {seed} was finished {outcome.repeats + 1} times: the first one counts.")
        lines += [f"seed {seed}: {note}." for note in outcome.record.notes]
    return lines


def outcomes(runs: Runs, task: str, variant: str, metric: str, last_k: int = 1) -> dict[int, Outcome]:
    """What counts for each seed of `variant` on `task`: its final value, or the mean of its last `last_k` evaluations.

    Where a seed was run more than once, the first run that came to an end of its own (ok or diverged) counts: a run
    that was killed is run again, but running until a result pleases must not help.
    """
    by_seed: dict[int, list[tuple[Record, str]]] = {}
    for place in runs.places.get((task, variant), ()):
        record = runs.records[place]
        by_seed.setdefault(record.seed, []).append((record, runs.paths[place]))
    chosen = {}
    for seed, found in sorted(by_seed.items()):
        ended = [item for item in found if item[0].status in ("ok", "diverged")]
        record, path = min(ended, key=lambda item: item[0].finished_at or "") if ended else found[-1]
        value = value_of(record, metric, last_k) if record.status == "ok" else math.nan
        chosen[seed] = Outcome(record, path, value, repeats=max(len(ended) - 1, 0), last_k=last_k)
    return chosen


def value_of(record: Record, metric: str, last_k: int = 1) -> float:
    """The record's `metric`, mechanism metric or cost of that name; NaN where it has none.

    Args:
        last_k: more than 1 for the mean of so many last evaluations; NaN where the run was evaluated less often.
    """
    if last_k > 1:
        evaluations = record.last.get(metric, [])[-last_k:]
        return math.fsum(evaluations) / last_k if len(evaluations) == last_k else math.nan
    for place in (record.metrics, record.mechanism, vars(record.cost)):
        value = place.get(metric)
        if isinstance(value, int | float):
            return float(value)
    return math.nan


def variants(runs: Runs) -> list[str]:
    """The variants in the order of the plan."""
    return runs.variants


def tasks(runs: Runs) -> list[str]:
    """The tasks in the order of the plan."""
    return runs.tasks


def choices(runs: Runs, variant: str) -> dict[str, str]:
    """factor -> option or value of `variant`, "" where it has no such setting."""
    return runs.choices[variant]


def label(runs: Runs, variant: str, baseline: str) -> str:
    """`variant` by what sets it apart from `baseline`: the option alone if one axis differs, else "name=value,...".

    A variant that its study has given a name is known by that.
    """
    if "=" not in variant and runs.factors:
        return variant
    own, other = choices(runs, variant), choices(runs, baseline)
    differing = {name: value for name, value in own.items() if value != other[name] and value}
    if len(differing) == 1:
        ((name, value),) = differing.items()
        elsewhere = any(value in options for factor, options in runs.options.items() if factor != name)
        if name in runs.records[0].axes and not elsewhere:
            return value
    return ",".join(f"{name}={value}" for name, value in differing.items()) or variant


def declared_baseline(runs: Runs) -> str | None:
    """The baseline that the study of these runs declares, if all of them agree on one."""
    declared = {record.declared_baseline for record in runs.records}
    return declared.pop() if len(declared) == 1 else None


def choose_baseline(runs: Runs, wanted: str | None = None) -> str:
    """The variant that the others are compared with: the one that is wanted, else the one that the study declares as
    its baseline, else the first of the plan.

    Args:
        wanted: overrides such as "attention=full,activation=relu". Factors that it does not name keep the value of the
            first variant of the plan, which is also the baseline if nothing is wanted. Settings below a named axis
            (`attention.window` of `attention=windowed`) need not be named.

    Raises:
        UserError: an unknown factor or option, or no run of that combination.
    """
    known = variants(runs)
    if not wanted:
        with contextlib.suppress(UserError):  # a sweep that left the declared baseline out; `compare` says so
            return choose_baseline(runs, declared) if (declared := declared_baseline(runs)) else known[0]
        return known[0]
    if wanted in known:
        return wanted
    asked = dict(_override(runs, part) for part in BETWEEN_OVERRIDES.split(wanted))
    first = choices(runs, known[0])
    for variant in known:
        own = choices(runs, variant)
        if all(own[name] == asked.get(name, first[name]) for name in own if name in asked or not _below(name, asked)):
            return variant
    raise UserError(f"baseline {wanted}: no run of this combination; there are {', '.join(known)}")


def _below(name: str, asked: dict[str, str]) -> bool:
    return name.split(".")[0] in asked


def _override(runs: Runs, text: str) -> tuple[str, str]:
    """("attention", "full") from "attention=full", if some run has that."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"baseline {text}: write it as factor=option, for example {variants(runs)[0]}")
    fixed = {record.axes.get(name) for record in runs.records}
    if name not in runs.factors and fixed == {value}:
        return name, value  # true of every run, if not a factor
    if name not in runs.factors:
        raise UserError(f"baseline {text}: {name} is not a factor of these runs{_nearest(name, runs.factors)}")
    options = runs.options[name]
    if value not in options:
        raise UserError(f"baseline {text}: no run has {name}={value}{_nearest(value, options)}")
    return name, value


def _nearest(name: str, available: list[str]) -> str:
    """The end of a message: what was perhaps meant, or what there is."""
    close = difflib.get_close_matches(name, available, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(available)}" if available else "; only one variant was run"
