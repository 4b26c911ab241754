"""Campaigns: proposals judged one after another against one baseline, as automated research makes them.

    from ablab.campaign import judge
    judged = judge("my_conf/activation/mine.yaml", campaign="outputs/campaign", baseline="model=tiny")
    judged.decision, judged.judgement.effect

`proposal` (from what a user names to the config of runs, and what tells one proposal from another), `sources` (the
files of its components), `no_effect` (is it the baseline?), `runs` (training them), `judge` (all of it, and
the ledger). What is concluded of the runs is
`ablab.analysis.campaign_verdict`'s, what a ledger holds `ablab.results.campaign`'s. `docs/judge.md` says how to use it.
"""

from ablab.campaign.judge import Judged, judge
from ablab.results.campaign import read_campaign

__all__ = ["Judged", "judge", "read_campaign"]
