"""What `ablab plan` says of a study with seed=auto: its looks, their levels, the runs to expect, what it can show."""

from __future__ import annotations

from collections.abc import Sequence

from ablab.analysis.course import Course, course, detectable_at_last
from ablab.analysis.decisions import looks_at
from ablab.analysis.estimates import LEVEL
from ablab.analysis.futility import LookToCome
from ablab.analysis.power import POWER
from ablab.config.seeds import FUTILE, RESOLVED, SeedsConfig
from ablab.report.formatting import plural
from ablab.study.preview import Preview

EXAMPLE = 1.5  # an effect, in standard deviations of a paired difference


def look_lines(preview: Preview, seeds: SeedsConfig) -> list[str]:
    """Return the lines on the looks of a study that makes its seeds in blocks."""
    rows = len(preview.rows)
    tasks = len({row.first.task for row in preview.rows})
    compared = max(rows - tasks, 1)  # of which each task has one baseline
    looks = looks_at(seeds, LEVEL / compared)
    at = ", ".join(map(str, seeds.every_look[:-1]))
    places = f"{at} and {seeds.max}" if at else str(seeds.max)
    alone = looks_at(seeds, LEVEL)
    lines = [
        f"seed=auto: looks at {places} seeds ({seeds.spending}); seeds end where a comparison is "
        f"{' or '.join(seeds.stop)}",
        f"a comparison is resolved at p < {_levels(alone)}{_shared(looks, compared)}",
        f"{plural(rows * seeds.every_look[0], 'run')} to the first look, {rows * seeds.max} at most; "
        f"about {_runs(looks, 0.0, seeds, compared, tasks)} if nothing has an effect, about "
        f"{_runs(looks, EXAMPLE, seeds, compared, tasks)} if all have one of {EXAMPLE:g} standard deviations of the "
        "paired differences",
    ]
    if RESOLVED in seeds.stop:
        lines.append(_power(looks, seeds))
    return lines


def _shared(looks: Sequence[LookToCome], compared: int) -> str:
    return f"; while none of {compared} is, each at p < {_levels(looks)}" if compared > 1 else ""


def _levels(looks: Sequence[LookToCome]) -> str:
    """The level of each look, once where all are the same."""
    shown = [f"{look.level:.3g}".replace("0.", ".") for look in looks]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)


def _runs(looks: Sequence[LookToCome], effect: float, seeds: SeedsConfig, compared: int, tasks: int) -> int:
    """The runs of a study on average, whose variants all have the same effect."""
    each = course(looks, effect, max(compared // tasks, 1), FUTILE in seeds.stop)
    return round(compared * each.seeds + tasks * each.baseline_seeds)


def _power(looks: Sequence[LookToCome], seeds: SeedsConfig) -> str:
    futile = FUTILE in seeds.stop
    example: Course = course(looks, EXAMPLE, futile=futile)
    by = ", ".join(f"{power:.0%} by {look.seeds}" for look, power in zip(looks, example.resolved_by, strict=True))
    return (
        f"power: an effect of {detectable_at_last(looks, futile):.2f} standard deviations of the paired differences is "
        f"resolved {POWER:.0%} of the time; one of {EXAMPLE:g} {by} seeds"
    )
