"""The studies from GPT-2 to DeepSeek-V4: every variant can be built, and the page says what the kept results give.

Verdicts are found once more from the kept files; see `verdicts_by_scipy`.
"""

from __future__ import annotations

import json
import lzma
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from verdicts_by_scipy import agrees, corrected, p_values

from ablab import compose, load
from ablab.cli import main
from ablab.study.planning import preflight
from ablab.training.trainer import untimed_steps

FOLDER = Path(__file__).parents[2] / "experiments" / "change_by_change"
LISTED = yaml.safe_load((FOLDER / "studies.yaml").read_text())
STUDIES = LISTED["studies"]


def changes(study: str) -> list[str]:
    """The variants that a study lists, without the first."""
    return list(yaml.safe_load((FOLDER / "study" / f"{study}.yaml").read_text())["design"]["variants"])[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alone", "left_out"])  # what others vary is in one of the two
def test_the_studies_can_be_planned(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without budgets, whose levers are tried elsewhere: counting the FLOPs of all variants takes a minute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "rehearse", lambda *run, **how: None)  # as where it cannot be told
    words = [*STUDIES[name], "scale=quick", "budget.match=null", "task.max_bytes=1000000", "seed=0"]
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--config-dir", str(FOLDER), *words, "hydra.sweeper.probe=false"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert re.search(r"1[4-6] variants", printed.out)


@pytest.mark.parametrize("scale", ["cpu", "quick", "gpu"])
def test_steps_can_be_timed_at_each_scale(scale: str) -> None:
    words = [*STUDIES["same_time"], f"scale={scale}", *LISTED["more"].get(scale, {}).get("same_time", []), "seed=0"]
    config = compose(*words, config_dir=FOLDER)
    assert config.budget.match == "time"
    assert [word for word in words if word.startswith("jobs=")][-1] == ("jobs=2" if scale == "quick" else "jobs=1")
    assert config.trainer.max_steps >= config.budget.pilot_steps >= 2 * untimed_steps(config)


def test_the_page_has_each_change_in_the_order_of_the_study() -> None:
    table = re.findall(r"^\| `(\w+)` \| (?=`|one head)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert table == changes("cumulative") == changes("each_alone")


RESULTS = FOLDER / "results"
MARGIN = 0.01
LOOKS = (4, 6)

OTHERS = {"retrieval": ("test_accuracy", 0.02, 1)}  # metric, margin and the sign of what is better, where not these

Values = Mapping[str, Mapping[str, Mapping[int, float]]]  # size, or task -> variant -> seed -> of the test split


def kept(study: str, metric: str = "test_bits_per_byte") -> Values:
    found: dict[str, dict[str, dict[int, float]]] = {}
    with lzma.open(RESULTS / f"{study}.jsonl.xz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line).get("record") for line in lines]
    for record in filter(None, records):
        if not record["variant"].startswith("tune ") and record["status"] == "ok":
            name = record["variant"].rpartition(",")[2]  # behind its size
            own = found.setdefault(record["rung"] or record["axes"]["task"], {}).setdefault(name, {})
            own[record["seed"]] = record["metrics"][metric]
    return found


def averaged(values: Values, variant: str, baseline: str) -> list[float]:
    """By seed, the difference averaged over sizes or tasks, of the seeds that both have at each of them."""
    sizes = list(values.values())
    seeds = set.intersection(*(set(size[variant]) & set(size[baseline]) for size in sizes))
    return [fmean(size[variant][seed] - size[baseline][seed] for size in sizes) for seed in sorted(seeds)]


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    """What the summary makes of the kept results, which takes seconds: its tables and its rows, once."""
    made = runpy.run_path(str(FOLDER / "summary.py"))
    rows = made["rows"](RESULTS)
    made["tables"].__globals__["rows"] = lambda results: rows
    return {"tables": made["tables"](RESULTS), "rows": rows}


def test_the_page_has_the_tables_of_the_kept_results(summary: Any) -> None:
    page = (FOLDER / "README.md").read_text("utf-8")
    assert [name for name, table in summary["tables"].items() if table not in page] == []


def test_the_readme_has_the_resolved_rows_of_the_short_table(summary: Any) -> None:
    """There without the column of prose."""
    cells = [re.split(r" *\| *", row) for row in summary["tables"]["in short"].splitlines()]
    left_out = cells[0].index("alone, on prose")
    rows = [" | ".join(row[:left_out] + row[left_out + 1 :]).strip() for row in cells]
    resolved = [row for row in rows if "**" in row]
    readme = (FOLDER.parents[1] / "README.md").read_text("utf-8")
    assert "\n".join(resolved) in readme
    number = {6: "six", 7: "seven", 8: "eight", 9: "nine"}[len(resolved)]
    assert f"of fourteen the {number} of which one of these is resolved" in readme


def test_verdicts_are_those_of_the_kept_records(summary: Any) -> None:
    rows = summary["rows"]
    files = {study: kept(study) for study in {row.question for row in rows}}
    steps = changes("cumulative")
    before = dict(zip(steps, ["gpt2", *steps], strict=False))
    raw = []
    for row in rows:
        baseline = before[row.change] if row.question == "cumulative" else row.item.baseline
        differences = averaged(files[row.question], row.change, baseline)
        assert row.item.differences == pytest.approx(differences)
        assert len(differences) in LOOKS
        raw.append(p_values(differences, row.item.choice or 0.0, LOOKS, MARGIN))
    for row, adjusted in zip(rows, corrected(raw, [1.0] * 41), strict=True):
        assert agrees(row.verdict, fmean(row.item.differences), adjusted), (row.change, row.question, adjusted)


@pytest.mark.parametrize(
    ("study", "baseline", "looks", "resolved"),
    [
        ("prose", "gpt2", LOOKS, 9),
        ("retrieval", "gpt2", LOOKS, 1),
        ("same_cache", "multi_query", LOOKS, 8),
        ("same_time", "gpt2", LOOKS, 2),
        ("contested", "usual", (10,), 1),
    ],
)
def test_verdicts_of_secondary_studies_are_those_of_the_kept_records(
    study: str, baseline: str, looks: Sequence[int], resolved: int
) -> None:
    """A family of their own: those over both sizes hold half of the level, those at each size the other half."""
    metric, margin, better = OTHERS.get(study, ("test_bits_per_byte", MARGIN, -1))
    found, values = load(RESULTS / f"{study}.jsonl.xz").comparisons, kept(study, metric)
    items = [*found.suite, *found.items]
    raw = []
    for item in items:
        size = item.task.partition(",")[2] or item.task  # neither of these for all of them together
        differences = averaged({size: values[size]} if size in values else values, item.variant, baseline)
        assert item.differences == pytest.approx(differences)
        assert len(differences) in looks
        raw.append(p_values(differences, item.choice or 0.0, looks, margin))
    weights = [len(found.items)] * len(found.suite) + [len(found.suite) or 1] * len(found.items)
    adjusted = corrected(raw, weights)
    assert [item.verdict.value in ("BETTER", "WORSE") for item in items].count(True) == resolved
    for item, each in zip(items, adjusted, strict=True):
        assert agrees(str(item.verdict.value), fmean(item.differences), each, better), (item.label, item.task, each)
