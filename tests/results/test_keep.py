"""Results kept in one file: all that readers use comes back, and no file does anything but be read."""

from __future__ import annotations

import dataclasses
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import odd_runs, record, study, write_runs

from ablab import load
from ablab.cli import main
from ablab.errors import UserError
from ablab.report.declared import declared_comparison
from ablab.results import kept
from ablab.results.collect import collect
from ablab.results.curves import CurveCache
from ablab.results.find import find_records, record_files, trial_files
from ablab.results.interim import INTERIM_FILE, count_interim_analysis
from ablab.results.keep import keep
from ablab.results.record import Record
from ablab.results.restore import restore
from ablab.results.store import METRICS_FILE, PLAN_FILE, RECORD_FILE, as_record, read_record, write_record

PLAN = {
    "schema": 1,
    "command": ["-m", "--config-dir", "/home/someone/lab/mine", "study=demo"],
    "working_folder": "/home/someone/lab",
    "python_path": ["/home/someone/lab"],
    "terms": {"baseline": None, "metric": None, "margin": 0.5, "last_k": 1},
    "runs": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = write_runs(tmp_path / "demo", study({"relu": [1.0, 1.1, 1.3], "gelu": [0.9, 1.05, 1.1]}))
    (found / PLAN_FILE).write_text(json.dumps(PLAN))
    count_interim_analysis(found, [1, 2])
    count_interim_analysis(found, [1, 2, 3])
    return found


@pytest.fixture
def file(folder: Path) -> Path:
    keep(folder, folder.with_name("demo.jsonl.xz"))
    return folder.with_name("demo.jsonl.xz")


def text_of(file: Path) -> str:
    return lzma.decompress(file.read_bytes()).decode()


def assert_equal(file: Path, folder: Path) -> None:
    """Every field of what `collect` makes of both, but for the places of the runs."""
    from_file, from_folder = collect([file]), collect([folder])
    assert [Path(path).relative_to(file) for path in from_file.paths] == [
        Path(path).relative_to(folder) for path in from_folder.paths
    ]
    pd.testing.assert_frame_equal(from_file.table.drop(columns="path"), from_folder.table.drop(columns="path"))
    assert list(map(repr, from_file.records)) == list(map(repr, from_folder.records))  # a NaN equals no other
    for name in ("factors", "primary", "interim_analyses", "places", "choices"):
        assert getattr(from_file, name) == getattr(from_folder, name)
    assert declared_comparison([file]) == declared_comparison([folder])
    curves = CurveCache()
    for ours, theirs in zip(from_file.paths, from_folder.paths, strict=True):
        for metric in ("train_loss", "val_loss", "nothing"):
            one, other = curves(ours, metric), curves(theirs, metric)
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert (one.step.tolist(), one.value.tolist()) == (other.step.tolist(), other.value.tolist())


def test_a_study_comes_back_as_it_was(file: Path, folder: Path) -> None:
    assert_equal(file, folder)
    assert len(collect([file]).interim_analyses) == 2
    assert declared_comparison([file])["margin"] == 0.5


@pytest.mark.parametrize("case", odd_runs())
def test_odd_runs_come_back_as_they_were(case: str, tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "odd", odd_runs()[case])
    keep(folder, tmp_path / "odd.jsonl.xz")
    assert_equal(tmp_path / "odd.jsonl.xz", folder)


def test_folders_of_several_studies_come_back_as_they_were(folder: Path, tmp_path: Path) -> None:
    """At any depth, of runs without curves or with half of them, and of one that is no part of a plan."""
    write_record(tmp_path / "deep" / "er" / "and" / "deeper" / "seed=1", record(1, axes={"activation": "silu"}))
    (tmp_path / "deep" / "er" / "and" / "deeper" / "seed=1" / METRICS_FILE).write_text("step,val_loss\n1,2.0\n2,1.")
    write_runs(folder / "tune", [record()])  # which is not compared
    keep(tmp_path, tmp_path / "all.jsonl.xz")
    assert_equal(tmp_path / "all.jsonl.xz", tmp_path)
    keep(folder / "0", tmp_path / "run.jsonl.xz")
    assert_equal(tmp_path / "run.jsonl.xz", folder / "0")
    assert len(collect([tmp_path / "run.jsonl.xz"]).interim_analyses) == 2  # those at its study, which lies above it


def test_how_often_another_study_beside_the_file_was_looked_at_does_not_count(folder: Path) -> None:
    (folder / INTERIM_FILE).unlink()
    keep(folder, folder / "demo.jsonl.xz")
    count_interim_analysis(folder, [1, 2, 3])
    assert collect([folder / "demo.jsonl.xz"]).interim_analyses == ()


def test_fields_of_a_later_version_are_kept(folder: Path, tmp_path: Path) -> None:
    path = folder / "0" / RECORD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"karma": {"deep": [1]}}))
    keep(folder, tmp_path / "demo.jsonl.xz")
    assert '"karma":{"deep":[1]}' in text_of(tmp_path / "demo.jsonl.xz")


def test_the_same_results_make_the_same_file(file: Path, folder: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    shutil.copytree(folder, tmp_path / "elsewhere" / "demo")
    keep(tmp_path / "elsewhere" / "demo", tmp_path / "elsewhere" / "other.jsonl.xz")
    keep(folder, file)  # in the place of the earlier one
    assert file.read_bytes() == (tmp_path / "elsewhere" / "other.jsonl.xz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "demo.jsonl.xz", "elsewhere"]


def test_no_folder_of_the_machine_is_in_the_file(file: Path, tmp_path: Path) -> None:
    text = text_of(file)
    assert "/home/someone" not in text
    assert str(tmp_path) not in text
    assert json.loads(text.splitlines()[0])["plan"]["command"] == ["-m", "--config-dir", "mine", "study=demo"]


def test_a_file_is_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counting(data: Any, source: Path) -> Record:
        read.append(source)
        return as_record(data, source)

    monkeypatch.setattr(kept, "as_record", counting)
    loaded = load(file)
    loaded.plot.curves()
    assert len(read) == len(set(read)) == 6
    assert loaded.verdicts == load(file).verdicts
    assert len(read) == 6


def test_a_file_that_has_changed_is_read_again(file: Path, folder: Path) -> None:
    assert len(collect([file]).records) == 6
    shutil.rmtree(folder / "5")
    keep(folder, file)
    assert len(collect([file]).records) == 5


def test_a_file_named_twice_is_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl.xz").symlink_to(file)
    assert len(list(find_records([file, tmp_path / "link.jsonl.xz", file]))) == 6


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_the_commands_read_it_as_the_folder(
    file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["--format", "json"], ["--metric", "val_accuracy"], ["seed=1,2"], ["activation=gelu"]):
        status, ours, _ = run(capsys, "compare", file, *words)
        assert (status, ours.replace(str(file), str(folder))) == run(capsys, "compare", folder, *words)[:2]
    assert run(capsys, "report", file)[:2] == (0, f"{tmp_path / 'demo.html'}\n")
    run(capsys, "report", folder)
    page = (tmp_path / "demo.html").read_text()
    assert page.replace(str(file), str(folder)) == (folder / "report.html").read_text()
    assert "Learning curves" in page


def test_files_and_folders_go_together(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = write_runs(tmp_path / "more", study({"relu": [1.0, 1.1, 1.3], "silu": [0.5, 0.6, 0.7]}))
    shutil.rmtree(more / "0")  # the baseline's seed 1 is in the file
    for index in (1, 2):
        shutil.rmtree(more / str(index))
    loaded = load(file, more, baseline="activation=relu")
    assert set(loaded.effects()["variant"]) == {"activation=relu", "activation=gelu", "activation=silu"}
    assert len(loaded.runs) == 9
    status, out, _ = run(capsys, "compare", file, more, "activation=silu", "--baseline", "activation=relu")
    assert status == 0
    assert "silu" in out


def test_it_is_written_on_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "keep", folder, tmp_path / "new" / "kept.jsonl.xz")
    assert status == 0
    assert out.startswith(f"{tmp_path / 'new' / 'kept.jsonl.xz'}: 6 runs, 6 with learning curves, ")
    assert len(load(tmp_path / "new" / "kept.jsonl.xz").runs) == 6


@pytest.mark.parametrize("command", ["resume", "sync", "dashboard", "keep"])
def test_what_needs_the_folder_says_what_the_file_is(
    command: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [file, *([file.with_name("again.jsonl.xz")] if command == "keep" else [])]
    status, out, err = run(capsys, command, *words)
    assert (status, out) == (2, "")
    assert err == (
        f"ablab: error: {file}: kept results, for compare, report and load(); "
        "this needs the folder that they were made from\n"
    )


def assert_refused(path: Path, said: str) -> None:
    """In one line, and nothing is written anywhere near."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}")
    assert said in line
    assert len(line.splitlines()) == 1
    assert sorted(path.parent.rglob("*")) == before


def rewritten(file: Path, change: Any) -> Path:
    """The file with its lines, as data, changed in place."""
    lines = [json.loads(line) for line in text_of(file).splitlines()]
    change(lines)
    file.write_bytes(lzma.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[1].update(folder="/etc/cron.d/run"), "a run outside the study: '/etc/cron.d/run'"),
        (lambda lines: lines[1].update(folder="a/../../../run"), "a run outside the study: 'a/../../../run'"),
        (lambda lines: lines[1].update(folder=".."), "a run outside the study"),
        (lambda lines: lines[1].update(folder="a\0b"), "a run outside the study"),
        (lambda lines: lines[1].update(folder=3), "3 is of another type"),
        (lambda lines: lines[1].update(curves=[1]), "[1] is of another type"),
        (lambda lines: lines[1].pop("curves"), "no curves"),
        (lambda lines: lines[1].pop("record"), "no record"),
        (lambda lines: lines[1].update(record=[]), "not a record"),
        (lambda lines: lines[1]["record"].update(seed="x"), "a damaged record: seed is 'x'"),
        (lambda lines: lines[1]["record"].update(schema=99), "upgrade ablab to read it"),
        (lambda lines: lines.insert(2, lines[1]), "two runs in '0'"),
        (lambda lines: lines.pop(), "5 of 6 runs"),
        (lambda lines: lines.append([]), "damaged kept results"),
        (lambda lines: lines[0].pop("plan"), "no plan"),
        (lambda lines: lines[0].update(plan=[]), "[] is of another type"),
        (lambda lines: lines[0].update(plan={"schema": 7}), "the plan cannot be read (of another version of ablab)"),
        (lambda lines: lines[0]["plan"]["terms"].update(margin="x"), "the plan cannot be read (margin is 'x')"),
        (lambda lines: lines[0]["plan"].update(terms=[1]), "the plan cannot be read"),
        (lambda lines: lines[0]["plan"].pop("command"), "the plan cannot be read"),
        (lambda lines: lines[0].update(interim_analyses=3), "3 is of another type"),
        (lambda lines: lines[0].update(interim_analyses=[{"seeds": "x"}]), "damaged"),
        (lambda lines: lines[0].update(kept=3), "kept by a later version of ablab: upgrade ablab to read it"),
        (lambda lines: lines[0].update(kept="1"), "damaged kept results"),
        (lambda lines: lines[0].update(kept=-1), "damaged kept results (kept: -1)"),
        (lambda lines: lines[0].update(kept=0), "damaged kept results (kept: 0)"),
        (lambda lines: lines[0].update(kept=2, trials=1), "0 of 1 trials"),
        (lambda lines: lines[1].update(trial=True), "5 of 6 runs"),
        (lambda lines: lines[0].update(runs=-1), "damaged kept results (6 of -1 runs)"),
        (lambda lines: lines.insert(0, {"hello": 1}), "neither a folder of runs nor a file of kept results"),
    ],
)
def test_a_file_that_does_not_hold_what_it_should_is_refused(change: Any, said: str, file: Path) -> None:
    assert_refused(rewritten(file, change), said)


def test_a_file_that_was_cut_short_or_changed_on_its_way_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for size in (*range(0, 40, 4), *range(40, len(data), 101), len(data) - 1):
        file.write_bytes(data[:size])
        assert_refused(file, "kept results")
    for place in range(13, len(data) - 20, 53):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        assert_refused(file, "kept results")


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04\x95pickle", lzma.compress(b""), lzma.compress(b'{"kept":')])
def test_any_other_file_is_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert_refused(file, "kept results")


@pytest.mark.parametrize("limit", ["_LONGEST_LINE", "_LONGEST_FILE"])
def test_a_file_that_would_fill_the_memory_is_refused(limit: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, limit, 2**20)
    rewritten(file, lambda lines: lines[1].update(curves="0" * 2**21))
    assert file.stat().st_size < 2**14
    assert_refused(file, "larger than any study, when it is unpacked")


def test_what_is_not_ours_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    for name in ("notes.jsonl.xz", "link.jsonl.xz", "folder.jsonl.xz"):
        path = tmp_path / name
        if name.startswith("notes"):
            path.write_bytes(lzma.compress(b"notes"))
        elif name.startswith("link"):
            path.symlink_to(tmp_path / "nowhere")
        else:
            path.mkdir()
        with pytest.raises(UserError, match="is there already, and holds no kept results; choose another name"):
            keep(folder, path)
    assert lzma.decompress((tmp_path / "notes.jsonl.xz").read_bytes()) == b"notes"
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UserError, match=r"kept\.zip: the name of a file of kept results ends in \.jsonl\.xz"):
        keep(folder, tmp_path / "kept.zip")


def test_a_link_is_written_through(file: Path, folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl.xz"
    link.symlink_to(file)
    before = file.stat().st_ino
    keep(folder, link)
    assert link.is_symlink()
    assert file.stat().st_ino != before


def test_a_write_that_fails_leaves_the_earlier_file(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, beside = file.read_bytes(), sorted(file.parent.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        keep(folder, file)
    assert file.read_bytes() == before
    assert sorted(file.parent.iterdir()) == beside


@pytest.mark.parametrize("limit", ["_LONGEST_LINE", "_LONGEST_FILE"])
def test_what_could_not_be_read_again_is_not_written(
    limit: str, file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    largest = max(
        map(len, text_of(file).splitlines(keepends=True)) if limit == "_LONGEST_LINE" else [len(text_of(file))]
    )
    monkeypatch.setattr(kept, limit, largest)
    keep(folder, file)
    monkeypatch.setattr(kept, limit, largest - 1)
    with pytest.raises(
        UserError, match="too large for one file of kept results: keep parts of the study by themselves"
    ):
        keep(folder, file)
    assert file.read_bytes() == before
    assert not list(file.parent.glob(".*"))


def test_folders_that_cannot_be_kept(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.jsonl.xz"
    (tmp_path / "empty").mkdir()
    for place, said in [("nowhere", "no such folder"), ("empty", "no runs here"), ("x" * 300, "no such folder")]:
        with pytest.raises(UserError, match=said):
            keep(tmp_path / place, target)
    (folder / PLAN_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"plan\.json: damaged"):
        keep(folder, target)
    (folder / "0" / RECORD_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"record\.json: not an ablab record"):
        keep(folder, target)
    assert not target.exists()


def test_a_folder_of_kept_files_says_to_name_them(file: Path, folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"holds no runs, but files of kept results \(demo\.jsonl\.xz\): name those"):
        load(tmp_path)


def test_a_file_of_nothing_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terabytes of zeros take no room on a disk, and hours to be unpacked."""
    path = tmp_path / "huge.jsonl.xz"
    path.write_bytes(b"\0" * 100)
    monkeypatch.setattr(lzma, "open", None)
    with pytest.raises(UserError, match="neither a folder of runs nor a file of kept results"):
        kept.read_kept(path)


@pytest.fixture
def tuned(folder: Path) -> Path:
    """The study with two runs that chose its rate."""
    write_runs(folder / "tune" / "relu", [record(1000, 1.5), record(1001, 1.6)])
    return folder


def test_trials_are_kept_where_that_is_asked_for_and_are_no_runs(tuned: Path, file: Path) -> None:
    without = file.read_bytes()
    assert keep(tuned, file).startswith(f"{file}: 6 runs, ")
    assert file.read_bytes() == without
    assert '{"kept":1,' in text_of(file)
    assert keep(tuned, file, trials=True).startswith(f"{file}: 6 runs and 2 trials, ")
    assert '{"kept":2,' in text_of(file)  # what reads files without trials would take them for runs
    assert_equal(file, tuned)


def test_a_restored_study_is_the_one_that_was_kept(tuned: Path, file: Path, tmp_path: Path) -> None:
    keep(tuned, file, trials=True)
    assert restore(file, tmp_path / "again") == f"{tmp_path / 'again'}: 6 runs and 2 trials"
    assert_equal(file, tmp_path / "again")
    keep(tmp_path / "again", tmp_path / "again.jsonl.xz", trials=True)
    assert (tmp_path / "again.jsonl.xz").read_bytes() == file.read_bytes()


def test_a_folder_is_not_restored(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; this takes a file of kept results"):
        restore(folder, tmp_path / "again")


def test_a_study_that_was_stopped_while_it_tuned_has_trials_alone(tuned: Path, file: Path, tmp_path: Path) -> None:
    for path in record_files(tuned):
        shutil.rmtree(path.parent)
    with pytest.raises(UserError, match="no runs here"):
        keep(tuned, file)
    assert keep(tuned, file, trials=True).startswith(f"{file}: 0 runs and 2 trials, ")
    with pytest.raises(UserError, match="holds trials alone, and no runs yet: go on with it by `ablab restore`"):
        list(find_records([file]))
    assert restore(file, tmp_path / "again") == f"{tmp_path / 'again'}: 0 runs and 2 trials"
    kept, again = ([read_record(path) for path in trial_files(each)] for each in (tuned, tmp_path / "again"))
    assert kept == again


def test_trials_of_each_study_below_a_folder_are_kept(tuned: Path, file: Path) -> None:
    shutil.copytree(tuned, tuned / "other")
    assert keep(tuned, file, trials=True).startswith(f"{file}: 12 runs and 4 trials, ")


def test_a_single_run_is_restored(folder: Path, file: Path, tmp_path: Path) -> None:
    run = next(path.parent for path in sorted(folder.rglob(RECORD_FILE)))
    keep(run, file)
    assert restore(file, tmp_path / "again").endswith("again: 1 runs")
    assert (tmp_path / "again" / RECORD_FILE).is_file()


def test_nothing_is_restored_over_what_is_there(file: Path, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="is there already"):
        restore(file, folder)
    assert sorted(folder.rglob("*")) == before


def test_the_working_folder_is_not_replaced(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that stands there would see nothing of what was written."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for named in (Path(), tmp_path / "here"):
        with pytest.raises(UserError, match=rf"^{named}: cannot be written \(the working folder cannot be replaced: "):
            restore(file, named)
    restore(file, Path("there"))
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["there"]


def test_a_run_without_a_config_is_not_restored(folder: Path, file: Path, tmp_path: Path) -> None:
    write_record(folder / "bare", dataclasses.replace(record(9), config={}))
    keep(folder, file)
    with pytest.raises(UserError, match="its run bare has no config"):
        restore(file, tmp_path / "again")
    assert not [*tmp_path.glob("*again*")]
