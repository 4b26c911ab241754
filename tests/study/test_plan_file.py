"""A plan on the disk: it is read as it was written, and so is one whose configs held what is beside them now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ablab.config import ComparisonConfig, RunConfig, fingerprint
from ablab.results.record import BudgetReport, RunContext, TuningReport
from ablab.results.store import PLAN_FILE
from ablab.study.events import RunOutline
from ablab.study.plan_file import PlannedRun, read_plan, write_plan

CONTEXT = RunContext(
    variant="attention=lsh",
    index=3,
    budget=BudgetReport(changed={"model.d_ff": [64, 60]}, value=99, of=100),
    tuning=TuningReport(chosen=0.1, tried=[[0.1, 2.5], [0.3, None]]),
)
INFO = RunOutline(index=3, variant="attention=lsh", task="text", seed=0, steps=4)


def test_a_plan_is_read_as_it_was_written(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    run = PlannedRun(info=INFO, config=tiny_config(), folder=tmp_path / "attention=lsh" / "seed=0", context=CONTEXT)
    comparison = ComparisonConfig(baseline="attention=full", margin=0.1)
    write_plan(tmp_path, comparison, [run])
    plan = read_plan(tmp_path)
    assert (plan.comparison, plan.runs) == (comparison, [run])


def test_a_plan_of_the_first_schema_is_read(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny_config()
    data = config.to_dict()
    earlier = {key: value for key, value in data.items() if key != "comparison"} | {
        "baseline": "attention=full",
        "variant": "attention=lsh",
        "index": 3,
        "budget": data["budget"] | {"changed": {"model.d_ff": [64, 60]}, "value": 99, "of": 100},
        "tune": data["tune"] | {"chosen": 0.1, "tried": [[0.1, 2.5], [0.3, None]]},
    }
    run = {"index": 3, "variant": "attention=lsh", "task": "text", "seed": 0, "steps": 4, "folder": "a"}
    kept = {"schema": 1, "command": [], "working_folder": "/", "python_path": [], "terms": {"margin": 0.1}}
    (tmp_path / PLAN_FILE).write_text(json.dumps(kept | {"runs": [run | {"config": earlier}]}))
    plan = read_plan(tmp_path)
    assert plan.comparison == ComparisonConfig(margin=0.1)
    assert plan.runs is not None
    [found] = plan.runs
    assert (found.info, found.context, found.folder) == (INFO, CONTEXT, tmp_path / "a")
    assert fingerprint(found.config) == fingerprint(config)
    assert found.config == config.with_values({"comparison.baseline": "attention=full"})
