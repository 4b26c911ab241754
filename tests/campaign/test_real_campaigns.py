"""Campaigns whose runs are really trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from costless import BASELINE, CHECKED, written

from ablab.campaign import Judged
from ablab.campaign.proposal import parse
from ablab.results.record import Record
from ablab.results.run_context import RunContext
from ablab.results.store import write_record
from ablab.training.begin import new_record, prepare_folder


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
    assert [run.of for run in written(tmp_path / "campaign")] == []
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
    killed.corpus = CHECKED.task(config).corpus
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
