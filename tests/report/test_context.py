"""What a study declared holds whenever its folder is compared, as far as it was declared for what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablab.config import ComparisonConfig
from ablab.report.declared import declared_comparison
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
