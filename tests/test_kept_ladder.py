"""The kept ladder: the page beside it shows what it gives, held-out size included."""

from __future__ import annotations

import runpy
from pathlib import Path

from ablab.report.context import ReportContext

FOLDER = Path(__file__).parents[1] / "experiments" / "ladder"


def test_the_page_shows_what_is_kept() -> None:
    context = ReportContext.read([FOLDER / "ladder.jsonl.xz"])
    assert runpy.run_path(str(FOLDER / "summary.py"))["summary"](context) in (FOLDER / "README.md").read_text("utf-8")
    (found,) = context.over_scale
    assert len(found.items) >= 20
    assert len(found.ladder.rungs) >= 4
    assert found.ladder.rungs[-1].flops >= 30 * found.ladder.rungs[0].flops
