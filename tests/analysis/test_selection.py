"""Filters: which runs are compared, which comparisons are shown, and that showing fewer changes no figure."""

from dataclasses import replace

import pytest
from said import notes_of
from synthetic import record, runs_of

from ablab.analysis.comparison import compare
from ablab.analysis.selection import compare_selected, parse_filters
from ablab.analysis.study_notes import NoSuite
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.interim import InterimAnalysis

BASE = [1.00, 1.02, 0.97, 1.05]
GRID = [("full", "relu"), ("lsh", "relu"), ("full", "gelu"), ("lsh", "gelu")]


def runs_on(*tasks: str) -> Runs:
    return runs_of(
        record(
            seed,
            BASE[seed] + 0.01 * place + 0.002 * ((seed * place) % 3),
            axes={"task": task, "attention": attention, "activation": activation},
            settings={"optimizer": {"lr": 0.001 * (1 + place // 2)}, "trainer": {"max_steps": 10 * len(task)}},
            study="first" if seed < 2 else "second",
        )
        for task in tasks
        for place, (attention, activation) in enumerate(GRID)
        for seed in range(4)
    )


@pytest.fixture
def runs() -> Runs:
    return runs_on("language")


@pytest.mark.parametrize(
    ("word", "key", "values"),
    [
        ("attention=lsh", "attention", ("lsh",)),
        ("attention=lsh,full", "attention", ("lsh", "full")),
        ("seed=range(0,3)", "seed", ("0", "1", "2")),
        ("optimizer.lr=1e-3,null,true", "optimizer.lr", ("0.001", "null", "true")),
        ("activation='活性化 $x$'", "activation", ("活性化 $x$",)),
        ("betas=[0.9,'0.95']", "betas", ("[0.9,0.95]",)),
    ],
)
def test_hydras_syntax(word: str, key: str, values: tuple[str, ...]) -> None:
    (found,) = parse_filters([word])
    assert (found.text, found.key, found.values) == (word, key, values)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("~attention", "filter ~attention: write it as key=value"),
        ("+attention=lsh", "write it as key=value"),
        ("++attention=lsh", "write it as key=value"),
        ("attention=interval(0,1)", "not in Hydra's override syntax"),
        ("seed=range(0,1e9)", "gives more than 100,000 values; write fewer"),
        ("attention=lsh,", "quote what is no plain word"),
        ("activation=活性化", "quote what is no plain word, as in task.path='a b.txt'"),
    ],
)
def test_what_is_no_filter(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_filters([word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fewer_are_shown_and_each_as_it_was(runs: Runs) -> None:
    every = compare(runs)
    comparisons, shown = compare_selected(runs, ["attention=lsh"])
    assert comparisons.items == tuple(item for item in every.items if "lsh" in item.variant)
    assert len(comparisons.items) == 2
    assert notes_of(comparisons)[-1] == "2 of 3 comparisons are shown (attention=lsh); p is adjusted for all 3."
    assert shown.variants == [every.baseline, *(item.variant for item in comparisons.items)]
    assert shown.factors == runs.factors
    assert len(shown.records) == 12


def test_filters_on_different_keys_must_all_fit(runs: Runs) -> None:
    comparisons, _ = compare_selected(runs, ["attention=lsh", "activation=gelu"])
    assert [item.overrides for item in comparisons.items] == [
        "activation=gelu,attention=lsh,optimizer.lr=0.002",
    ]
    assert "1 of 3 comparisons is shown (attention=lsh activation=gelu)" in notes_of(comparisons)[-1]


@pytest.mark.parametrize("word", ["optimizer.lr=0.002", "optimizer.lr=2e-3", "optimizer.lr=0.0020"])
def test_numbers_are_compared_as_numbers(runs: Runs, word: str) -> None:
    comparisons, _ = compare_selected(runs, [word])
    assert len(comparisons.items) == 2


def test_the_baseline_alone_may_be_left(runs: Runs) -> None:
    comparisons, shown = compare_selected(runs, ["attention=full", "activation=relu"])
    assert comparisons.items == ()
    assert shown.variants == [comparisons.baseline]
    assert "0 of 3 comparisons are shown" in notes_of(comparisons)[-1]


def test_seeds_restrict_what_is_compared(runs: Runs) -> None:
    comparisons, shown = compare_selected(runs, ["seed=0,1,3"])
    assert {item.seeds for item in comparisons.items} == {(0, 1, 3)}
    assert comparisons.items[0].adjustment == "simultaneous"
    assert len(shown.records) == 12
    assert notes_of(comparisons) == (
        "12 of 16 runs are compared (seed=0,1,3); what is said holds only if they were chosen before looking.",
    )


def test_seeds_and_a_factor(runs: Runs) -> None:
    comparisons, _ = compare_selected(runs, ["seed=range(0,3)", "study=first", "attention=lsh"], metric="val_accuracy")
    assert {item.seeds for item in comparisons.items} == {(0, 1)}
    assert len(comparisons.items) == 2
    assert [note.split(" (")[0] for note in notes_of(comparisons)] == [
        "val_accuracy: higher is taken as better, by its name.",
        "2 of 3 comparisons are shown",
        "8 of 16 runs are compared",
    ]


def test_a_task_is_shown_without_the_suite_and_its_p_is_still_that_of_all() -> None:
    runs = runs_on("language", "vision")
    every = compare(runs)
    comparisons, shown = compare_selected(runs, ["task=vision"])
    assert comparisons.items == tuple(every.of_task("vision"))
    assert (comparisons.suite, comparisons.no_suite) == ((), NoSuite("filtered", filters="task=vision", left=(1, 2)))
    assert list(comparisons.metrics) == shown.tasks == ["vision"]
    assert notes_of(comparisons)[-1] == (
        "3 of 6 comparisons are shown (task=vision); p is adjusted for all 9, on the suite and on tasks."
    )


def test_a_setting_that_goes_with_a_task_shows_that_task() -> None:
    comparisons, _ = compare_selected(runs_on("language", "vision"), ["trainer.max_steps=60"])
    assert {item.task for item in comparisons.items} == {"vision"}
    assert "3 of 6 comparisons are shown" in notes_of(comparisons)[-1]


def test_the_suite_is_chosen_from_in_the_same_way() -> None:
    runs = runs_on("language", "vision")
    comparisons, _ = compare_selected(runs, ["attention=lsh"])
    assert comparisons.suite == tuple(item for item in compare(runs).suite if "lsh" in item.variant)
    assert notes_of(comparisons)[-2:] == (
        "4 of 6 comparisons are shown (attention=lsh); p is adjusted for all 9, on the suite and on tasks.",
        "on the suite of 2 tasks: 2 of 3 comparisons are shown (attention=lsh); p is adjusted for all 9, on the suite "
        "and on tasks.",
    )


def test_a_task_by_its_name_and_a_variant_by_its_own() -> None:
    runs = runs_of(
        record(seed, axes={"activation": a}, settings={"task": {"length": n}})
        for n in (32, 64)
        for a in ("relu", "gelu")
        for seed in (1, 2)
    )
    assert len(compare_selected(runs, ["task=language"])[0].items) == 2
    assert len(compare_selected(runs, ["task='language,task.length=32'"])[0].items) == 1
    assert len(compare_selected(runs, ["task.length=32"])[0].items) == 1
    assert len(compare_selected(runs, ["variant='activation=gelu'"])[0].items) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["atention=lsh"], "filter atention=lsh: no run has a setting atention; did you mean 'attention'?"),
        (
            ["zzz=1"],
            "no run has a setting zzz (there are: activation, attention, optimizer.lr, seed, study, task, variant)",
        ),
        (["attention=ls"], "filter attention=ls: no run has attention=ls; did you mean 'lsh'?"),
        (["attention=lsh,ful"], "filter attention=lsh,ful: no run has attention=ful; did you mean 'full'?"),
        (["seed=7"], "filter seed=7: no run has seed=7 (there are: 0, 1, 2, 3)"),
        (["attention=full", "optimizer.lr=0.002", "activation=relu"], "no run has all of this together"),
    ],
)
def test_what_no_run_has(runs: Runs, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compare_selected(runs, words)
    assert message in str(caught.value)


def test_without_filters_it_is_the_comparison(runs: Runs) -> None:
    assert compare_selected(runs, margin=0.5) == (compare(runs, margin=0.5), runs)


def test_a_choice_of_seeds_undoes_no_look(runs: Runs) -> None:
    looked = replace(runs, interim_analyses=(InterimAnalysis((0, 1, 2), "then"), InterimAnalysis((0, 1, 2, 3), "now")))
    comparisons, shown = compare_selected(looked, ["seed=0,1,2"])
    assert comparisons.level == 0.025
    assert shown.interim_analyses == looked.interim_analyses
