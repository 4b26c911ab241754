"""What is shown of a comparison that is not finished: figures against the baseline, and nothing to conclude from."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import pytest
from rich.console import Console
from scripted import ok, plan, unwell

from ablab.report.live.effects import effects_so_far
from ablab.results.record import Corpus, Metric, Record


def shown(records: list[Record], width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    table = effects_so_far(records)
    if table is None:
        return []
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


VARIANTS = ["activation=relu", "activation=gelu", "activation=silu"]
RUNS = plan(VARIANTS, range(3))
LOSSES = [2.0, 2.1, 2.2, 2.15, 2.35, 2.25, 1.9, 2.0, 1.8]
RECORDS = [ok(run, loss) for run, loss in zip(RUNS, LOSSES, strict=True)]


def test_means_over_the_seeds_that_both_have() -> None:
    # gelu has all three: (0.15 + 0.25 + 0.05) / 3; silu one, since one failed and one has not ended: -0.1
    records = [*RECORDS[:7], unwell(RUNS[7])]
    assert shown(records) == [
        "so far, no verdict: val_loss (lower is better), variant minus activation=relu",
        "variant  mean difference  pairs",
        "gelu               +0.15      3",
        "silu               -0.10      1",
    ]


def test_the_order_in_which_runs_end_does_not_matter() -> None:
    shuffled = RECORDS[:]
    random.Random(0).shuffle(shuffled)
    assert shown(shuffled) == shown(RECORDS)


def test_nothing_is_judged() -> None:
    text = "\n".join(shown(RECORDS)).lower()
    assert "no verdict" in text
    for word in ("better ", "worse", "ci", "p ", "±", "*", "%"):
        assert word not in text.replace("better)", ""), word


@pytest.mark.parametrize(
    "records",
    [
        [],
        RECORDS[:3],  # the baseline alone
        [RECORDS[0], RECORDS[4]],  # no seed that both have
        RECORDS[3:],  # the plan's first run has not ended: who is the baseline?
        [unwell(RUNS[0]), *RECORDS[3:]],  # nor has it a run that is ok
        [unwell(run) for run in RUNS],
    ],
)
def test_there_may_be_nothing_to_show(records: list[Record]) -> None:
    assert shown(records) == []


def test_the_declared_baseline_counts_once_one_of_its_runs_has_ended() -> None:
    records = [ok(run, loss) for run, loss in zip(RUNS, LOSSES, strict=True)]
    for record in records:
        record.config["comparison"] = {"baseline": "activation=silu"}
    assert shown(records[:6]) == []
    assert shown(records)[0].endswith("variant minus activation=silu")
    assert shown(records)[2:] == ["relu               +0.20      3", "gelu               +0.35      3"]


@pytest.mark.parametrize(
    ("declared", "metric", "effects"),
    [
        ({"metric": "val_accuracy"}, "val_accuracy (higher", ("-0.15", "+0.20")),
        ({"metric": None, "split": "test"}, "test_loss (lower", ("+0.30", "-0.40")),
        ({"last_k": 2}, "val_loss, mean of the last 2 evaluations (lower", ("+0.45", "-0.60")),
        (
            {"metric": "test_loss@task.length=64"},
            "val_loss (lower",
            ("+0.15", "-0.20"),
        ),  # evaluated when all have ended
    ],
)
def test_what_the_study_declares_is_compared(
    declared: dict[str, object], metric: str, effects: tuple[str, str]
) -> None:
    records = [ok(run, loss) for run, loss in zip(RUNS, LOSSES, strict=True)]
    for record in records:
        loss = record.metrics["val_loss"]
        record.metrics |= {"val_accuracy": 3 - loss, "test_loss": 2 * loss}
        record.last = {"val_loss": [4.0, 2 * loss, 4 * loss]}
        record.config["comparison"] = declared
    title, _, gelu, silu = shown(records, width=120)
    assert title == f"so far, no verdict: {metric} is better), variant minus activation=relu"
    assert (gelu.split()[1], silu.split()[1]) == effects


def test_a_table_per_task_in_its_own_direction() -> None:
    runs = plan(VARIANTS[:2], [0], tasks=["text", "images"])
    records = [ok(run, loss) for run, loss in zip(runs, [2.0, 2.5, 0.5, 0.75], strict=True)]
    for record in records[2:]:
        record.primary, record.metrics = (
            Metric(name="val_accuracy", split="val", direction="max"),
            {"val_accuracy": record.metrics["val_loss"]},
        )
    lines = shown(records)
    assert lines[0] == "so far, no verdict: text, val_loss (lower is better), variant minus activation=relu"
    assert lines[3] == "so far, no verdict: images, val_accuracy (higher is better), variant minus activation=relu"
    assert [lines[2].split(), lines[5].split()] == [["gelu", "+0.50", "1"], ["gelu", "+0.25", "1"]]


def test_another_corpus_is_not_compared() -> None:
    other = Corpus(name="letters", sha256="cd" * 32, size_bytes=10, files=1)
    assert shown([RECORDS[0], ok(RUNS[3], 2.5, corpus=other)]) == []


def test_names_are_no_markup() -> None:
    runs = plan(["model.sizes=[1,2]", "model.sizes=[red]"], [0])
    records = [
        ok(run, loss, settings={"model": {"sizes": sizes}})
        for run, loss, sizes in zip(runs, [1.0, 2.0], ["[1,2]", "[red]"], strict=True)
    ]
    assert shown(records)[-1].split() == ["model.sizes=[red]", "+1.0", "1"]


def test_a_step_is_shown_beside_the_one_before_it_and_no_other() -> None:
    """What lies between two may not have ended: then there is nothing to show yet."""
    named = [(seed, variant) for seed in range(2) for variant in VARIANTS]  # as a study of steps is planned
    losses = dict(zip(named, [2.0, 2.15, 1.9, 2.1, 2.35, 2.0], strict=True))
    by_name = {(run.seed, run.variant): run for run in RUNS}
    steps = {"comparison": {"baseline": "previous"}}
    records = {
        key: replace(ok(by_name[key], losses[key]), index=index, config={"seed": key[0], **steps})
        for index, key in enumerate(named)
    }
    assert shown(list(records.values())) == [
        "so far, no verdict: val_loss (lower is better), variant minus the one before each",
        "variant  mean difference  pairs",
        "gelu               +0.20      2",
        "silu               -0.30      2",
    ]
    assert shown([records[0, "activation=relu"], records[0, "activation=silu"]]) == []
