"""A plan on the disk: it is read as it was written, and so is one whose configs held what is beside them now."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ablab.config import ComparisonConfig, Node, RunConfig, fingerprint
from ablab.config.seeds import SeedsConfig
from ablab.results.record import Record
from ablab.results.run_context import BudgetReport, RunContext, TuningReport
from ablab.results.store import PLAN_FILE
from ablab.study.events import RunOutline
from ablab.study.plan_file import PlannedRun, write_plan
from ablab.study.plan_reader import read_plan
from ablab.training.begin import new_record

CONTEXT = RunContext(
    variant="attention=lsh",
    index=3,
    budget=BudgetReport(changed={"model.d_ff": [64, 60]}, value=99, of=100),
    tuning=TuningReport(chosen=0.1, tried=[[0.1, 2.5], [0.3, None]]),
)
INFO = RunOutline(index=3, variant="attention=lsh", task="text", seed=0, steps=4)


def test_a_plan_is_read_as_it_was_written(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    looks: list[Node] = [{"seeds": [0, 1, 2], "at": "2026-01-01T00:00:00+00:00"}]
    context = replace(CONTEXT, looks=looks, planned_looks=SeedsConfig().plan_of_looks)
    run = PlannedRun(info=INFO, config=tiny_config(), folder=tmp_path / "attention=lsh" / "seed=0", context=context)
    comparison = ComparisonConfig(baseline="attention=full", margin=0.1)
    write_plan(tmp_path, comparison, [run])
    plan = read_plan(tmp_path)
    assert (plan.comparison, plan.runs) == (comparison, [run])
    record = Record.from_dict(json.loads(json.dumps(new_record(run.config, run.context).to_dict())))
    assert (record.looks, record.planned_looks) == (looks, {"looks": [3, 5, 8, 10], "max": 10, "spending": "pocock"})
    without = {name: value for name, value in record.to_dict().items() if "looks" not in name}
    assert (Record.from_dict(without).looks, Record.from_dict(without).planned_looks) == (
        [],
        None,
    )  # of earlier versions


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
