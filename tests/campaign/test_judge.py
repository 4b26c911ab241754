"""Judging proposals: whole campaigns with runs that cost nothing, and one with runs that are really trained."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ablab.analysis.campaign_verdict import Judgement
from ablab.campaign import Judged, judge, read_campaign
from ablab.campaign import judge as _judge_function
from ablab.campaign.proposal import parse
from ablab.cli.entry import main
from ablab.config import conf_folder, fingerprint
from ablab.errors import UserError
from ablab.report.campaign import judgement_text
from ablab.results.campaign import Baseline, Campaign, Declaration, JudgedRun, Proposal
from ablab.results.ledger import HEAD_FILE, LEDGER_FILE
from ablab.results.record import Cause, Cost, Metric, Record
from ablab.results.run_context import RunContext
from ablab.results.store import write_record
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.lock import StudyLock
from ablab.training.begin import new_record, prepare_folder

BASELINE = (
    *("task=sorting", "task.seq_len=8", "task.symbols=4", "task.batch_size=4", "task.eval_samples=8", "logger=csv"),
    *("model.d_model=16", "model.n_heads=2", "model.n_layers=1", "trainer.accelerator=cpu"),
    *("trainer.max_steps=2", "trainer.val_check_interval=2"),
)
MODULE = sys.modules[_judge_function.__module__]
Loss = Callable[[str, int], float]
_CHECKED = Preflight()
GOOD = "optimizer.lr=0.5"


class Runs:
    """Trains nothing: the loss of a run is a function of its label and its seed."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.made, self.stop_after = loss, 0, 10**9
        self.failing: dict[str, Cause] = {}  # by the label of a run

    def __call__(self, runs: Sequence[PlannedRun]) -> list[Record]:
        return [self._one(run) for run in runs]

    def _one(self, run: PlannedRun) -> Record:
        if self.made >= self.stop_after:
            raise KeyboardInterrupt
        self.made += 1
        if cause := self.failing.get(run.info.variant):
            record = new_record(run.config, run.context)
            record.cause, record.reason = cause, f"its end was {cause}"
            return record
        loss = self.loss(run.info.variant, run.info.seed)
        diverged = loss != loss
        record = Record(
            status="diverged" if diverged else "ok",
            reason="val_loss became nan at step 1" if diverged else None,
            fingerprint=fingerprint(run.config),
            study="campaign",
            variant=run.info.variant,
            seed=run.info.seed,
            axes=run.config.axes,
            config=run.config.shown(),
            primary=Metric(name="val_loss", direction="min", split="val"),
            metrics={} if diverged else {"val_loss": loss},
            cost=Cost(parameters=100, flops_total=150 if GOOD in run.info.variant else 100),
        )
        run.folder.mkdir(parents=True)
        write_record(run.folder, record)
        return record


def noisy(variant: str, seed: int) -> float:
    """The loss of a run; a paired difference has a standard deviation of .01, and `GOOD` is better by 3 of them."""
    noise = random.Random(f"{variant} {seed}").gauss(0, 0.007)
    return 2.0 + 0.1 * random.Random(seed).random() + noise - (0.03 if GOOD in variant else 0.0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(noisy)
    monkeypatch.setattr(MODULE, "Preflight", lambda: _CHECKED)  # which knows what has been checked before
    monkeypatch.setattr(MODULE, "in_this_process", lambda preflight, beat: made)
    monkeypatch.setattr(MODULE, "by_supervisor", lambda preflight, observe, beat: made)
    return made


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Judged]:
    def asked(*proposal: str, **settings: object) -> Judged:
        settings = {"campaign": tmp_path / "campaign", "certify": False, "in_process": True, **settings}
        if not (tmp_path / "campaign" / LEDGER_FILE).exists():
            settings.setdefault("baseline", BASELINE)
            settings.setdefault("metric", "val_loss")
        return judge(list(proposal), **settings)  # type: ignore[arg-type]

    return asked


def null(number: int) -> str:
    return f"optimizer.weight_decay=0.{number:03d}"


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
        if not any(folder.name == f"seed={run.seed}" for run in _written(tmp_path / "campaign")):
            (folder / "record.json").unlink()
            folder.rmdir()
    assert ask(GOOD).judgement == whole.judgement


def _written(folder: Path) -> list[JudgedRun]:
    campaign = read_campaign(folder)
    return [run for runs in (*campaign.baseline_runs, *(each.runs for each in campaign.proposals)) for run in runs]


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


def test_a_component_that_was_changed_is_another_proposal(
    runs: Runs, ask: Callable[..., Judged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    (folder / "conf" / "activation").mkdir(parents=True)
    (folder / "conf" / "activation" / "mine.yaml").write_text("_target_: my_code.Mine\n_partial_: true\n")
    source = (
        "from torch import nn\n\n\nclass Mine(nn.SiLU):\n    def __init__(self, spec):\n        super().__init__()\n"
    )
    (folder / "my_code.py").write_text(source)
    monkeypatch.setattr(sys, "path", [*sys.path])
    option = str(folder / "conf" / "activation" / "mine.yaml")
    first = ask(option)
    assert ask(option).from_ledger
    (folder / "my_code.py").write_text(source.replace("SiLU", "Tanh"))
    changed = ask(option)
    assert not changed.from_ledger
    assert (first.proposal.number, changed.proposal.number) == (1, 2)


_MINE = """
from torch import nn
{above}


class Mine(nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        {within}
        return SLOPE * x
"""


@pytest.mark.parametrize(
    ("name", "above", "within"),
    [
        ("scaled", "from scaled_numbers import SLOPE", ""),
        ("scaled_late", "", "from scaled_late_numbers import SLOPE"),
        ("scales.one", "from .one_numbers import SLOPE", ""),
        ("scales_late.one", "", "from scales_late.one_numbers import SLOPE"),
    ],
)
def test_a_number_that_a_component_imports_makes_another_proposal(
    name: str,
    above: str,
    within: str,
    runs: Runs,
    ask: Callable[..., Judged],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    option, numbers = _own_activation(tmp_path, name, above, within)
    monkeypatch.setattr(sys, "path", [*sys.path])
    first = ask(option)
    assert ask(option).from_ledger
    numbers.write_text("SLOPE = 0.9  # another\n")
    changed = ask(option)
    assert (changed.from_ledger, changed.proposal.number) == (False, 2)
    assert first.proposal.sources.keys() == changed.proposal.sources.keys()
    assert not above or vars(sys.modules[name])["SLOPE"] == 0.9  # imported anew


def _own_activation(tmp_path: Path, name: str, above: str, within: str) -> tuple[str, Path]:
    """An option made of a module of that name, and the file of the numbers beside it."""
    folder, (*packages, own) = tmp_path / "mine", name.split(".")
    option = folder / "conf" / "activation" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(f"_target_: {name}.Mine\n_partial_: true\n")
    place = folder.joinpath(*packages)
    place.mkdir(exist_ok=True)
    (place / f"{own}.py").write_text(_MINE.format(above=above, within=within))
    numbers = place / f"{own}_numbers.py"
    numbers.write_text("SLOPE = 0.1\n")
    return str(option), numbers


def test_installed_packages_in_the_folder_of_a_component_are_none_of_its_sources(
    runs: Runs, ask: Callable[..., Judged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option, _ = _own_activation(tmp_path, "scaled_beside", "from installed_beside import SLOPE, Of", "")
    place = tmp_path / "mine" / "venv" / "site-packages"
    place.mkdir(parents=True)
    (place / "installed_beside.py").write_text("SLOPE = 0.1\n\n\nclass Of: pass\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    assert [*ask(option).proposal.sources] == ["scaled_beside"]


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


def test_a_real_campaign_goes_on_after_a_kill(
    ask: Callable[..., Judged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really trained: stopped when the first pair is made, and judged by another call."""
    from ablab.campaign import runs as made_by
    from ablab.training.run import execute

    made = 0

    def stops(*given: object, **named: object) -> Record:
        nonlocal made
        made += 1
        if made == 2:
            raise KeyboardInterrupt
        return execute(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(made_by, "execute", stops)
    with pytest.raises(KeyboardInterrupt):
        ask("activation=gelu", max_runs=4)
    assert [run.of for run in _written(tmp_path / "campaign")] == []
    found = ask("activation=gelu", max_runs=2)
    assert made == 3  # the baseline's run was kept
    assert found.judgement.difference is not None
    assert found.proposal.runs[0].status == "ok"


@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_however_often_is_made_again(
    in_process: bool, ask: Callable[..., Judged], tmp_path: Path
) -> None:
    """Really trained: the baseline's run has been killed as often as a run is tried, and has left that record."""
    begun = ask("activation=gelu", max_runs=0)
    folder = tmp_path / "campaign" / f"baseline-{begun.campaign.baseline.identity}" / "seed=0"
    config = parse(BASELINE).config(0)
    killed = new_record(config, RunContext(variant="baseline", index=0))
    killed.reason, killed.attempts = "killed by SIGKILL", config.execution.retries + 1
    killed.corpus = _CHECKED.task(config).corpus
    prepare_folder(config, folder)
    write_record(folder, killed)
    found = ask("activation=gelu", max_runs=2, in_process=in_process)
    assert (found.runs_made, found.proposal.runs[0].status) == (2, "ok")


@pytest.mark.slow
def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Really trained, in processes that must not run the script again."""
    script = tmp_path / "loop.py"
    given = f"'activation=gelu', campaign='c', baseline={list(BASELINE)}, max_runs=2, certify=False"
    script.write_text(f"from ablab.campaign import judge\nprint('made', judge({given}).runs_made)\n")
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.count("made 2")) == (0, 1), ended.stderr
