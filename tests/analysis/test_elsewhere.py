"""Metrics of evaluations elsewhere: compared like any, refused like any, and side by side over length."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from synthetic import ACCURACY, CORPUS, evaluation, record, runs_of

from ablab.analysis.comparison import compare
from ablab.analysis.declared import check_declared
from ablab.analysis.elsewhere import elsewhere
from ablab.analysis.metrics import choose_metric, pending
from ablab.analysis.notes import NoValue, UnequalEvaluation
from ablab.analysis.verdicts import Verdict
from ablab.config import ComparisonConfig
from ablab.errors import UserError
from ablab.report.notes import notes_of
from ablab.report.sentences import verdict_sentence
from ablab.results.record import Record

LOSSES = {"relu": [1.0, 1.1, 1.2, 1.3, 1.4], "gelu": [1.1, 1.21, 1.29, 1.42, 1.5]}
LENGTHS = (64, 128, 256)


def evaluated(losses: dict[str, list[float]], *names: str) -> list[Record]:
    """Runs that are equal on their own task, and elsewhere have these losses, plus a tenth for each further name."""
    runs = []
    for option, values in losses.items():
        for seed, loss in enumerate(values, start=1):
            run = record(seed, 1.0 + seed / 10, axes={"activation": option}, config={"task": {"seq_len": 64}})
            for place, name in enumerate(names):
                run.evaluations[name] = evaluation(name, run.fingerprint, loss + place / 10)
            runs.append(run)
    return runs


AT_128 = "val_loss@task.seq_len=128"


def test_a_verdict_is_that_of_the_same_values_as_a_metric_of_the_runs() -> None:
    found = compare(runs_of(evaluated(LOSSES, "task.seq_len=128")), metric=AT_128)
    own = [record(seed, loss, axes={"activation": o}) for o, each in LOSSES.items() for seed, loss in enumerate(each)]
    expected = compare(runs_of(own))
    [item], [other] = found.items, expected.items
    assert (item.differences, item.interval, item.verdict) == (other.differences, other.interval, other.verdict)
    assert (item.verdict, item.direction, item.metric) == (Verdict.WORSE, "min", AT_128)
    assert AT_128 in verdict_sentence(item)


def test_no_change_is_one_that_is_none_elsewhere_either() -> None:
    """A window of the length that was trained on is full attention there, and another on longer sequences."""
    apart = evaluated(LOSSES, "task.seq_len=128")
    alike = evaluated({"relu": LOSSES["relu"], "gelu": LOSSES["relu"]}, "task.seq_len=128")
    for runs, verdict in ((apart, Verdict.WORSE), (alike, Verdict.NO_EFFECT)):
        assert [item.verdict for item in compare(runs_of(runs), metric=AT_128).items] == [verdict]
        assert [item.verdict for item in compare(runs_of(runs)).items] == [Verdict.NO_EFFECT]


def test_a_name_is_found_however_it_is_spelt() -> None:
    runs = runs_of(evaluated(LOSSES, "task=text,task.eval_tokens=512,task.seq_len=128"))
    spelt = "val_loss@task.seq_len=1_28,task.eval_tokens=512,task='text'"
    assert choose_metric(runs, "language", spelt)[0] == "val_loss@task=text,task.eval_tokens=512,task.seq_len=128"


def test_a_metric_is_as_good_in_the_direction_of_the_task_that_it_is_of() -> None:
    runs = evaluated({"relu": [1.0]}, "task=recall")
    runs[0].evaluations["task=recall"] = evaluation("task=recall", "f", primary=ACCURACY, metrics={"val_accuracy": 0.5})
    assert choose_metric(runs_of(runs), "language", "val_accuracy@task=recall")[1:] == ("max", False)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            "val_loss@task.seq_len=999",
            r"no run has it, since none was evaluated there: ablab evaluate DIR task\.seq_len=999",
        ),
        ("val_loss@checkpoint=last", "ablab evaluate DIR --checkpoint last"),
        ("val_los@task.seq_len=128", r"did you mean 'val_loss@task\.seq_len=128'"),
        ("nothing@task.seq_len=999", "no run has it"),
    ],
)
def test_a_missing_one_is_one_line_that_says_what_to_do(wanted: str, said: str) -> None:
    runs = runs_of(evaluated(LOSSES, "task.seq_len=128"))
    with pytest.raises(UserError, match=said) as refused:
        compare(runs, metric=wanted)
    assert "\n" not in str(refused.value)


def test_runs_that_were_not_evaluated_have_no_value_and_say_so() -> None:
    runs = evaluated(LOSSES, "task.seq_len=128")
    del runs[-1].evaluations["task.seq_len=128"]
    [item] = compare(runs_of(runs), metric=AT_128).items
    assert item.seeds == (1, 2, 3, 4)
    assert any(isinstance(note, NoValue) and note.seed == 5 for note in item.notes)
    assert "seed 5: ok, but not evaluated at task.seq_len=128." in notes_of(item)


def test_values_from_other_data_or_other_samples_are_not_equal() -> None:
    runs = evaluated(LOSSES, "task=text,task.path=b.txt")
    metric = "val_loss@task=text,task.path=b.txt"
    own = runs[-1].evaluations["task=text,task.path=b.txt"]
    own.evaluated = {"val": 7}
    [item] = compare(runs_of(runs), metric=metric).items
    assert UnequalEvaluation((("val", 7, 8),)) in item.notes
    own.corpus = dataclasses.replace(CORPUS, sha256="cd" * 32)
    [item] = compare(runs_of(runs), metric=metric).items
    assert item.verdict is Verdict.NOT_COMPARABLE
    assert "evaluated on another corpus than the baseline" in verdict_sentence(item)
    assert compare(runs_of(runs), metric="val_loss").items[0].blocked is None


def test_a_study_may_declare_one_before_there_are_runs() -> None:
    planned = runs_of(evaluated(LOSSES))
    check_declared(ComparisonConfig(metric=AT_128), planned)
    assert pending(planned, AT_128) == "task.seq_len=128"
    assert pending(runs_of(evaluated(LOSSES, "task.seq_len=128")), AT_128) == pending(planned, "val_loss") == ""
    with pytest.raises(UserError, match="metric val_los: no run has it"):
        check_declared(ComparisonConfig(metric="val_los@task.seq_len=128"), planned)
    with pytest.raises(UserError, match=r"comparison\.last_k=2: val_loss@task\.seq_len=128 is one evaluation"):
        check_declared(ComparisonConfig(metric=AT_128, last_k=2), planned)


def test_over_lengths_means_and_intervals_are_those_of_the_values() -> None:
    names = [f"task.seq_len={length}" for length in LENGTHS]
    runs = runs_of(evaluated(LOSSES, *reversed(names)))
    [found] = elsewhere(runs, "language")
    assert (found.metric, found.names, found.lengths, found.trained) == ("val_loss", tuple(names), LENGTHS, (64,))
    for option, values in LOSSES.items():
        for place, point in enumerate(found.points[f"activation={option}"]):
            expected = np.array(values) + (2 - place) / 10
            assert point is not None
            assert point.interval is not None
            low, high = stats.t.interval(0.95, 4, loc=expected.mean(), scale=stats.sem(expected))
            assert point.mean == pytest.approx(expected.mean())
            assert point.interval == pytest.approx((low, high))


def test_what_shares_no_length_stands_by_its_name() -> None:
    runs = evaluated(LOSSES, "task.seq_len=64", "task.seq_len=128", "task=text,task.path=b.txt", "checkpoint=best")
    first, second = elsewhere(runs_of(runs), "language")
    assert first.lengths == (64, 128)
    assert (second.lengths, second.names) == ((), ("task=text,task.path=b.txt", "checkpoint=best"))
    assert elsewhere(runs_of(evaluated(LOSSES)), "language") == []


def test_few_seeds_and_no_numbers_have_no_interval() -> None:
    runs = evaluated({"relu": [1.0, 2.0, math.nan], "gelu": [math.nan]}, "task.seq_len=64", "task.seq_len=128")
    [found] = elsewhere(runs_of(runs), "language")
    assert list(found.points) == ["activation=relu"]
    point = found.points["activation=relu"][0]
    assert point is not None
    assert (point.values, point.interval) == ((1.0, 2.0), None)
