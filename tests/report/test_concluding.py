"""The end of a sweep, what is said before it, and the two commands."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from synthetic import ended, odd_runs, study, write_runs

from ablab.errors import UserError
from ablab.report.commands import compare_command, report_command
from ablab.report.conclude import ConcludeSweep, compare_so_far
from ablab.report.conclude import conclude as conclude_study
from ablab.report.conclude import conclude_study as conclude_with_status
from ablab.results.interim import INTERIM_FILE, count_interim_analysis, read_interim_analyses

pytestmark = pytest.mark.usefixtures("_plain_figures")

RECORDS = {"relu": [1.0, 1.1, 1.05, 1.02], "gelu": [1.2, 1.31, 1.24, 1.22]}


def conclude(folder: Path, **declared: str) -> None:
    config = {"hydra": {"sweep": {"dir": str(folder)}}, "comparison": declared}
    ConcludeSweep().on_multirun_end(OmegaConf.create(config))


def test_what_a_study_declared_in_the_callback_is_declared_elsewhere_now() -> None:
    with pytest.raises(UserError, match=r"^hydra\.callbacks\.conclude\.margin: is now comparison\.margin; write "):
        ConcludeSweep(margin=0.1)


def test_a_sweep_ends_with_its_verdicts_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conclude(write_runs(tmp_path, study(RECORDS)))
    printed = capsys.readouterr()
    assert "WORSE       gelu raises val_loss" in printed.out
    assert printed.out.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").exists()
    assert printed.err == ""


def test_a_sweep_with_a_failed_run_says_so_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path, [*study({**RECORDS, "bad": [float("nan")]}), ended("failed", "boom", 5)])
    with pytest.raises(SystemExit) as caught:
        conclude(tmp_path)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.err == "ablab: 2 of 10 runs did not end well; see the run health\n"
    assert "report: " in printed.out


def test_a_planned_run_without_a_record_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_runs(tmp_path, study(RECORDS))
    plan = {"schema": 2, "command": [], "working_folder": "/", "python_path": [], "comparison": {}}
    for runs, status, lines in ((["0", "1"], 0, ""), (["0", "a", "b"], 1, f"{folder / 'a'} and 1 more\n")):
        planned = [{"folder": each, "task": "text", "variant": each, "seed": 0} for each in runs]
        (folder / "plan.json").write_text(json.dumps(plan | {"runs": planned}))
        assert conclude_with_status(folder) == status
        assert capsys.readouterr().err == (f"ablab: no record of the planned run {lines}" if lines else "")


@pytest.mark.parametrize(("arguments", "message"), [({}, "no runs here"), ({"metric": "zzz"}, "zzz")])
def test_a_mistake_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, str], message: str
) -> None:
    if arguments:
        write_runs(tmp_path, study(RECORDS))
    with pytest.raises(SystemExit) as caught:
        conclude(tmp_path, **arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ablab: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_commands_read_folders(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs", study(RECORDS))
    assert compare_command([folder], baseline="activation=gelu", format="markdown").count("BETTER") == 2
    assert report_command([folder], output=tmp_path / "out.html") == tmp_path / "out.html"
    with pytest.raises(UserError, match="no such folder"):
        report_command([tmp_path / "nowhere"])


def first(seeds: int) -> dict[str, list[float]]:
    return {option: losses[:seeds] for option, losses in RECORDS.items()}


def test_seeds_that_are_added_are_a_second_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_runs(tmp_path, study(first(3)))
    assert conclude_study(folder) == ["ok"] * 6
    once = capsys.readouterr().out
    assert "INTERIM ANALYSES" not in once
    assert "95% CI" in once
    write_runs(folder, study(first(4)))
    conclude_study(folder)
    again = capsys.readouterr().out
    assert "INTERIM ANALYSES  analysed at 3, then 4 seeds, which was not planned: this time each comparison" in again
    assert "95% CI" not in again
    assert "analysed at 3, then 4 seeds" in (folder / "report.html").read_text(encoding="utf-8")
    assert "97.5% CI" in compare_command([folder])


def test_the_same_seeds_again_or_more_variants_on_them_are_no_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_runs(tmp_path, study(RECORDS))
    conclude_study(folder)
    text = capsys.readouterr().out
    conclude_study(folder)
    assert capsys.readouterr().out == text
    write_runs(folder, study({**RECORDS, "glu": [1.0, 1.0, 1.1, 1.2]}))
    conclude_study(folder)
    assert "INTERIM ANALYSES" not in capsys.readouterr().out
    assert [look.seeds for look in read_interim_analyses(folder)] == [(1, 2, 3, 4)]


def test_only_runs_that_came_to_an_end_of_their_own_were_seen(tmp_path: Path) -> None:
    records = study({"relu": [1.0, 1.1, 1.05], "gelu": [1.2, 1.31, 1.24], "bad": [1.0, 1.0, 1.0, float("nan")]})
    folder = write_runs(tmp_path, [*records, ended("failed", "boom", 5), ended("interrupted", "killed", 6)])
    assert conclude_study(folder)[-3:] == ["diverged", "failed", "interrupted"]
    assert [look.seeds for look in read_interim_analyses(folder)] == [(1, 2, 3, 4)]


def test_damaged_looks_stop_the_conclusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_runs(tmp_path, study(RECORDS))
    (folder / INTERIM_FILE).write_text("[")
    with pytest.raises(SystemExit) as caught:
        conclude(folder)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"ablab: error: {folder / INTERIM_FILE}: damaged")


def test_a_study_so_far_is_shown_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_runs(tmp_path, study(RECORDS))
    before = sorted(folder.rglob("*"))
    compare_so_far(folder)
    assert capsys.readouterr().out == compare_command([folder])
    compare_so_far(folder, baseline="activation=gelu")
    assert "BETTER      relu lowers val_loss" in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before


def test_a_study_so_far_is_as_strict_as_the_looks_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_runs(tmp_path, study(RECORDS))
    for seeds in ([1, 2], [1, 2, 3]):
        count_interim_analysis(folder, seeds)
    compare_so_far(folder)
    assert "97.5% CI" in capsys.readouterr().out
    assert len(read_interim_analyses(folder)) == 2


@pytest.mark.parametrize("case", ["nowhere", "no runs", "damaged record", "damaged looks", "baseline", "metric"])
def test_a_study_that_cannot_be_compared_yet_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    if case not in ("nowhere", "no runs"):
        write_runs(tmp_path, study(RECORDS))
    if case == "damaged record":
        (tmp_path / "0" / "record.json").write_text("{")
    if case == "damaged looks":
        (tmp_path / INTERIM_FILE).write_text("{")
    asked: Any = {case: "zzz=1"} if case in ("baseline", "metric") else {}
    compare_so_far(tmp_path / "nowhere" if case == "nowhere" else tmp_path, **asked)
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.parametrize("case", odd_runs())
def test_odd_runs_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    compare_so_far(write_runs(tmp_path, odd_runs()[case]))
    assert capsys.readouterr().out
