"""A campaign to ask, and runs for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from costless import BASELINE, CHECKED, MODULE, Runs, noisy

from ablab.campaign import Judged, judge
from ablab.results.ledger import LEDGER_FILE


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(noisy)
    monkeypatch.setattr(MODULE, "Preflight", lambda: CHECKED)  # which knows what has been checked before
    monkeypatch.setattr(MODULE, "in_this_process", lambda preflight, beat: made)
    monkeypatch.setattr(MODULE, "by_supervisor", lambda preflight, observe, beat: made)
    return made


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Judged]:
    def asked(*proposal: str, **settings: object) -> Judged:
        settings = {"campaign": tmp_path / "campaign", "certify": False, "in_process": True, **settings}
        if not (tmp_path / "campaign" / LEDGER_FILE).exists():
            settings.setdefault("baseline", BASELINE)
            settings.setdefault("metric", "val_loss")
        return judge(list(proposal), **settings)  # type: ignore[arg-type]

    return asked
