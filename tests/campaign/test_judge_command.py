"""What the command says, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from costless import BASELINE, GOOD, Runs, null

from ablab.analysis.campaign_verdict import Judgement
from ablab.campaign import Judged, read_campaign
from ablab.cli.entry import main
from ablab.errors import UserError
from ablab.report.campaign import judgement_text
from ablab.results.campaign import Baseline, Campaign, Declaration, Proposal
from ablab.results.ledger import HEAD_FILE, LEDGER_FILE
from ablab.study.supervision.lock import StudyLock


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=3"], "a campaign chooses the seeds"),
        (["task.seq_len=16"], "leave it to the baseline"),
        (["no_such.yaml"], "no such file"),
        (["activation=geluu"], "gelu"),
        (["activation"], "neither KEY=VALUE nor the YAML file"),
        (["optimizer.lr=-1"], "optimizer"),
        ([], "nothing is proposed"),
    ],
)
def test_bad_input_is_one_line_and_no_proposal(
    words: list[str], line: str, runs: Runs, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line) as refused:
        ask(*words)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "campaign" / LEDGER_FILE).exists() or not read_campaign(tmp_path / "campaign").proposals


def test_two_judges_do_not_write_one_ledger(runs: Runs, ask: Callable[..., Judged], tmp_path: Path) -> None:
    with StudyLock(tmp_path / "campaign"), pytest.raises(UserError, match="works on"):
        ask(null(1))


def test_an_edited_ledger_is_refused(runs: Runs, ask: Callable[..., Judged], tmp_path: Path) -> None:
    ask(null(1))
    path = tmp_path / "campaign" / LEDGER_FILE
    path.write_text(path.read_text().replace('"decision": "DISCARD"', '"decision": "KEEP"'))
    with pytest.raises(UserError, match="was changed after it was written"):
        ask(null(2))
    (tmp_path / "campaign" / HEAD_FILE).unlink()
    with pytest.raises(UserError, match="ledger is only added to"):
        read_campaign(tmp_path / "campaign")


def test_the_command_says_which_by_its_status_and_in_json(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            main(["judge", *words, "--campaign", "c", "--no-certify"])
        return ended.value.code, capsys.readouterr().out

    assert (
        command(null(1), "--baseline", " ".join(BASELINE), "--metric", "val_loss", "--json", "--max-runs", "0")[0] == 3
    )
    status, told = command(GOOD, "--json")
    assert status == 0
    found = json.loads(told)
    assert (found["schema"], found["decision"], found["metric"]) == (1, "KEEP", "val_loss")
    assert (found["direction"], found["direction_by_name"]) == ("min", True)  # the task's primary one is an accuracy
    assert found["interval"][0] < found["effect"] < found["interval"][1] < 0
    assert found["campaign"]["kept"] == 1
    assert found["runs"]["this_call"] == 2 * len(found["seeds"])
    status, told = command(GOOD)
    assert status == 0
    assert told.startswith(f"KEEP        {GOOD}: better than the baseline.\n")
    assert "val_loss: lower is taken as better, by its name." in told
    assert "NOT AT EQUAL BUDGET  +50% FLOPs against the baseline." in told
    assert "from the ledger; nothing was run; so far 2 proposals: 1 kept, 0 discarded, 1 open" in told
    assert command("+model.placebo=draw")[0] == 1
    assert command("optimizer.lr=nought")[0] == 2
    status, told = command("--list")
    assert status == 0
    assert [line.split()[:2] for line in told.splitlines()[2:5]] == [
        ["1", null(1)],
        ["2", GOOD],
        ["3", "+model.placebo=draw"],
    ]
    assert "of all that is kept at most 5% is false" in told
    assert len(json.loads(command("--json")[1])["ledger"]) == 3


@pytest.mark.parametrize(
    ("interval", "margin", "is_said"),
    [((-0.2, 0.01), 0.0, True), ((None, None), 0.0, True), ((-0.2, -0.05), 0.1, True), ((-0.2, -0.05), 0.0, False)],
)
def test_a_keep_says_where_its_interval_does_not_leave_out_that_it_is_no_better(
    interval: tuple[float | None, float | None], margin: float, is_said: bool
) -> None:
    declared = Declaration(metric="val_loss", direction="min", level=0.05, proposals=200, margin=margin)
    campaign = Campaign(declaration=declared, baselines=(Baseline(overrides=[], identity="a"),), baseline_runs=((),))
    kept = Judgement(decision="KEEP", reason="better", effect=-0.1, interval=interval, level=0.0025, seeds=(1, 2, 3))
    proposal = Proposal(number=1, identity="b", label=GOOD, overrides=[GOOD])
    assert ("kept by its e-value" in judgement_text(campaign, proposal, kept, 3, False)) == is_said
