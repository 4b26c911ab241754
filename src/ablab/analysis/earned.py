"""What pairing by seed has earned: how alike the two runs of a pair are, step by step and depth by depth.

Runs of one seed share initial values, data and their order, so that luck is common to both and leaves with their
difference. The longer and deeper a model is trained, the more of that is lost: small differences grow until both runs
of a pair are as far apart as two seeds are. What is left is said as a correlation r, and as the saving

    (var(variant) + var(baseline)) / var(variant - baseline),

by which factor a comparison of unpaired runs would need more seeds for a standard error as small. It is 1 / (1 - r)
where both vary alike, and less than 1 where pairing does harm (r < 0).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from ablab.analysis.baseline import Baselines
from ablab.analysis.chaos import ChaosShare, chaos_share, rounding_arm, rounding_differences
from ablab.analysis.curves import PairedCurves, Reader, paired_curves
from ablab.analysis.estimates import FEWEST_SEEDS, FloatArray, correlation
from ablab.analysis.pairing import choices, outcomes, variants
from ablab.config.axes import AXES
from ablab.results.collect import Runs

if TYPE_CHECKING:
    from ablab.analysis.comparison import Comparison

_AT_MOST = 1e6  # a saving beyond this is that of two runs without a difference


@dataclass(frozen=True)
class Earned:
    """The pairs of one comparison at one step of the training."""

    step: int
    pairs: int
    sd: float  # of the paired differences, in the metric's unit
    correlation: float | None  # None where one of the two does not vary
    saving: float | None  # None where neither varies
    chaos: ChaosShare | None = None  # None without runs that tell


@dataclass(frozen=True)
class AtDepth:
    """The comparisons of variants with so many layers with a baseline of as many."""

    layers: int
    comparisons: int
    correlation: float  # their median
    saving: float  # of the comparison in the middle


@dataclass(frozen=True)
class PairingEarned:
    """How alike the runs of a pair are at the value that is compared, and what that saves, over all comparisons."""

    comparisons: int  # that have a correlation
    correlation: float  # their median
    lowest: float
    highest: float
    saving: float  # of the comparison in the middle
    chaos: float | None  # the median share of rounding in what is left; None without runs that tell
    depths: tuple[AtDepth, ...]  # empty where all have as many layers


def saving(own: Sequence[float] | FloatArray, base: Sequence[float] | FloatArray) -> float | None:
    """How many times as many seeds an unpaired comparison would need; None below FEWEST_SEEDS or without spread."""
    if len(own) < FEWEST_SEEDS:
        return None
    first, second = np.asarray(own, dtype=float), np.asarray(base, dtype=float)
    apart, together = float(first.var() + second.var()), float((first - second).var())
    if apart == 0:
        return None
    return min(apart / together, _AT_MOST) if together else _AT_MOST


def saving_of(item: Comparison) -> float | None:
    """The saving of a comparison's own pairs, at the value that is compared."""
    base = item.baseline_values
    return saving([value + difference for value, difference in zip(base, item.differences, strict=True)], base)


def earned_by_step(
    runs: Runs, task: str, metric: str, baselines: Baselines, reader: Reader | None = None
) -> dict[str, list[Earned]]:
    """variant -> its pairs at each step that all of them were evaluated at; without those of too few seeds.

    Args:
        reader: of curves, so that a caller reads each file once.
    """
    found = paired_curves(runs.every, task, metric, baselines, reader=reader) if metric else {}
    nudged = _nudged(found, rounding_arm(runs, task, baselines.first))  # placebos are paired with the first
    return {
        variant: [
            Earned(
                step=int(step),
                pairs=len(pairs.seeds),
                sd=float((own - base).std(ddof=1)),
                correlation=correlation(own.tolist(), base.tolist()),
                saving=saving(own, base),
                chaos=chaos_share(own - base, at[step]) if step in at else None,
            )
            for step, own, base in zip(pairs.x.tolist(), pairs.own.T, pairs.base.T, strict=True)
        ]
        for variant, pairs in found.items()
        for at in [nudged if baselines.of(variant) == baselines.first else {}]
        if len(pairs.seeds) >= FEWEST_SEEDS and (task, variant) in runs.places
    }


def _nudged(found: Mapping[str, PairedCurves], arm: str | None) -> dict[float, FloatArray]:
    """What rounding alone makes of a baseline, at each step of its curves; nothing where no runs tell."""
    pairs = found.get(arm) if arm else None
    return dict(zip(pairs.x.tolist(), (pairs.own - pairs.base).T, strict=True)) if pairs else {}


def spaced(steps: Sequence[int], most: int = 5) -> list[int]:
    """At most so many of the ascending steps, the first and the last among them, each some times the one before."""
    if len(steps) <= most:
        return [*steps]
    first, last = max(steps[0], 1), steps[-1]
    wanted = [first * (last / first) ** (place / (most - 1)) for place in range(most)]
    return sorted({min(steps, key=lambda step: abs(step - at)) for at in wanted})


def earned_by_depth(runs: Runs, items: Sequence[Comparison], last_k: int = 1) -> tuple[AtDepth, ...]:
    """The pairs by the number of layers, the fewest first; empty where all have as many.

    A variant of another depth than the baseline is set beside the baseline of its own depth, where that was run.
    """
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for item in items:
        layers = _layers(runs, item.task, item.variant)
        if layers is None or (base := _baseline_of_depth(runs, item, layers)) in (None, item.variant):
            continue
        own, other = _values(runs, item, item.variant, last_k), _values(runs, item, base, last_k)
        seeds = [seed for seed in own if seed in other]
        pairs = [own[seed] for seed in seeds], [other[seed] for seed in seeds]
        r, saved = correlation(*pairs), saving(*pairs)
        if r is not None and saved is not None:
            found[layers].append((r, saved))
    if len(found) < 2:
        return ()
    return tuple(AtDepth(layers, len(each), *_middle(each)) for layers, each in sorted(found.items()))


def _values(runs: Runs, item: Comparison, variant: str, last_k: int) -> dict[int, float]:
    found = outcomes(runs, item.task, variant, item.metric, last_k)
    return {seed: outcome.value for seed, outcome in found.items() if outcome.complete}


def _baseline_of_depth(runs: Runs, item: Comparison, layers: int) -> str | None:
    """The baseline, or the variant that has the baseline's options and otherwise the settings of this one."""
    if _layers(runs, item.task, item.baseline) == layers:
        return item.baseline
    own, base = choices(runs, item.variant), choices(runs, item.baseline)
    wanted = {name: base[name] if name in AXES else value for name, value in own.items()}
    return next((variant for variant in variants(runs) if choices(runs, variant) == wanted), None)


def _layers(runs: Runs, task: str, variant: str) -> int | None:
    """The number of layers of the variant's runs; None where they differ, or it is not known."""
    models = [runs.records[place].config.get("model") for place in runs.places.get((task, variant), ())]
    depths = {model.get("n_layers") if isinstance(model, dict) else None for model in models}
    depth = depths.pop() if len(depths) == 1 else None
    return depth if isinstance(depth, int) else None


def pairing_earned(runs: Runs, items: Sequence[Comparison], last_k: int = 1) -> PairingEarned | None:
    """What the pairs of all comparisons have earned; None where none has the seeds that would tell.

    Variants that are the baseline under another name do not count.
    """
    able = [item for item in items if not item.identical]
    found = [(r, saved) for item in able if (r := item.correlation) is not None and (saved := saving_of(item))]
    if not found:
        return None
    alone = {
        (item.task, item.baseline): rounding_differences(runs, item.task, item.metric, item.baseline, last_k)
        for item in able
    }
    shares = [share.share for item in able if (share := chaos_share(item.differences, alone[item.task, item.baseline]))]
    return PairingEarned(
        comparisons=len(found),
        correlation=_middle(found)[0],
        lowest=min(found)[0],
        highest=max(found)[0],
        saving=_middle(found)[1],
        chaos=median(shares) if shares else None,
        depths=earned_by_depth(runs, able, last_k),
    )


def _middle(found: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The correlation and the saving of the comparison with the median correlation, the lower one of two."""
    return sorted(found)[(len(found) - 1) // 2]
