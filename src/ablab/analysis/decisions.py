"""What a look at a study decides of each comparison: whether it is resolved, equivalent, futile, or open.

Only what is open gets further seeds (`ablab.study.seed_blocks`). A comparison is resolved or equivalent where its
verdict says so, which holds at the looks that there were (`ablab.analysis.family`). It is *futile* where a decision
has become improbable: where the predictive probability that one of the looks to come resolves it, or shows equivalence
where that ends its seeds, is below `FUTILE_BELOW` (`ablab.analysis.futility`). Nothing is bought by that: boundaries
are those of a study that never gives up (non-binding), so that one that goes on all the same errs no more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from ablab.analysis.comparison import Comparisons, ComparisonSettings, compare
from ablab.analysis.estimates import LEVEL
from ablab.analysis.family import weights
from ablab.analysis.futility import FUTILE_BELOW, LookToCome, chance_of_decision
from ablab.analysis.looks import planned_looks
from ablab.analysis.simulated_looks import Sides
from ablab.analysis.verdicts import RESOLVED, Comparison, Verdict
from ablab.config import ComparisonConfig
from ablab.config.seeds import EQUIVALENT, FUTILE, SeedsConfig, Spending
from ablab.config.seeds import RESOLVED as RESOLVED_WORD
from ablab.results.collect import Runs
from ablab.study.seed_blocks import OPEN, Decision

_SIDES: tuple[Sides, Sides] = (2, 1)  # of a test of no effect, and of each of those against the margin
# How verdicts are said behind which no seed is spent: those that none would change, and those of a variant that does
# not stand up to training, which more seeds might call otherwise.
_FINAL = {
    Verdict.NO_EFFECT: "no effect on the model",
    Verdict.NOT_COMPARABLE: "not comparable",
    Verdict.UNSTABLE: "unstable",
    Verdict.NO_PAIRS: "without pairs",
}

_CLAIMS = RESOLVED | {Verdict.EQUIVALENT}


def decide(runs: Runs, seeds: SeedsConfig, declared: ComparisonConfig) -> list[Decision]:
    """Decide on every comparison of the runs up to a look, on each task and on the suite of them.

    Args:
        runs: up to the look, with the looks that there were, this one the last of them.

    Raises:
        UserError: as `ablab.analysis.comparison.compare` does.
    """
    asked = {name: getattr(declared, name) for name in ("metric", "margin", "last_k", "split")}
    found = compare(runs, **cast("ComparisonSettings", asked))
    several, tasks = len(found.metrics) > 1, tuple(found.metrics)
    every = [(item, tasks, f" on the {item.task}") for item in found.suite]
    every += [(item, (item.task,), f" on {item.task}" if several else "") for item in found.items]
    alphas = _alphas(found)

    def there(variant: str, on: Sequence[str]) -> tuple[tuple[str, str], ...]:
        return tuple((task, variant) for task in on if (task, variant) in runs.places)

    return [
        Decision(
            label=f"{item.label}{where}",
            cells=there(item.variant, on),
            baselines=there(item.baseline, on),
            how=decided(item, seeds, alpha),
        )
        for (item, on, where), alpha in zip(every, alphas, strict=True)
    ]


def _alphas(found: Comparisons) -> list[float]:
    """The share of the level that each comparison has, on the suite and then on tasks, beside those still open."""
    kinds = [sum(item.estimate is not None for item in kind) for kind in (found.suite, found.items)]
    of_suite, of_task = weights(*kinds)
    each = [(item, of_suite) for item in found.suite] + [(item, of_task) for item in found.items]
    total = sum(weight for item, weight in each if item.estimate and item.verdict not in _CLAIMS)
    return [LEVEL * weight / max(total, weight) for _, weight in each]


def decided(item: Comparison, seeds: SeedsConfig, alpha: float) -> str:
    """How one comparison is decided, or that it is open.

    Args:
        alpha: its share of the level, by which it would be decided later.
    """
    if item.verdict in _FINAL:
        return _FINAL[item.verdict]
    if item.verdict in RESOLVED and RESOLVED_WORD in seeds.stop:
        return RESOLVED_WORD
    if item.verdict is Verdict.EQUIVALENT and EQUIVALENT in seeds.stop:
        return EQUIVALENT
    return FUTILE if FUTILE in seeds.stop and _is_futile(item, seeds, alpha) else OPEN


def _is_futile(item: Comparison, seeds: SeedsConfig, alpha: float) -> bool:
    if item.verdict is not Verdict.UNRESOLVED:
        return False
    by_margin = item.margin if EQUIVALENT in seeds.stop else None
    lacking = item.planned - len(item.differences)  # pairs of seeds that were run, which will not come any more
    later = [look for look in looks_at(seeds, alpha) if look.seeds > item.planned]
    to_come = [replace(look, seeds=look.seeds - lacking) for look in later]
    return bool(to_come) and chance_of_decision(item.differences, to_come, by_margin, item.choice or 0.0) < FUTILE_BELOW


def looks_at(seeds: SeedsConfig, alpha: float) -> list[LookToCome]:
    """The looks of a study, each with the levels that it has in a study, or a part of it, that may err in `alpha`."""
    planned = planned_looks(seeds.every_look, cast("Spending", seeds.spending))
    levels = (planned.levels(alpha, sides) for sides in _SIDES)
    return [LookToCome(*each) for each in zip(seeds.every_look, *levels, strict=True)]
