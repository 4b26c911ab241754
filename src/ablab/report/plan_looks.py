"""What `ablab plan` says of a study with seed=auto: its looks, their levels, the runs to expect, what it can show."""

from __future__ import annotations

from ablab.analysis.course import course, detectable_at_last
from ablab.analysis.decisions import looks_at
from ablab.analysis.estimates import LEVEL
from ablab.analysis.power import POWER
from ablab.config.seeds import RESOLVED, SeedsConfig
from ablab.report.formatting import plural
from ablab.study.preview import Preview

EXAMPLE = 1.5  # an effect, in standard deviations of a paired difference


def look_lines(preview: Preview, seeds: SeedsConfig, sharing: int) -> list[str]:
    """Return the lines on the looks of a study that makes its seeds in blocks.

    Args:
        sharing: comparisons that share the level alike.
    """
    rows, looks = len(preview.rows), seeds.every_look
    at = f"{', '.join(map(str, looks[:-1]))} and {looks[-1]}" if len(looks) > 1 else str(looks[0])
    alone, together = (_levels(seeds, LEVEL / count) for count in (1, sharing))
    shared = f"; each of {sharing} at p < {together} while none is" if sharing > 1 else ""
    nothing, example = (_runs(preview, seeds, effect, sharing) for effect in (0.0, EXAMPLE))
    lines = [
        f"seed=auto: looks at {at} seeds; a variant gets no further ones when it is {' or '.join(seeds.stop)}",
        f"a comparison alone is resolved at p < {alone} ({seeds.spending}){shared}",
        f"{plural(rows * looks[0], 'run')} to the first look, {rows * seeds.max} at most; about {nothing} if nothing "
        f"has an effect, about {example} if all have one of {EXAMPLE:g} standard deviations of the paired differences",
    ]
    return [*lines, _power(seeds, sharing)] if RESOLVED in seeds.stop else lines


def _levels(seeds: SeedsConfig, alpha: float) -> str:
    """The level of each look, once where all are the same."""
    shown = [f"{look.level:.3g}".replace("0.", ".") for look in looks_at(seeds, alpha)]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)


def _runs(preview: Preview, seeds: SeedsConfig, effect: float, sharing: int) -> int:
    """The runs of a study on average, whose variants all have the same effect."""
    tasks = [row.first.task for row in preview.rows]
    variants = [tasks.count(task) - 1 for task in dict.fromkeys(tasks)]
    return round(sum(course(seeds, effect, count, max(sharing, count)).runs for count in variants if count))


def _power(seeds: SeedsConfig, sharing: int) -> str:
    example = course(seeds, EXAMPLE, family=sharing)
    by = ", ".join(f"{example.resolved_by(place):.0%} by {look}" for place, look in enumerate(seeds.every_look))
    only = ", if it is the only one," if sharing > 1 else ""
    return (
        f"power: an effect of {detectable_at_last(seeds, sharing):.2f} standard deviations of the paired differences"
        f"{only} is resolved {POWER:.0%} of the time; one of {EXAMPLE:g} {by} seeds"
    )
