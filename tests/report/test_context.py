"""What a study declared holds whenever its folder is compared, as far as it was declared for what is asked."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from synthetic import CORPUS, record, write_runs

from ablab.config import ComparisonConfig
from ablab.report.context import ReportContext
from ablab.report.declared import declared_comparison
from ablab.report.html.sections.curves import _reached
from ablab.study.plan_file import write_plan

DECLARED = ComparisonConfig(baseline="attention=full", metric="val_loss", margin=0.01, last_k=3)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_plan(tmp_path, DECLARED, [])
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "terms"),
    [
        ({}, {"metric": "val_loss", "margin": 0.01, "last_k": 3, "margin_declared": True}),
        ({"margin": 0.01}, {"metric": "val_loss", "margin": 0.01, "last_k": 3, "margin_declared": True}),
        ({"metric": None, "margin": 0.5}, {"metric": "val_loss", "margin": 0.5, "last_k": 3}),
        (
            {"metric": "val_loss", "last_k": 1},
            {"metric": "val_loss", "margin": 0.01, "last_k": 1, "margin_declared": True},
        ),
        ({"split": "test"}, {"split": "test", "last_k": 3}),
        ({"metric": "val_accuracy"}, {"metric": "val_accuracy", "last_k": 3}),
        ({"metric": "val_accuracy", "margin": 0.2}, {"metric": "val_accuracy", "margin": 0.2, "last_k": 3}),
    ],
    ids=str,
)
def test_a_margin_goes_with_its_metric(study: Path, asked: dict[str, Any], terms: dict[str, Any]) -> None:
    assert declared_comparison([study], **asked) == terms | {"intervals": "single"}


def test_several_folders_and_such_without_a_plan_declare_nothing(study: Path, tmp_path: Path) -> None:
    assert declared_comparison([study, study], margin=0.2) == {"margin": 0.2}
    assert declared_comparison([tmp_path / "run"]) == {}


def test_filters_make_no_family_of_claims_smaller(tmp_path: Path) -> None:
    """Interactions, fronts and times to a target: what is shown says what it says among all that there are."""
    noise = random.Random(5)
    values = itertools.product(("full", "lsh", "mla"), ("relu", "gelu", "glu"), ("text", "vision"), range(5))
    write_runs(
        tmp_path,
        [
            record(seed, 1 + noise.gauss(0, 0.01), axes={"attention": a, "activation": b, "task": task})
            for a, b, task, seed in values
        ],
    )
    every = ReportContext.read([tmp_path])
    for words in (["attention=full,lsh"], ["task=text"], ["attention=lsh,full", "activation=gelu,relu", "task=text"]):
        shown = ReportContext.read([tmp_path], words)
        assert len(shown.variants) * len(shown.tasks) < len(every.variants) * len(every.tasks)
        assert shown.ranking == every.ranking
        for task in shown.tasks:
            found = shown.interactions(task)
            assert found.items
            assert set(found.items) <= set(every.interactions(task).items)
            assert found.family == every.interactions(task).family == 8
            fronts = shown.fronts(task).to_dict("records")
            assert [row["variant"] for row in fronts] == [row["variant"] for row in shown.rows(task)]
            assert all(row in every.fronts(task).to_dict("records") for row in fronts)
            soon, among = (_reached(context, task, "step") for context in (shown, every))
            assert soon.items
            assert {item.variant: item.interval for item in soon.items}.items() <= {
                item.variant: item.interval for item in among.items
            }.items()


def test_what_is_not_comparable_is_held_against_nothing(tmp_path: Path) -> None:
    """In fronts, interactions, the analysis of variance and times to targets."""
    axes = list(itertools.product(("full", "lsh"), ("relu", "gelu", "glu"), range(1, 6)))
    other = dataclasses.replace(CORPUS, sha256="cd" * 32)
    records = [
        record(seed, 1 + seed / 10 - (0.5 - seed / 100) * (b == "glu"), axes={"attention": a, "activation": b})
        for a, b, seed in axes
    ]
    for each in records:
        each.corpus = other if each.axes["activation"] == "glu" else each.corpus
    context = ReportContext.read([write_runs(tmp_path, records)])
    blocked = {item.variant for item in context.comparisons.items if item.verdict == "NOT COMPARABLE"}
    assert len(blocked) == 2
    assert not blocked & {name for pair in context.ranking.better["language"] for name in pair}
    rows = context.fronts("language").set_index("variant")
    assert set(rows.loc[sorted(blocked)].to_numpy().ravel()) == {""}
    assert [item.options for item in context.interactions("language").items] == [("gelu", "lsh")]
    assert not blocked & set(context.comparable.variants)
    assert len(_reached(context, "language", "step").items) == 3
