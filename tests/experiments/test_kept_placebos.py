"""The kept comparisons with placebos: the page beside them shows what they give, and few enough are resolved."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "placebo"


def test_the_page_shows_what_is_kept_and_two_to_eight_in_a_hundred_are_resolved() -> None:
    said = runpy.run_path(str(FOLDER / "summary.py"))["summary"](FOLDER / "placebo.jsonl.xz")
    assert said in (FOLDER / "README.md").read_text(encoding="utf-8")
    found = re.search(r"(\d+) of (\d+) placebos with another order of sums came out resolved", said)
    assert found
    resolved, count = map(int, found.groups())
    assert count >= 200
    assert 0.02 <= resolved / count <= 0.08
