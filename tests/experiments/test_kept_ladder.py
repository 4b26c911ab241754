"""The kept ladders: the page beside them shows what they give, held-out sizes included."""

from __future__ import annotations

import runpy
from pathlib import Path

from ablab.report.context import ReportContext

FOLDER = Path(__file__).parents[2] / "experiments" / "ladder"


def test_the_page_shows_what_is_kept() -> None:
    page, made = (FOLDER / "README.md").read_text("utf-8"), runpy.run_path(str(FOLDER / "summary.py"))
    contexts = [ReportContext.read([place]) for place in made["KEPT"]]
    for context in contexts:
        assert made["summary"](context) in page
        (found,) = context.over_scale
        assert len(found.items) >= 20
        assert len(found.ladder.rungs) >= 4
        assert found.ladder.rungs[-1].flops >= 30 * found.ladder.rungs[0].flops
    assert made["together"](contexts) in page
