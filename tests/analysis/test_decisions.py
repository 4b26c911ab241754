"""What a look decides of each comparison, and that it decides nothing for which seeds were not to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from synthetic import runs_of, study

from ablab.analysis import decisions
from ablab.analysis.decisions import decide
from ablab.analysis.futility import LookToCome
from ablab.config import ComparisonConfig
from ablab.config.seeds import STOPS, SeedsConfig

BASE = [1.0, 1.2, 1.4, 1.1, 1.3]
NEAR = [value + shift for value, shift in zip(BASE, (0.001, -0.001, 0.002, -0.002, 0.0005), strict=True)]
WORSE = [value + shift for value, shift in zip(BASE, (0.5, 0.52, 0.49, 0.51, 0.5), strict=True)]
PERHAPS = [value + shift for value, shift in zip(BASE, (0.1, 0.3, -0.05, 0.25, 0.2), strict=True)]


@pytest.mark.parametrize(
    ("values", "how", "needs"),
    [
        (WORSE, "resolved", "resolved"),
        (NEAR, "equivalent", "equivalent"),
        (PERHAPS, "open", None),
        (BASE, "no effect on the model", None),
        ([1.0, 1.3, float("nan"), 1.2, 1.3], "unstable", None),
    ],
)
def test_what_is_decided(values: list[float], how: str, needs: str | None) -> None:
    runs, declared = runs_of(study({"relu": BASE, "gelu": values})), ComparisonConfig(margin=0.01)
    [one] = decide(runs, SeedsConfig(), declared)
    assert (one.label, one.how) == ("gelu", how)
    assert one.cells == (("language", "activation=gelu"),)
    assert one.baselines == (("language", "activation=relu"),)
    if needs:
        [other] = decide(runs, SeedsConfig(stop=[word for word in STOPS if word not in (needs, "futile")]), declared)
        assert other.how == "open"


def test_what_is_improbable_to_be_decided_is_futile_and_a_margin_that_may_be_met_gives_hope() -> None:
    values = [value + shift for value, shift in zip(BASE, (0.02, -0.03, 0.01, -0.01, 0.015), strict=True)]
    runs = runs_of(study({"relu": BASE, "gelu": values}))
    assert [one.how for one in decide(runs, SeedsConfig(), ComparisonConfig())] == ["futile"]
    assert [one.how for one in decide(runs, SeedsConfig(stop="resolved"), ComparisonConfig())] == ["open"]
    assert [one.how for one in decide(runs, SeedsConfig(), ComparisonConfig(margin=0.02))] == ["open"]


def test_a_pair_that_failed_comes_at_no_later_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the look that was made with it one to come."""
    asked: list[list[int]] = []

    def chance(differences: Sequence[float], looks: Sequence[LookToCome], *others: object) -> float:
        asked.append([len(differences), *(look.seeds for look in looks)])
        return 1.0

    monkeypatch.setattr(decisions, "chance_of_decision", chance)
    records = study({"relu": BASE, "gelu": PERHAPS})
    for failed in ([], [5], [4, 5]):
        ran = [replace(each, status="failed") if each.seed in failed else each for each in records]
        assert [one.how for one in decide(runs_of(ran), SeedsConfig(), ComparisonConfig())] == ["open"]
    assert asked == [[5, 8, 10], [4, 7, 9], [3, 6, 8]]
