"""When a variant is the baseline under another name, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
from said import sentence_of
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.verdicts import Verdict

LOSSES = [1.00, 1.02, 0.97]
OPTIONS = {"attention": ("full", "windowed"), "schedule": ("constant", "plateau"), "activation": ("relu", "sparse")}


def item(
    axis: str, *, answers: tuple[list[float], list[float]], shift: float = 0.0, device: str = "cpu", **more: Any
) -> Comparison:
    base, option = OPTIONS[axis]
    records = study({base: LOSSES, option: [loss + shift for loss in LOSSES]}, axis=axis)
    for index, record in enumerate(records):
        own = index >= len(LOSSES)
        record.responses = {f"{axis}/layer_0": answers[own], "position": [float(index)]}
        record.config = {**record.config, axis: {"_target_": record.axes[axis]}, **(more if own else {})}
        record.machine = {"device": device}
    (found,) = compare(runs_of(records)).items
    return found


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("schedule", "schedule=plateau never changed the learning rate"),
        ("attention", "attention=windowed never changed what a query attends to"),
        ("activation", "activation=sparse never changed what the activation gives"),
    ],
)
def test_what_should_have_differed_is_named(axis: str, words: str) -> None:
    found = item(axis, answers=([0.5, 2.0], [0.5, 2.0]))
    assert found.verdict is Verdict.NO_EFFECT
    assert sentence_of(found) == f"{words}; this variant is the baseline under another name."


def test_where_sums_do_not_repeat_the_answers_decide() -> None:
    same: dict[str, Any] = {"answers": ([0.5, 2.0], [0.5, 2.0 + 1e-6]), "shift": 1e-4, "device": "NVIDIA H200"}
    assert item("attention", **same).verdict is Verdict.NO_EFFECT
    assert item("attention", **{**same, "answers": ([0.5, 2.0], [0.5, 2.1])}).verdict is not Verdict.NO_EFFECT
    assert item("attention", **{**same, "device": "cpu"}).verdict is not Verdict.NO_EFFECT


def test_a_difference_elsewhere_is_a_difference() -> None:
    same: dict[str, Any] = {"answers": ([0.5], [0.5]), "shift": 1e-4, "device": "NVIDIA H200"}
    assert item("attention", **same, optimizer={"lr": 0.1}).verdict is not Verdict.NO_EFFECT
    assert item("attention", **same, model={"d_model": 32}).verdict is not Verdict.NO_EFFECT


def test_equal_metrics_without_answers_are_still_no_effect() -> None:
    found = item("attention", answers=([], []))
    assert found.verdict is Verdict.NO_EFFECT
    assert "never changed a final metric" in sentence_of(found)
