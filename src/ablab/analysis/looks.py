"""What looking at a study more than once costs: its level is divided by the number of looks so far (Bonferroni).

At its j-th look a study's intervals, verdicts, equivalence tests, detectable effects and seeds needed are all at
`LEVEL` / j. Looking at the same study k times at `LEVEL` / k makes a false claim with at most the probability `LEVEL`.

How many looks there will be is not known at the first one, which has the whole `LEVEL` to itself. So whoever stops at
the first resolved verdict still claims falsely somewhat more often than that: at most at the sum of `LEVEL` / j.
By simulation (paired t, no effect, looks at 3, 5, 8 and 10 seeds, stopping at the first that is significant):

    every look at LEVEL                       .135
    the j-th at LEVEL / j, as here            .080
    all four at LEVEL / 4                     .039
    the j-th at LEVEL / (j (j + 1))           .034

The last holds `LEVEL` however many looks follow, and would set every study that is looked at once to 97.5%. That is too
much to ask of those who stick to the seeds they planned.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablab.analysis.estimates import LEVEL
from ablab.analysis.wording import confidence, without_zero
from ablab.results.looks import Look


def level_after(looks: int) -> float:
    """The level of each test and interval of a study that was looked at `looks` times. None counts as one."""
    return LEVEL / max(looks, 1)


def remark(looks: Sequence[Look]) -> str | None:
    """What readers are told where a study was looked at more than once."""
    if len(looks) < 2:
        return None
    level = level_after(len(looks))
    *before, last = (len(look.seeds) for look in looks)
    return (
        f"LOOKS  the study was looked at {len(looks)} times ({', '.join(map(str, before))}, then {last} seeds); "
        f"each interval is at {confidence(level)}, and p is held against {without_zero(level)}, so that "
        f"{len(looks)} looks at this level keep {LEVEL:.0%} together."
    )
