"""The studies whose results are kept: what the pages of docs/ show of them is what the kept files give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ablab.report.commands import compare_command
from ablab.report.context import ReportContext
from ablab.report.html.sections.elsewhere import elsewhere_table
from ablab.study.plan_file import find_plan

ROOT = Path(__file__).parents[1]
KEPT = sorted((ROOT / "experiments" / "results").glob("*.jsonl.xz"), key=lambda path: path.name)
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def shown(name: str) -> str:
    """The indented block that follows the command on a page, without its indentation."""
    [found] = [
        re.search(rf"^    ablab compare experiments/results/{name}\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
        for text in PAGES.values()
        if f"ablab compare experiments/results/{name}" in text
    ]
    assert found, f"{name}: no block behind its command"
    return "\n".join(line.removeprefix("    ") for line in found[1].rstrip().splitlines())


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name.partition(".")[0])
def test_a_page_shows_what_is_kept(path: Path) -> None:
    printed = compare_command([path])
    assert shown(path.name) == "\n".join(line.rstrip() for line in printed.rstrip().splitlines())


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
