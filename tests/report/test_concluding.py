"""The end of a sweep, and the two commands."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from synthetic import ended, study, write_runs

from ablab.errors import UserError
from ablab.report.commands import compare_command, report_command
from ablab.report.conclude import ConcludeSweep

RECORDS = {"relu": [1.0, 1.1, 1.05, 1.02], "gelu": [1.2, 1.31, 1.24, 1.22]}


def conclude(folder: Path, **arguments: str) -> None:
    ConcludeSweep(**arguments).on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def test_a_sweep_ends_with_its_verdicts_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    conclude(write_runs(tmp_path, study(RECORDS)))
    printed = capsys.readouterr()
    assert "WORSE       gelu raises val_loss" in printed.out
    assert printed.out.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").exists()
    assert printed.err == ""


def test_a_sweep_with_a_failed_run_says_so_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_runs(tmp_path, [*study({**RECORDS, "bad": [float("nan")]}), ended("failed", "boom", 5)])
    with pytest.raises(SystemExit) as caught:
        conclude(tmp_path)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.err == "ablab: 2 of 10 runs did not end well; see the run health\n"
    assert "report: " in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "no runs here"), ({"baseline": "zzz=1"}, "zzz is not a factor")]
)
def test_a_mistake_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, str], message: str
):
    if arguments:
        write_runs(tmp_path, study(RECORDS))
    with pytest.raises(SystemExit) as caught:
        conclude(tmp_path, **arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ablab: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_commands_read_folders(tmp_path: Path):
    folder = write_runs(tmp_path / "runs", study(RECORDS))
    assert compare_command([folder], "activation=gelu", format="markdown").count("BETTER") == 2
    assert report_command([folder], tmp_path / "out.html") == tmp_path / "out.html"
    with pytest.raises(UserError, match="no such folder"):
        report_command([tmp_path / "nowhere"])
