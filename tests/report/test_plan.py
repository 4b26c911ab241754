"""`ablab plan` in words: the runs and their number, the time left, and the effect that the seeds could show."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats
from synthetic import record, runs_of

from ablab.report.plan import _ranges, show_plan
from ablab.study.events import RunOutline
from ablab.study.preview import Preview, Probe, Row, Trials


def row(index: int, variant: str, seeds: list[int], task: str = "recall", **given: object) -> Row:
    first = RunOutline(index=index, variant=variant, task=task, seed=seeds[0], steps=1000)
    return Row(first=first, seeds=seeds, **given)  # type: ignore[arg-type]


def preview(tmp_path: Path, rows: list[Row], **given: object) -> Preview:
    runs = sum(len(each.seeds) for each in rows)
    return Preview(folder=tmp_path, runs=runs, notes=[], rows=rows, **given)  # type: ignore[arg-type]


def shown(plan: Preview) -> tuple[int, list[str]]:
    console = Console(file=io.StringIO(), width=200)
    status = show_plan(plan, console)
    return status, console.file.getvalue().splitlines()  # type: ignore[attr-defined]


# Published in STATISTICS: the smallest effect seen 80% of the time, in standard deviations of paired differences.
@pytest.mark.parametrize(("seeds", "effect"), [(3, 3.26), (5, 1.68), (8, 1.16), (10, 1.00), (20, 0.66)])
def test_the_effect_that_so_many_seeds_could_show(tmp_path: Path, seeds: int, effect: float) -> None:
    rows = [row(place, f"attention={name}", list(range(seeds))) for place, name in enumerate(("full", "lsh"))]
    _, lines = shown(preview(tmp_path, rows))
    assert any(f"{seeds} seeds show an effect of {effect:.2f} standard deviations" in line for line in lines), lines


@pytest.mark.parametrize(("variants", "effect"), [(2, 1.68), (4, 2.29), (6, 2.63), (9, 2.98)])
def test_the_more_comparisons_the_larger_the_effect_must_be(tmp_path: Path, variants: int, effect: float) -> None:
    """At the share of the level that one of them has: scipy's noncentral t at .05 over their number."""
    rows = [row(place, f"attention={place}", list(range(5))) for place in range(variants)]
    (line,) = [line for line in shown(preview(tmp_path, rows))[1] if "5 seeds show" in line]
    assert f"5 seeds show an effect of {effect:.2f} standard deviations" in line
    assert (f"as the only one among {variants - 1} comparisons" in line) == (variants > 2)
    critical = stats.t.ppf(1 - 0.025 / (variants - 1), 4)
    assert stats.nct.sf(critical, 4, effect * math.sqrt(5)) == pytest.approx(0.8, abs=0.005)


def test_tasks_and_their_suite_share_the_level(tmp_path: Path) -> None:
    """Two variants on two tasks: a quarter for the one on each task, a half for the one on the suite."""
    rows = [row(0, f"attention={n},task={t}", list(range(5)), t) for t in ("recall", "copy") for n in ("full", "lsh")]
    records = [record(1, axes={"task": task, "attention": name}) for task in ("recall", "copy") for name in ("f", "l")]
    _, lines = shown(preview(tmp_path, rows, planned=runs_of(records)))
    assert (
        "show an effect of 2.48 standard deviations of the paired differences 80% of the time, as the only" in lines[-2]
    )
    assert lines[-1] == "on the suite of 2 tasks: 2.05 standard deviations of its average"
    for effect, level in ((2.48, 0.0125), (2.05, 0.025)):
        assert stats.nct.sf(stats.t.ppf(1 - level / 2, 4), 4, effect * math.sqrt(5)) == pytest.approx(0.8, abs=0.005)


def test_too_few_seeds_and_one_variant_are_told(tmp_path: Path) -> None:
    two = [row(0, "attention=full", [0, 1]), row(1, "attention=lsh", [0, 1])]
    assert "2 seeds allow no verdict: take 3 at least, 5 as a rule" in shown(preview(tmp_path, two))[1]
    assert "one variant: there is nothing to compare" in shown(preview(tmp_path, [row(0, "", [0, 1, 2])]))[1]


def test_the_time_left_is_that_of_the_runs_that_are_not_done_with(tmp_path: Path) -> None:
    rows = [
        row(0, "attention=full", [0, 1, 2], done=3, probe=Probe(seconds=1000.0, memory_bytes=2**20)),
        row(1, "attention=lsh", [0, 1, 2], done=1, probe=Probe(seconds=60.0, memory_bytes=3 * 2**20)),
    ]
    plan = preview(tmp_path, rows, jobs=2, trials=Trials(count=4, more=6, seconds=40.0))
    assert plan.seconds == (2 * 60 + 40) / 2
    _, lines = shown(plan)
    assert "6 runs: 2 variants x 3 seeds; 4 are done with" in lines
    said = "4 runs before them, to tune or to measure speeds; up to 6 more where a best lies at an end of its grid"
    assert said in lines
    assert "time left: about 1 min 20 s, 2 side by side; 6 MiB at most (from a few steps of each variant)" in lines


def test_a_probe_that_failed_is_a_row_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(0, "a=1", [0], probe=Probe(seconds=1.0)), row(1, "a=2", [0], probe=Probe(error="out of memory"))]
    assert shown(preview(tmp_path, rows[:1]))[0] == 0
    assert capsys.readouterr().err == ""
    status, lines = shown(preview(tmp_path, rows))
    assert status == 1
    assert capsys.readouterr().err == "ablab: the probe of a=2 failed: out of memory\n"
    assert any("failed: out of memory" in line for line in lines)
    assert any("unknown, since a probe failed" in line for line in lines)


def test_a_variant_is_named_by_what_sets_it_apart(tmp_path: Path) -> None:
    rows = [
        row(place, f"attention={name},task={task},trainer.max_steps={steps}", [0, 1, 2], task)
        for place, (name, (task, steps)) in enumerate(
            (name, task) for task in (("recall", 10), ("text", 20)) for name in ("full", "lsh")
        )
    ]
    _, lines = shown(preview(tmp_path, rows))
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["recall", "attention=full"],
        ["recall", "attention=lsh"],
        ["text", "attention=full"],
        ["text", "attention=lsh"],
    ]
    assert "12 runs: 2 variants on 2 tasks x 3 seeds; 0 are done with" in lines


def test_named_variants_keep_their_names(tmp_path: Path) -> None:
    _, lines = shown(preview(tmp_path, [row(0, "base", [0, 1, 2]), row(1, "wide", [0, 1, 2])]))
    assert [line.split()[0] for line in lines[1:3]] == ["base", "wide"]
    assert "6 runs: 2 variants x 3 seeds; 0 are done with" in lines


def test_every_error_of_every_run_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors = [(f"attention=full seed={seed}", "model.n_heads=7: no") for seed in range(3)]
    errors.append(("seed=-1", "seed=-1: no"))
    status, lines = shown(Preview(folder=tmp_path, runs=9, notes=["left out: a=1"], errors=errors))
    assert status == 2
    assert lines == ["left out: a=1", "4 of 9 runs cannot work; nothing has been started"]
    assert capsys.readouterr().err.splitlines() == [
        "ablab: error: model.n_heads=7: no [in the run attention=full seed=0 and 2 more]",
        "ablab: error: seed=-1: no [in the run seed=-1]",
    ]


@pytest.mark.parametrize(
    ("seeds", "text"), [([0], "0"), ([2, 0, 1], "0-2"), ([0, 1, 3, 7, 8], "0-1,3,7-8"), ([5, 1], "1,5")]
)
def test_seeds_as_ranges(seeds: list[int], text: str) -> None:
    assert _ranges(seeds) == text


def test_placebos_are_named_and_take_no_share_of_what_the_seeds_show(tmp_path: Path) -> None:
    two = [row(index, f"attention={name}", list(range(5))) for index, name in enumerate(("full", "lsh"))]
    kinds = ("draw", "order")
    beside = [row(2 + at, f"attention=full,model.placebo={kind}", list(range(5))) for at, kind in enumerate(kinds)]
    (_, plain), (_, lines) = (shown(preview(tmp_path, rows)) for rows in (two, two + beside))
    assert any("2 variants and 2 placebos x 5 seeds" in line for line in lines)
    assert plain[-1] == lines[-1]
    assert "show an effect of" in lines[-1]
