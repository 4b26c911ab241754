"""The rules of the ladder that runs are of, as their records have them: what the sizes of a study have followed."""

from __future__ import annotations

from ablab.analysis.study_notes import LadderRules
from ablab.results.collect import Runs


def ladder_rules(runs: Runs) -> list[LadderRules]:
    """The rules of each ladder among the runs; as a rule of one, or of none."""
    sizes: dict[LadderRules, set[str]] = {}
    for record in runs.records:
        asked, found = record.config.get("ladder"), record.ladder
        if record.rung is None or not isinstance(asked, dict) or not found:
            continue
        rules = LadderRules(
            tokens_per_parameter=asked.get("tokens_per_parameter"),
            depth=str(asked.get("depth")),
            heads=str(asked.get("heads")),
            batch=str(asked.get("batch")),
            rate="",
        )
        sizes.setdefault(rules, set()).add(str(found.get("rate_rule")))
    # Of the first size alone the rule of the rate is not seen.
    return [
        LadderRules(**{**vars(rules), "rate": ", ".join(sorted(rates - {"constant"})) or "constant"})
        for rules, rates in sizes.items()
    ]
