"""The studies whose results are kept: what the pages of docs/ show of them is what the kept files give.

ABLAB_GOLDEN=write writes the pages anew; what is said of a study in words beside them is then to be read again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from ablab.report.commands import compare_command
from ablab.report.context import ReportContext
from ablab.report.html.sections.elsewhere import elsewhere_table
from ablab.study.plan_reader import find_plan

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "experiments" / "results").glob("*.jsonl.xz"), key=lambda path: path.name)
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def page_of(name: str) -> tuple[Path, re.Match[str]]:
    """The page that shows a kept file, and the indented block that follows the command there."""
    [path] = [path for path, text in PAGES.items() if f"ablab compare experiments/results/{name}" in text]
    block = rf"^    ablab compare experiments/results/{name}\n\n((?:    .*\n|\n)+)"
    found = re.search(block, PAGES[path], re.MULTILINE)
    assert found, f"{name}: no block behind its command"
    return path, found


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name.partition(".")[0])
def test_a_page_shows_what_is_kept(path: Path) -> None:
    printed = "\n".join(line.rstrip() for line in compare_command([path]).rstrip().splitlines())
    page, found = page_of(path.name)
    if os.environ.get("ABLAB_GOLDEN") == "write":
        lines = [f"    {line}" if line else "" for line in printed.splitlines()]
        rest = found[1][len(found[1].rstrip()) :]
        PAGES[page] = PAGES[page][: found.start(1)] + "\n".join(lines) + rest + PAGES[page][found.end(1) :]
        page.write_text(PAGES[page], encoding="utf-8")
        return
    shown = "\n".join(line.removeprefix("    ") for line in found[1].rstrip().splitlines())
    assert shown == printed


def test_a_page_shows_what_finished_runs_are_worth_elsewhere() -> None:
    """Of every kept study that was evaluated elsewhere, each row of the tables of its report."""
    evaluated = 0
    for path in KEPT:
        context = ReportContext.read([path])
        page = next(text for text in PAGES.values() if path.name in text)
        for found in (found for task in context.tasks for found in context.elsewhere(task)):
            evaluated += 1
            for row in elsewhere_table(found).to_numpy().tolist():
                assert f"| {' | '.join(row)} |" in page
    assert evaluated


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name.partition(".")[0])
def test_what_is_kept_was_declared_by_the_study_that_is_there(path: Path) -> None:
    plan = find_plan(path)
    file = path.name.removesuffix(".jsonl.xz")
    study = yaml.safe_load((ROOT / "experiments" / "study" / f"{file}.yaml").read_text(encoding="utf-8"))
    assert plan is not None
    assert plan.command == ["-m", f"study={file}"]
    declared = study.get("comparison", {})
    assert {name: getattr(plan.comparison, name) for name in declared} == declared
