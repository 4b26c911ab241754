"""One run by itself: kept if it is finished, refused where another run lies, nothing left if it cannot work."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict, read_write

from ablab.cli.application import interrupt
from ablab.cli.commands import run_command
from ablab.config import RunConfig, conf_folder, register_schema
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import CHECKPOINT_FOLDER, RECORD_FILE, read_record, write_record
from ablab.study import job
from ablab.study.job import run_bar, run_job
from ablab.training.run import execute

Job = Callable[..., Record]


@pytest.fixture
def ablab(corpus: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """ablab("seed=1"): what Hydra does around a run: the config composed, the folder made."""
    monkeypatch.chdir(tmp_path)
    register_schema()

    def make(*overrides: str) -> Record:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            asked = ["name=one", *tiny, f"task.path={corpus}", *overrides]
            config = compose("config", asked, return_hydra_config=True)
        with read_write(config), open_dict(config):
            config.hydra.runtime.output_dir = str(Path.cwd() / config.hydra.run.dir)
            HydraConfig.instance().set_config(config)
            Path(config.hydra.runtime.output_dir).mkdir(parents=True, exist_ok=True)
            del config["hydra"]
        return run_job(config)

    return make


FOLDER = Path("outputs/one")


def test_a_run_is_run_once_and_kept(ablab: Job, capsys: pytest.CaptureFixture[str]) -> None:
    record = ablab()
    assert record.status == "ok"
    assert read_record(FOLDER / RECORD_FILE) == record
    loss = f"val_loss {record.metrics['val_loss']:.4f} after 4 steps"
    assert capsys.readouterr().out.startswith(loss)
    content = (FOLDER / RECORD_FILE).read_bytes()

    assert ablab() == record
    first, second = capsys.readouterr().out.splitlines()
    assert first == "finished already: outputs/one"
    assert second.startswith(loss)
    assert second.endswith("; outputs/one")
    assert (FOLDER / RECORD_FILE).read_bytes() == content


def test_names_and_paths_may_have_any_sign(ablab: Job, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("data d#1@x%2, y=z")
    folder.mkdir()
    (folder / "t#1@%.txt").write_bytes(corpus.read_bytes())
    record = ablab("name='a b#1@%'", f"task.path='{folder}/t#1@%.txt'")
    assert (record.status, record.study) == ("ok", "a b#1@%")
    assert capsys.readouterr().out.endswith("; outputs/a b#1@%\n")
    assert read_record(Path("outputs/a b#1@%") / RECORD_FILE) == record


def test_another_run_in_its_folder_is_left_alone(ablab: Job) -> None:
    """And it is said what differs, and which words end the quarrel."""
    record = ablab()
    for words, differing in {
        ("seed=1",): "seed=1, not 0",
        ("trainer.max_steps=6",): "trainer.max_steps=6, not 4",
        (
            "task.batch_size=2",
            "trainer.precision=bf16-mixed",
        ): "task.batch_size=2, not 4; trainer.precision=bf16-mixed, ",
    }.items():
        with pytest.raises(
            UserError, match=r"^outputs/one: holds another run .*; choose another name=\.\.\., "
        ) as caught:
            ablab(*words)
        assert f"(this one has {differing}" in str(caught.value)
    assert read_record(FOLDER / RECORD_FILE) == record


def test_a_run_that_is_done_leaves_nothing_to_go_on_with(
    ablab: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does what was damaged of it since then go without a word."""
    ablab()
    with pytest.raises(UserError, match="that run has taken all of its 4 steps: nothing is left"):
        ablab("name=two", "continue_from=outputs/one")
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["one"]
    capsys.readouterr()
    (FOLDER / "metrics.csv").write_text("step\n")
    (FOLDER / "checkpoints" / "last.ckpt").write_bytes(b"half of it")
    ablab()
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("outputs/one: finished, and metrics.csv is damaged, checkpoints/last.ckpt is damaged")


def test_names_and_paths_may_have_any_characters(ablab: Job, corpus: Path, tmp_path: Path) -> None:
    """A run of such a name on such a file is trained, found again, compared, reported and gone on from."""
    odd = tmp_path / "da#ta @50% \u00fc" / "cor#pus, 1 %d {}.txt"
    odd.parent.mkdir()
    odd.write_bytes(corpus.read_bytes())
    words = ("name='we#ird @1 %s \u00fc'", f"task.path='{odd}'")
    record = ablab(*words)
    folder = Path("outputs/we#ird @1 %s \u00fc")
    assert record.status == "ok", record.reason
    assert read_record(folder / RECORD_FILE) == ablab(*words) == record
    for command in (["compare"], ["report"], ["generate", "--tokens", "1", "--prompt", "1"], ["keep", "k.jsonl.xz"]):
        assert run_command([command[0], str(folder), *command[1:]]) == 0
    assert (folder / "report.html").is_file()
    with pytest.raises(UserError, match="has taken all of its 4 steps"):
        ablab("name=other", words[1], f"continue_from='{folder}'")


def test_the_folders_of_a_run_that_cannot_work_are_removed(ablab: Job, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.n_heads=7"):
        ablab("model.n_heads=7", "name=a/b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_removed(ablab: Job, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"model\.n_heads=7"):
        ablab("model.n_heads=7")
    assert (tmp_path / FOLDER / "notes.txt").read_text() == "mine"


def test_a_run_that_failed_is_run_again(ablab: Job, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def failing(config: RunConfig, folder: Path, **how: Any) -> Record:
        record = execute(config, folder, **how)
        record.status, record.reason = "failed", "a bad day"
        write_record(folder, record)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(job, "execute", failing)
        assert ablab().status == "failed"
    assert capsys.readouterr().err == "failed: a bad day; outputs/one\n"
    assert ablab().status == "ok"


def test_a_run_that_a_scheduler_ends_saves_itself(ablab: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGTERM, whose handler outside of the run would end it in the middle of a step."""
    steps: list[int] = []

    def report(step: int, *_: object) -> None:
        steps.append(step)
        if step >= 2:
            signal.raise_signal(signal.SIGTERM)  # and again, if it goes on

    monkeypatch.setattr(job, "run_bar", lambda label: contextlib.nullcontext(report))
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        record = ablab("trainer.max_steps=1000000", "trainer.val_check_interval=1000000")
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
    assert record.status == "interrupted"
    saved = torch.load(FOLDER / CHECKPOINT_FOLDER / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= steps[-1] >= 2


@pytest.mark.parametrize(
    "override", ["design=one_factor", "jobs=2", "timeout=60", "retries=0", "on_failure=stop", "ladder.sizes=[16,32]"]
)
def test_what_is_for_sweeps_is_refused_in_one_run(ablab: Job, override: str) -> None:
    """It would change nothing, and say nothing."""
    with pytest.raises(UserError, match=rf"^{re.escape(override)}: is for sweeps, and this is one run; add -m$"):
        ablab(override)


@pytest.mark.slow
def test_a_run_of_several_processes_is_supervised(ablab: Job) -> None:
    record = ablab("strategy=ddp")
    assert (record.status, record.axes["strategy"]) == ("ok", "ddp")
    assert (FOLDER / "run.log").exists()


def test_it_shows_how_far_and_how_good(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "160")
    with run_bar("seed=[0]") as report:
        report(3, 10, "val_loss [bold]2.5")
    shown = capsys.readouterr().out
    assert "seed=[0]" in shown
    assert "val_loss [bold]2.5" in shown
    assert "3/10" in shown


def test_it_prints_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with run_bar("seed=0") as report:
        report(3, 10, "val_loss 2.5")
    assert capsys.readouterr().out == ""
