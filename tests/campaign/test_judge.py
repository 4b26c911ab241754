"""Judging proposals: whole campaigns, with runs that cost nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from costless import BASELINE, GOOD, Runs, null, written

from ablab.campaign import Judged, read_campaign
from ablab.config import conf_folder
from ablab.errors import UserError
from ablab.results.record import Cause


def test_nulls_are_discarded_after_a_seed_or_two_and_a_real_one_is_kept(
    runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    nulls = [ask(null(number)) for number in range(1, 4)]
    assert {judged.decision for judged in nulls} == {"DISCARD"}
    found = ask(GOOD)
    assert (found.decision, found.judgement.reason) == ("KEEP", "better")
    assert found.judgement.effect is not None
    assert found.judgement.effect < 0
    assert found.judgement.interval[1] is not None
    assert found.judgement.interval[1] < 0
    assert found.judgement.e_value >= 1 / found.judgement.level
    assert len(found.judgement.seeds) >= 3
    campaign = read_campaign(tmp_path / "campaign")
    assert (campaign.count("KEEP"), campaign.count("DISCARD"), campaign.runs) == (1, 3, runs.made)
    seeds = [run.seed for run in campaign.baseline_runs[0]]
    assert len(seeds) == len(set(seeds))  # the baseline's runs are made once, for all proposals


def test_the_same_proposal_has_the_same_answer_and_costs_nothing(runs: Runs, ask: Callable[..., Judged]) -> None:
    first = ask(GOOD, null(1))
    made = runs.made
    again = ask(null(1), GOOD)
    assert again.from_ledger
    assert again.judgement == first.judgement
    assert runs.made == made


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_judge_that_is_killed_goes_on_to_the_same_verdict(
    stop_after: int, runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    whole = ask(GOOD, campaign=tmp_path / "whole", baseline=BASELINE, metric="val_loss")
    runs.made, runs.stop_after = 0, stop_after
    with pytest.raises(KeyboardInterrupt):
        ask(GOOD)
    runs.stop_after = 10**9
    for folder in (tmp_path / "campaign").glob("*/**/seed=*"):  # what was begun and not written down
        if not any(folder.name == f"seed={run.seed}" for run in written(tmp_path / "campaign")):
            (folder / "record.json").unlink()
            folder.rmdir()
    assert ask(GOOD).judgement == whole.judgement


def test_more_seeds_where_the_runs_do_not_suffice(runs: Runs, ask: Callable[..., Judged]) -> None:
    whole = ask(GOOD, max_runs=2)
    assert (whole.decision, runs.made) == ("MORE SEEDS", 2)
    assert ask(GOOD, max_runs=1).decision == "MORE SEEDS"  # a pair takes two
    assert runs.made == 2
    assert ask(GOOD).decision == "KEEP"


def test_a_run_that_diverges_is_discarded_and_counted(runs: Runs, ask: Callable[..., Judged], tmp_path: Path) -> None:
    runs.loss = lambda variant, seed: float("nan") if "lr" in variant else 2.0 + seed
    found = ask(GOOD)
    assert (found.decision, found.judgement.reason) == ("DISCARD", "diverged")
    assert "seed 0" in found.judgement.detail
    assert read_campaign(tmp_path / "campaign").count("DISCARD") == 1


@pytest.mark.parametrize("cause", ["memory", "timeout", "hung"])
def test_a_run_that_meets_a_limit_of_the_machine_leaves_its_proposal_open(
    cause: Cause, runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    runs.failing = {GOOD: cause}
    for _ in range(2):
        found = ask(GOOD)
        assert (found.decision, found.judgement.reason) == ("MORE SEEDS", "limit")
        assert found.judgement.detail == f"seed 0: its end was {cause}"
        assert found.judgement.level > 0
    assert (found.runs_made, found.proposal.runs) == (1, ())  # the baseline's run is kept
    runs.failing = {}
    assert ask(GOOD).judgement == ask(GOOD, campaign=tmp_path / "x", baseline=BASELINE, metric="val_loss").judgement


@pytest.mark.parametrize("cause", ["memory", "timeout", "hung"])
def test_a_baseline_that_meets_a_limit_of_the_machine_discards_nothing(
    cause: Cause, runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    runs.failing = {"baseline": cause}
    with pytest.raises(UserError, match="mend that, and the same command goes on"):
        ask(GOOD)
    runs.failing = {}
    shutil.rmtree(tmp_path / "campaign" / "proposals")  # where `Runs` does not look for what it has made
    assert ask(GOOD).decision == "KEEP"


def test_a_run_that_is_the_baselines_to_the_last_bit_is_discarded_after_one_seed(
    runs: Runs, ask: Callable[..., Judged]
) -> None:
    runs.loss = lambda variant, seed: 2.0 + seed
    found = ask(null(1))
    assert (found.judgement.reason, found.judgement.seeds) == ("no effect", (0,))


@pytest.mark.parametrize("proposal", ["+model.placebo=draw", "+model.placebo=order"])
def test_a_placebo_costs_no_run(proposal: str, runs: Runs, ask: Callable[..., Judged]) -> None:
    found = ask(proposal)
    assert (found.decision, found.judgement.reason, runs.made) == ("DISCARD", "no effect", 0)
    assert found.judgement.detail.startswith("its components and settings are the baseline's but for model.placebo")
    runs.loss = lambda variant, seed: 2.0
    assert ask("activation=gelu").runs_made > 0


def test_the_baselines_component_by_another_name_costs_no_run(
    runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    option = tmp_path / "activation" / "renamed.yaml"
    option.parent.mkdir()
    shutil.copy(conf_folder() / "activation" / "gelu.yaml", option)
    for proposal in (str(option), "activation=gelu", "jobs=2"):
        found = ask(proposal, baseline=[*BASELINE, "activation=gelu"])
        assert (found.judgement.reason, runs.made) == ("no effect", 0)
        assert found.judgement.detail == "its components and settings are the baseline's"


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_a_limit_that_initial_values_do_not_reach_is_told_by_a_run(
    limit: int, runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    whole = [*BASELINE, "activation=clamped_swiglu", "activation.limit=7"]
    found = ask(f"activation.limit={limit}", baseline=whole)
    assert (found.judgement.reason, found.runs_made > 0) == ("futile", True)
    runs.loss = lambda variant, seed: 2.0 + seed
    found = ask(f"activation.limit={limit}", campaign=tmp_path / "equal", baseline=whole, metric="val_loss")
    assert (found.judgement.reason, found.runs_made) == ("no effect", 2)
    assert found.judgement.detail == "seed 0: every metric is the baseline's to the last bit"


def test_a_failed_certificate_costs_no_run(
    runs: Runs, ask: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [{"name": "future", "outcome": "fail", "detail": "sees 3 places ahead"}]
    failed = {"targets": ["activation=gelu"], "passed": False, "seconds": 1.0, "checks": checks}
    monkeypatch.setattr("ablab.campaign.certificate.certificate_of", lambda own, whole: failed)
    found = ask("activation=gelu", certify=True)
    assert (found.decision, found.judgement.reason, runs.made) == ("DISCARD", "certificate", 0)
    assert found.judgement.detail == "future: sees 3 places ahead"


def test_what_was_declared_holds(runs: Runs, ask: Callable[..., Judged]) -> None:
    ask(null(1), margin=0.01)
    refusals: dict[str, dict[str, object]] = {
        "--margin 0.02: the campaign has declared 0.01": {"margin": 0.02},
        "--level 0.1: the campaign has declared 0.05": {"level": 0.1},
        "--baseline task=sorting: the campaign's is": {"baseline": "task=sorting"},
        "--metric val_accuracy: the campaign has declared val_loss": {"metric": "val_accuracy"},
    }
    for line, settings in refusals.items():
        with pytest.raises(UserError, match=line):
            ask(null(2), **settings)
    assert ask(null(2), margin=0.01, baseline=BASELINE).decision == "DISCARD"


def test_a_baseline_is_moved_where_that_is_said(runs: Runs, ask: Callable[..., Judged], tmp_path: Path) -> None:
    assert ask(GOOD).decision == "KEEP"
    assert len(read_campaign(tmp_path / "campaign").baselines) == 1
    moved = ask(null(3), move_baseline=[*BASELINE, GOOD])
    campaign = read_campaign(tmp_path / "campaign")
    assert campaign.baseline.overrides == [*BASELINE, GOOD]
    assert moved.proposal.number == 2  # levels go on
    assert {run.folder.split("/")[0] for run in campaign.baseline_runs[1]} == {f"baseline-{campaign.baseline.identity}"}


def test_what_was_kept_beside_the_baseline_before_is_asked_anew(
    runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    """Both words are better by the learning rate alone; beside a baseline that has it, the other does nothing."""
    both = (GOOD, null(1))
    before = ask(*both)
    assert before.decision == "KEEP"
    moved = ask(null(1), move_baseline=[*BASELINE, GOOD])
    assert (moved.decision, moved.from_ledger, moved.proposal.number, moved.proposal.baseline) == (
        "DISCARD",
        False,
        2,
        2,
    )
    back = ask(*both, move_baseline=BASELINE)
    assert (back.decision, back.from_ledger, back.proposal.number, back.runs_made) == ("KEEP", True, 1, 0)
    campaign = read_campaign(tmp_path / "campaign")
    assert (len(campaign.baselines), campaign.present) == (2, 0)


def test_an_open_proposal_waits_for_its_own_baseline(runs: Runs, ask: Callable[..., Judged], tmp_path: Path) -> None:
    began = ask(GOOD, max_runs=2)
    assert began.decision == "MORE SEEDS"
    assert ask(GOOD, move_baseline=[*BASELINE, null(1)]).proposal.number == 2
    back = ask(GOOD, move_baseline=BASELINE)
    assert (back.decision, back.proposal.number, back.judgement.seeds[0]) == ("KEEP", 1, began.judgement.seeds[0])
    seeds = [run.seed for run in read_campaign(tmp_path / "campaign").baseline_runs[0]]
    assert len(seeds) == len(set(seeds))
