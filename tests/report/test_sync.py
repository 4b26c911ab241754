"""`ablab sync` with real offline runs, W&B's own sync, and a server on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from synthetic import record
from wandb_server import WandbServer

from ablab.cli import main
from ablab.report.sync import find_offline_runs
from ablab.report.wandb import SHOWN_FILE
from ablab.results.run_folder import clear
from ablab.results.store import CONFIG_FILE, RECORD_FILE, write_record
from ablab.results.wandb_runs import begin, run_id

KEY = "a" * 40


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        running.shutdown()


def attempt(folder: Path, losses: list[float], exit_code: int = 0, first: int = 0) -> None:
    """An attempt at a run, logged offline."""
    settings = {"project": "p", "entity": None, "group": "g", "job_type": "train", "tags": ["t"], "config": {"a": 1}}
    run = begin(folder, offline=True, name="n", **settings)  # type: ignore[arg-type]
    for step, loss in enumerate(losses, start=first):
        run.log({"loss": loss, "trainer/global_step": step})
    run.finish(exit_code=exit_code)


def ablab_sync(
    folder: Path, server: WandbServer | None = None, key: str | None = KEY, **more: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, in a process as a user would start it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(folder), "NETRC": str(folder / "no.netrc"), "WANDB_CACHE_DIR": str(folder / "cache")}
    environment |= {"WANDB_MODE": "offline"}  # which says nothing about an upload that was asked for
    environment |= {"WANDB_BASE_URL": server.address} if server else {}
    environment |= ({"WANDB_API_KEY": key} if key else {}) | more
    done = Command(["sync", str(folder)], Path.cwd(), environment, starts="all")
    out, err = done.communicate()
    assert done.returncode is not None
    return done.returncode, out, err


@pytest.mark.slow
def test_what_has_ended_is_uploaded_once(tmp_path: Path, server: WandbServer) -> None:
    done, running = tmp_path / "done", tmp_path / "running"
    for folder in (done, running):
        folder.mkdir()
        attempt(folder, [2.0, 1.0])
    write_record(done, record())
    status, said, _ = ablab_sync(tmp_path, server)
    lines = [f"uploaded       {done} ({run_id(done)})", f"still running  {running} ({run_id(running)})"]
    assert (status, said.splitlines()) == (0, [*lines, "1 uploaded, 1 still running"])
    uploaded = server.runs.pop(run_id(done))
    assert server.runs == {}
    assert (uploaded["project"], uploaded["groupName"], uploaded["jobType"]) == ("p", "g", "train")
    assert uploaded["tags"] == ["t"]
    assert [row["loss"] for row in server.history[run_id(done)].values()] == [2.0, 1.0]

    write_record(running, record(status="failed", reason="boom"))
    status, said, _ = ablab_sync(tmp_path, server)
    lines = [f"already there  {done} ({run_id(done)})", f"uploaded       {running} ({run_id(running)})"]
    assert (status, said.splitlines()) == (0, [*lines, "1 uploaded, 1 already there"])
    assert list(server.runs) == [run_id(running)]


@pytest.mark.slow
def test_the_attempts_at_a_run_become_one_run(tmp_path: Path, server: WandbServer) -> None:
    attempt(tmp_path, [3.0, 2.0], exit_code=1)
    attempt(tmp_path, [1.5, 1.0], first=1)
    write_record(tmp_path, record())
    assert ablab_sync(tmp_path, server)[0] == 0
    assert list(server.runs) == [run_id(tmp_path)]
    rows = [row for _, row in sorted(server.history[run_id(tmp_path)].items())]
    assert [(row["trainer/global_step"], row["loss"]) for row in rows] == [(0, 3.0), (1, 2.0), (1, 1.5), (2, 1.0)]
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))  # W&B keeps no row that goes back
    assert server.exit_codes[run_id(tmp_path)] == [1, 0]


@pytest.mark.slow
def test_a_refused_upload_is_a_failure_with_its_reason(tmp_path: Path, server: WandbServer) -> None:
    attempt(tmp_path, [1.0])
    write_record(tmp_path, record())
    server.refuse = True
    status, said, _ = ablab_sync(tmp_path, server)
    first, last = said.splitlines()
    assert status == 1
    assert first.startswith(f"failed         {tmp_path} ({run_id(tmp_path)}): ")
    assert "permission denied" in first
    assert last == "1 failed"


@pytest.mark.slow
def test_without_a_network_the_first_run_speaks_for_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        attempt(tmp_path / name, [1.0])
        write_record(tmp_path / name, record())
    nowhere: Any = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_X_GRAPHQL_RETRY_MAX": "1"}
    status, said, complaint = ablab_sync(tmp_path, **nowhere)
    assert (status, said) == (2, "")
    assert complaint.startswith("ablab: error: W&B cannot be reached, 0 uploaded; try again later (")
    assert complaint.count("\n") == 1


@pytest.mark.slow
def test_without_a_key_nothing_is_tried(tmp_path: Path, server: WandbServer) -> None:
    attempt(tmp_path, [1.0])
    assert ablab_sync(tmp_path, server, key=None)[:2] == (
        0,
        f"still running  {tmp_path} ({run_id(tmp_path)})\n1 still running\n",
    )
    write_record(tmp_path, record())
    status, said, complaint = ablab_sync(tmp_path, server, key=None)
    assert (status, said) == (2, "")
    assert (
        complaint == "ablab: error: nothing was uploaded: no API key: log in with `wandb login` or set WANDB_API_KEY\n"
    )
    assert server.runs == {}


@pytest.mark.parametrize(("folder", "says"), [("", "no offline runs of W&B here or below"), ("no", "no such folder")])
def test_nothing_to_upload(tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, says: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sync", str(tmp_path / folder)])
    assert caught.value.code == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1


def test_which_runs_have_ended(tmp_path: Path) -> None:
    for part in ("1_1-aaa", "1_2-bbb", "1_3-bbb"):
        (tmp_path / f"wandb/offline-run-{part}").mkdir(parents=True)
    (tmp_path / "wandb-run-id").write_text("bbb\n")
    before, now = find_offline_runs(tmp_path)
    assert [part.name[-7:] for part in now.parts] == ["1_2-bbb", "1_3-bbb"]
    assert before.ended  # another run has its folder
    assert not now.ended
    for name in (RECORD_FILE, SHOWN_FILE):
        (tmp_path / name).touch()
        assert now.ended
        (tmp_path / name).unlink()
    (now.parts[0] / "run-bbb.wandb.synced").touch()
    assert now.waiting == [now.parts[1]]


def test_another_run_in_the_folder_is_another_run_of_wandb(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("axes: {}\n")
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first
    clear(tmp_path)
    assert run_id(tmp_path) != first
