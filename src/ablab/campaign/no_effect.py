"""Is a proposal's model the baseline's, and its training? Told by their configs, so that it costs no run.

What two untrained models do on a few samples shows no more than that: a limit, or a threshold, is out of sight of
initial values, and training may reach it. Whether such a proposal does anything is for its first run to tell.
"""

from __future__ import annotations

from ablab.config import AXES, RunConfig
from ablab.config.identity import IDENTITY_EXCLUDES, differences
from ablab.config.placebo import KEY, KINDS

_NAMES = {"axes", *(f"axes.{axis}" for axis in AXES)}  # of options: what they are made of counts


def has_no_effect(proposal: RunConfig, baseline: RunConfig) -> str:
    """What the proposal is beside the baseline, if its config says that it can have no effect; else "".

    It can where each part is made of the same component with the same settings, by whatever names they are chosen, but
    for placebos, which are made so that they cannot matter.
    """
    excluded = IDENTITY_EXCLUDES | _NAMES
    found = list(differences(proposal.to_dict(), baseline.to_dict(), excluded))
    if not found:
        return "its components and settings are the baseline's"
    [(key, *kinds), *more] = found
    if more or key != KEY or not all(kind in (None, *KINDS) for kind in kinds):
        return ""
    return f"its components and settings are the baseline's but for {KEY}, which cannot matter"
