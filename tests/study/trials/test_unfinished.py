"""A study that is stopped while it tunes, or measures speeds, chooses nothing by what there is, and goes on later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ablab.config import RunConfig
from ablab.results.store import RECORD_FILE, read_record, write_record
from ablab.study.events import RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.trials.unfinished import UnfinishedError, refuse_unfinished
from ablab.training.begin import new_record

if TYPE_CHECKING:
    from staged import Stage

    from conftest import Lab

RATES = ("tune.lr=[1e-2,1e-1]", "tune.seeds=[8,9]", "tune.extend=0")

TinyConfig = Callable[..., RunConfig]


def test_a_study_that_is_stopped_while_it_tunes_chooses_nothing_and_is_gone_on_with(lab: Lab, stage: Stage) -> None:
    """The third of four tuning runs fails: the smaller rate alone is whole, and is not what is chosen in the end."""
    words, folder = ["seed=0,1", "name=stopped", *RATES, "retries=0"], lab.folder / "outputs" / "stopped"
    stage.most = 3
    ended = lab.sweep(*words, "on_failure=stop")
    assert stage.made == ["tune lr=0.01 seed=8", "tune lr=0.01 seed=9", "tune lr=0.1 seed=8"]
    assert ended.err == (
        "ablab: stopped while tuning, since tune lr=0.1 seed=8 failed (on_failure=stop); with 1 of 4 tuning runs "
        "left, nothing is chosen or compared: the same command goes on, or ablab resume --trust outputs/stopped\n"
    )
    assert (ended.status, "optimizer.lr=" in ended.out) == (1, False)

    stage.most, stage.made = 100, []
    ended = lab.sweep(*words)
    assert ended.status == 0, ended.err
    assert stage.made == ["tune lr=0.1 seed=9", "default seed=0", "default seed=1"]
    # The run that failed for good makes its point the worst, as documented.
    assert "optimizer.lr=0.01 of 0.01, 0.1" in ended.out
    rates = {read_record(folder / f"seed={seed}" / RECORD_FILE).config["optimizer"]["lr"] for seed in (0, 1)}
    assert rates == {0.01}


LEFT = {
    ("ok", "diverged", "failed"): None,  # each says something of its point
    ("ok", "interrupted"): r"stopped while tuning, since b seed=0 has not ended \(why\); with 1 of 2 tuning runs left",
    ("ok", None, None): r"since b seed=0 has not ended \(it left no record\); with 2 of 3",
    ("disk", "ok"): r"since a seed=0 has not ended \(why\); with 1 of 2",
}


@pytest.mark.parametrize("statuses", LEFT)
def test_what_has_not_ended_is_no_bad_point(
    tiny_config: TinyConfig, tmp_path: Path, statuses: tuple[str | None, ...]
) -> None:
    trials = made(tiny_config(), tmp_path, "tune", *statuses)
    if (line := LEFT[statuses]) is None:
        refuse_unfinished(tmp_path, trials, None)
        line = "since a failed; with 0 of 3 tuning runs left"
    with pytest.raises(UnfinishedError, match=line):
        refuse_unfinished(tmp_path, trials, None if "has not ended" in line else "a failed")


def test_a_record_of_other_settings_is_none(tiny_config: TinyConfig, tmp_path: Path) -> None:
    (pilot,) = made(tiny_config(), tmp_path, "pilot", "ok")
    other = replace(pilot, config=tiny_config("optimizer.lr=0.5"))
    refuse_unfinished(tmp_path, [pilot], None)
    with pytest.raises(UnfinishedError, match=r"stopped while measuring speeds, .*; with 1 of 1 pilots left"):
        refuse_unfinished(tmp_path, [other], None)


def made(config: RunConfig, study: Path, below: str, *statuses: Any) -> list[PlannedRun]:
    """Trials that have ended like this; None: without a record."""
    trials = []
    for index, (name, status) in enumerate(zip("abc", statuses, strict=False)):
        info = RunOutline(index=index, variant=name, task="", seed=0, steps=1)
        trials.append(PlannedRun(info=info, config=config, folder=study / below / name))
        if status is not None:
            record = replace(new_record(config), status="failed", cause="disk", reason="why")
            record = record if status == "disk" else replace(record, status=status, cause=None)
            trials[-1].folder.mkdir(parents=True)
            write_record(trials[-1].folder, record)
    return trials
