"""When a variant is the baseline under another name, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
from said import sentence_of
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.verdicts import Verdict
from ablab.results.record import FUNCTION

LOSSES = [1.00, 1.02, 0.97]
OPTIONS = {"attention": ("full", "windowed"), "schedule": ("constant", "plateau"), "activation": ("relu", "sparse")}


def item(
    axis: str,
    *,
    answers: tuple[list[float], list[float]],
    shift: float = 0.0,
    device: str = "cpu",
    functions: tuple[list[float], list[float]] | None = None,
    metric: str | None = None,
    **more: Any,
) -> Comparison:
    base, option = OPTIONS[axis]
    records = study({base: LOSSES, option: [loss + shift for loss in LOSSES]}, axis=axis)
    for index, record in enumerate(records):
        own = index >= len(LOSSES)
        record.responses = {f"{axis}/layer_0": answers[own], "position": [float(index)]}
        record.config = {**record.config, axis: {"_target_": record.axes[axis]}, **(more if own else {})}
        record.machine = {"device": device}
        if functions is not None:
            record.responses |= {name: functions[own] if name == FUNCTION[-1] else [7.0, 1.0] for name in FUNCTION}
    (found,) = compare(runs_of(records), metric=metric).items
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


@pytest.mark.parametrize("device", ["cpu", "NVIDIA H200"])
def test_the_whole_function_decides_on_any_device(device: str) -> None:
    alike: dict[str, Any] = {"answers": ([0.5], [0.5]), "shift": 1e-9, "device": device}
    scale = [5.0, 2.0, -1.0]
    found = item("attention", **alike, functions=(scale, [5.0, 2.0, -1.0 + 4e-6]))  # of a vector of that size
    assert found.verdict is Verdict.NO_EFFECT
    assert "seeds" not in sentence_of(found)
    for other in ([5.0, 2.0, -1.0 + 6e-6], [5.001, 2.0, -1.0], [5.0, 2.0], []):
        assert item("attention", **alike, functions=(scale, other)).verdict is not Verdict.NO_EFFECT
        equal = item("attention", **{**alike, "shift": 0.0}, functions=(scale, other))  # to the last bit
        assert equal.verdict is not Verdict.NO_EFFECT
    assert item("attention", **alike, functions=([], [])).verdict is not Verdict.NO_EFFECT
    assert item("attention", **alike, functions=(scale, scale), metric="steps").verdict is not Verdict.NO_EFFECT
    assert item("attention", **{**alike, "answers": ([0.5], [0.6])}, functions=(scale, scale)).verdict is not (
        Verdict.NO_EFFECT
    )


def test_a_difference_elsewhere_is_a_difference() -> None:
    same: dict[str, Any] = {"answers": ([0.5], [0.5]), "shift": 1e-4, "device": "NVIDIA H200"}
    assert item("attention", **same, optimizer={"lr": 0.1}).verdict is not Verdict.NO_EFFECT
    assert item("attention", **same, model={"d_model": 32}).verdict is not Verdict.NO_EFFECT


def test_equal_metrics_without_answers_are_still_no_effect() -> None:
    found = item("attention", answers=([], []))
    assert found.verdict is Verdict.NO_EFFECT
    assert "never changed a final metric" in sentence_of(found)
