"""Sweeps through Hydra's launchers of others: the unit is ours, and with it the rules for resume and failures.

Jobs read the code of ablab themselves, from the copies that their sweep has made; libraries they have already.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra.core.plugins import Plugins
from processes import processes_in, wait_for
from slurm import NotHereError, jobs_of, slurm

from ablab.results.store import RECORD_FILE, read_record
from ablab.study.other_launcher import objective
from ablab.study.supervision import lock
from ablab.study.supervision.lock import OWNER_FILE

if TYPE_CHECKING:
    from conftest import Lab

pytestmark = [pytest.mark.slow]

COMPILED: Any = {"PYTHONDONTWRITEBYTECODE": ""}  # jobs keep what is compiled of their copy of the code


def statuses(study: Path) -> dict[str, str]:
    return {str(path.parent.relative_to(study)): read_record(path).status for path in sorted(study.rglob(RECORD_FILE))}


@pytest.mark.usefixtures("on_slurm")
def test_submitit_has_every_reason_and_is_resumed(lab: Lab) -> None:
    """Its local executor, which starts jobs as SLURM's does."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra `launchers`")
    words = lab.words("-m", "hydra/launcher=submitit_local", "name=submitit", "activation=killed", "retries=0")
    process = lab.start(*words, anew=True, **COMPILED)
    out, err = process.communicate(timeout=250)
    study = lab.folder / "outputs" / "submitit"
    assert process.returncode == 1, err
    assert statuses(study) == {"seed=0": "failed"}
    assert "the process was killed by SIGKILL" in out
    ended = lab.ablab("resume", str(study), "--trust", "--retry", "failed")
    assert ended.status == 1
    assert [run[0] for run in ended.runs] == ["failed"]


@pytest.mark.timeout(600)
def test_joblib_is_ended_with_its_jobs_and_then_runs_what_is_left(lab: Lab) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra `launchers`")
    words = lab.words("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "name=joblib", "activation=relu,slow")
    study, before = lab.folder / "outputs" / "joblib", set(processes_in(lab.folder))
    relu, slow = (study / f"activation={option}" / "seed=0" for option in ("relu", "slow"))
    (lab.folder / "slow").touch()
    process = lab.start(*words, "trainer.max_steps=20", anew=True, **COMPILED)
    begun = relu / RECORD_FILE, slow / "checkpoints" / "last.ckpt"
    wait_for(lambda: process.poll() is not None or all(path.exists() for path in begun), 240.0)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert "1/1 ok" in out, "the table so far is not printed"
    wait_for(lambda: set(processes_in(lab.folder)) <= before)
    assert statuses(study) == {"activation=relu/seed=0": "ok"}

    (lab.folder / "slow").unlink()
    kept = (relu / RECORD_FILE).stat().st_mtime_ns
    again = lab.start(*words, "trainer.max_steps=20", "hydra.launcher.n_jobs=1")  # which starts none for what is left
    out, err = again.communicate(timeout=250)
    assert again.returncode == 0, err
    assert "1 of 2 runs are done with; 1 are launched" in out
    assert statuses(study) == {"activation=relu/seed=0": "ok", "activation=slow/seed=0": "ok"}
    assert (relu / RECORD_FILE).stat().st_mtime_ns == kept


def test_a_job_runs_what_the_plan_says_and_not_what_has_been_edited(lab: Lab) -> None:
    """As a job of another launcher does: Hydra composes anew, and what it composes is not used."""
    ended = lab.sweep("name=planned", "activation=relu")
    assert ended.status == 0, ended.err
    study = lab.folder / "outputs" / "planned"
    (study / "seed=0" / RECORD_FILE).unlink()
    plan = json.loads((study / "plan.json").read_text())
    plan["runs"][0]["config"]["optimizer"]["lr"] = 0.0123
    (study / "plan.json").write_text(json.dumps(plan))
    words = lab.words(
        "-m", "name=planned", "hydra/sweeper=basic", "hydra/launcher=basic", "hydra.sweep.subdir='seed=0'"
    )
    ended = lab.ablab(*words)
    assert ended.status == 0, ended.err
    assert read_record(study / "seed=0" / RECORD_FILE).config["optimizer"]["lr"] == 0.0123


def test_what_only_our_launcher_does_is_refused(lab: Lab) -> None:
    for override in ("jobs=2", "runs_per_device=2", "on_failure=stop"):
        ended = lab.sweep("name=theirs", "hydra/launcher=basic", "activation=relu,gelu", override)
        assert ended.status == 2
        assert f"{override}: other launchers have settings of their own for that" in ended.err
    assert not (lab.folder / "outputs" / "theirs").exists()


def test_tuning_runs_that_were_lost_are_no_bad_points(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher gives up before its first job."""

    def gives_up(self: Any, job_overrides: Any, initial_job_idx: int) -> Any:
        raise RuntimeError("job 1 was lost")

    Plugins.instance()  # loads it
    basic = sys.modules["hydra._internal.core_plugins.basic_launcher"].BasicLauncher  # as Hydra has loaded it
    monkeypatch.setattr(basic, "launch", gives_up)
    ended = lab.sweep("name=untuned", "hydra/launcher=basic", "tune.lr=[1e-2,1e-1]", "tune.seeds=[8,9]")
    assert ended.status == 1
    gave_up, stopped = ended.err.splitlines()
    assert gave_up == "ablab: the launcher gave up: job 1 was lost"
    assert stopped.startswith(
        "ablab: stopped while tuning, since tune lr=0.01 seed=8 has not ended (its job ended without"
    )
    assert "with 4 of 4 tuning runs left" in stopped
    assert stopped.endswith("; a value that is lost each time has to leave its grid")


def test_a_job_without_a_record_is_a_row_with_its_reason(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher gives up after its first job, as it does when one is killed."""

    def gives_up(self: Any, job_overrides: Any, initial_job_idx: int) -> Any:
        launch(self, job_overrides[:1], initial_job_idx)
        raise RuntimeError("job 2 was lost")

    Plugins.instance()  # loads it
    basic = sys.modules["hydra._internal.core_plugins.basic_launcher"].BasicLauncher  # as Hydra has loaded it
    launch = basic.launch
    with monkeypatch.context() as patch:
        patch.setattr(basic, "launch", gives_up)
        ended = lab.sweep("name=lost", "hydra/launcher=basic", "activation=relu,gelu")
    assert ended.status == 1
    assert "ablab: the launcher gave up: job 2 was lost" in ended.err
    study = lab.folder / "outputs" / "lost"
    assert statuses(study) == {"activation=gelu/seed=0": "interrupted", "activation=relu/seed=0": "ok"}
    assert "its job ended without a record: job 2 was lost" in ended.out
    assert (study / ".snapshot").is_dir()
    ended = lab.sweep("name=lost", "hydra/launcher=basic", "activation=relu,gelu")
    assert ended.status == 0, ended.err
    assert statuses(study) == {"activation=gelu/seed=0": "ok", "activation=relu/seed=0": "ok"}


def test_an_earlier_run_in_the_folder_is_not_taken_for_that_of_a_lost_job(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its launcher works, the study says that it lives."""
    words = ("name=earlier", "hydra/launcher=basic", "activation=relu")
    assert lab.sweep(*words).status == 0
    owner = lab.folder / "outputs" / "earlier" / OWNER_FILE

    def lost(self: Any, job_overrides: Any, initial_job_idx: int) -> Any:
        before = owner.read_text()
        wait_for(lambda: owner.read_text() != before)
        raise RuntimeError("job 1 was lost")

    basic = sys.modules["hydra._internal.core_plugins.basic_launcher"].BasicLauncher
    with monkeypatch.context() as patch:
        patch.setattr(lock, "BEAT_S", 0.01)
        patch.setattr(basic, "launch", lost)
        ended = lab.sweep(*words, "optimizer.lr=0.0123")
    assert ended.status == 1
    [path] = (lab.folder / "outputs" / "earlier").rglob(RECORD_FILE)
    record = read_record(path)
    assert (record.status, record.reason) == ("interrupted", "its job ended without a record: job 1 was lost")
    assert record.config["optimizer"]["lr"] == 0.0123


def test_a_search_is_told_the_primary_metric(lab: Lab) -> None:
    """Through our launcher under another sweeper than ours, as those that search are."""
    ended = lab.ablab(*lab.words("-m", "name=search", "hydra/sweeper=basic", "optimizer.lr=0.1,0.01"))
    assert ended.status == 0, ended.err
    records = [read_record(path) for path in sorted((lab.folder / "outputs" / "search").rglob(RECORD_FILE))]
    assert [record.config["optimizer"]["lr"] for record in records] == [0.1, 0.01]
    assert [objective(record) for record in records] == [record.metrics["val_loss"] for record in records]


@pytest.mark.timeout(600)
def test_a_study_on_slurm_outlives_the_death_of_its_node(apart: Lab, on_slurm: Future[tuple[int, str, str]]) -> None:
    try:
        status, out, err = on_slurm.result()
    except NotHereError as error:
        pytest.skip(f"no SLURM: {error}")
    assert status == 0, err
    study = apart.folder / "outputs" / "cluster"
    assert statuses(study) == {"activation=relu/seed=0": "ok", "activation=slow/seed=0": "ok"}
    assert "2 are launched" in out


@pytest.fixture(scope="module")
def apart(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A folder as that of the other tests, for the study that runs beside them."""
    own = replace(lab, folder=tmp_path_factory.mktemp("apart"))
    shutil.copytree(lab.folder / "options", own.folder / "options")
    shutil.copy(lab.folder / "faulty.py", own.folder)
    return own


@pytest.fixture(scope="module")
def on_slurm(apart: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[tuple[int, str, str]]]:
    """What becomes of a study whose node dies. Most of its time it waits, and other tests run meanwhile."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra `launchers`")
    folder = tmp_path_factory.mktemp("slurm")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(_lose_the_node, apart, folder)


def _lose_the_node(lab: Lab, folder: Path) -> tuple[int, str, str]:
    (lab.folder / "slow").touch()
    words = lab.words(
        *("-m", "name=cluster", "activation=slow,relu", "trainer.max_steps=30", "hydra/launcher=submitit_slurm"),
        *("hydra.launcher.partition=main", "hydra.launcher.timeout_min=30", "hydra.launcher.mem_gb=1"),
    )
    study = lab.folder / "outputs" / "cluster"
    with slurm(folder) as cluster:
        environment: Any = cluster.env | COMPILED
        process = lab.start(*words, **environment)
        try:
            wait_for(lambda: bool(list(study.rglob("last.ckpt"))) or process.poll() is not None, 240.0)
            assert process.poll() is None, process.communicate()[1]
            cluster.crash_node()
            (lab.folder / "slow").unlink()
            cluster.ask("scontrol", "update", "nodename=n1", "state=down", "reason=died")
            cluster.start_node(rebooted=True)
            # It would begin two minutes later by itself.
            wait_for(lambda: "PENDING" in cluster.ask("squeue", "-h", "-o", "%i %T"))
            for job in jobs_of(cluster.ask("squeue", "-h", "-o", "%i %T")):
                cluster.ask("scontrol", "update", f"jobid={job}", "StartTime=now")
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode is not None
    return process.returncode, out, err
