"""The flagship study: all of it can be planned, and its page says what the kept records say."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import sys
from pathlib import Path
from statistics import fmean
from types import ModuleType

import pytest
from verdicts_by_scipy import agrees, corrected, p_values

from ablab import load
from ablab.cli import main
from ablab.results.find import find_records
from ablab.results.store import write_record
from ablab.study.planning import preflight

FOLDER = Path(__file__).parents[2] / "experiments" / "five_claims"


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiments_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


run, summary = script(FOLDER.parent / "run.py"), script(FOLDER / "summary.py")
further = script(FOLDER / "further.py")
STUDIES = run.Studies.of(FOLDER)


PLANNED = [name for name in STUDIES.words if name not in ("activation_depth_2", "activation_depth_6")]  # but for depth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale"),
    [
        *((name, "cpu" if name in further.FURTHER else "quick") for name in PLANNED),  # quick ones are not tuned
        *(("attention_text", "gpu"), ("layers", "gpu")),
    ],
)
def test_the_studies_can_be_planned(
    name: str, scale: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "rehearse", lambda *run, **how: None)  # as where it cannot be told
    with pytest.raises(SystemExit) as ended:
        main(["plan", *STUDIES.command(name, scale), "seed=0", "hydra.sweeper.probe=false"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert " variants" in printed.out


def test_unknown_names_get_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(str(FOLDER), "cpu", "schedules") == 2
    assert capsys.readouterr().err.startswith("schedules: there are attention_text, ")
    assert run.main(str(FOLDER), "tpu") == 2
    assert capsys.readouterr().err == "tpu: there are cpu, gpu, quick\n"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("time left: about 28 min 14 s, 2 side by side; 966 MiB at most (from a few steps of each variant)", 1694),
        ("time left: about 3 h 20 min (from a few steps of each variant)", 12_000),
        ("time left: about 9.5 s, 2 side by side (from a few steps of each variant)", 9.5),
        ("time left: unknown, since a probe failed (from a few steps of each variant)", None),
        ("ablab: error: attention=ful: no such option; 3 s", None),
    ],
)
def test_the_time_left_is_read(told: str, expected: float | None) -> None:
    assert run.seconds(told) == expected


def test_finished_studies_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "outputs" / "five_claims" / "schedule"
    for index, (_, record) in enumerate(find_records([FOLDER / "results" / "schedule.jsonl.xz"])):
        write_record(study / str(index), record)
    folder = tmp_path / "five_claims"
    (folder / "scale").mkdir(parents=True)
    (folder / "scale" / "cpu.yaml").touch()
    shutil.copy(FOLDER / "studies.yaml", folder)
    monkeypatch.setattr(run, "left", lambda words: "time left: about 2.0 s")
    statuses = iter([1, 2])  # some run did not end well; the study is refused
    monkeypatch.setattr(run, "train", lambda words: next(statuses))
    assert run.main(str(folder), "cpu", "schedule", "layers") == 2
    assert [path.name for path in (folder / "results").iterdir()] == ["schedule.jsonl.xz"]
    kept = load(folder / "results" / "schedule.jsonl.xz")
    assert kept.verdicts == load(study).verdicts


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit(1)", 1),
        ("kill(getpid(), SIGTERM)", 130),
        ("kill(getpid(), SIGKILL)", 137),
        ("kill(getppid(), SIGTERM); pause()", 130),
    ],
    ids=["some run failed", "ended before it was ready", "out of memory", "run.py is ended"],
)
def test_how_a_study_ended(script: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = "from os import getpid, getppid, kill; from signal import SIGKILL, SIGTERM, pause; "
    monkeypatch.setattr(run, "ABLAB", [sys.executable, "-c", setting + script])
    before = signal.signal(signal.SIGTERM, run.end)
    try:
        assert run.train([]) == expected
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_killed_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "five_claims"
    (folder / "scale").mkdir(parents=True)
    (folder / "scale" / "cpu.yaml").touch()
    shutil.copy(FOLDER / "studies.yaml", folder)
    monkeypatch.setattr(run, "left", lambda words: "time left: about 2.0 s")
    statuses = iter([137, 130])
    monkeypatch.setattr(run, "train", lambda words: next(statuses))
    assert run.main(str(folder), "cpu", "schedule", "layers", "fusion") == 137
    assert "in all: 6.0 s\n" in capsys.readouterr().out
    assert not (folder / "results").exists()  # none is finished


def test_the_summary_is_that_of_the_records() -> None:
    found = list(summary.rows(FOLDER / "results"))
    assert summary.table(found) == (FOLDER / "results" / "summary.md").read_text().rstrip("\n")


def test_further_studies_have_a_table(tmp_path: Path) -> None:
    """Of any study in the place of one: each comparison with its verdict, which may be lost over all rows."""
    assert further.table(further.rows(tmp_path)) == ""
    stand_ins = {"activation_depth_2": "activation_tuned", "schedule": "schedule_tuned", "layers": "layers_overfit"}
    for study, name in stand_ins.items():
        shutil.copy(FOLDER / "results" / f"{study}.jsonl.xz", tmp_path / f"{name}.jsonl.xz")
    lines = further.table(further.rows(tmp_path)).splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)  # claim by claim
    on_code = next(row for row in rows if row[2:4] == ["`gradient_variance`", "code"])
    assert on_code[4:] == ["val_loss", "WORSE +0.130 (+0.121 to +0.140)", "WORSE", "95%", "5"]
    lost = [row[2] for row in rows if row[5].startswith("BETTER") and row[6] == "UNRESOLVED"]
    assert "`dynamic_sparse`" in lost
    page = (FOLDER / "README.md").read_text("utf-8")
    assert further.table(further.rows(FOLDER / "results")) in page
    lines = "\n".join(line.strip() for line in page.splitlines())
    for study, beside in further.BESIDE.items():
        assert beside(FOLDER / "results" / f"{study}.jsonl.xz") in lines


@pytest.mark.parametrize(
    ("study", "baseline", "seeds", "resolved"),
    [("activation_tuned", "relu", 10, 0), ("schedule_tuned", "cosine", 10, 1), ("layers_overfit", "mean", 10, 0)],
)
def test_verdicts_of_further_studies_are_those_of_the_kept_records(
    study: str, baseline: str, seeds: int, resolved: int
) -> None:
    found = load(FOLDER / "results" / f"{study}.jsonl.xz").comparisons
    items, raw = [*found.suite, *found.items], []
    records = [record for _, record in find_records([FOLDER / "results" / f"{study}.jsonl.xz"])]
    for item in items:
        values: dict[str, dict[int, float]] = {}
        for record in records:
            words = record.variant.split(",")
            if f"task={item.task}" in words or len({item.task for item in items}) == 1:
                name = next(word for word in words if not word.startswith("task=")).rpartition("=")[2]
                values.setdefault(name, {})[record.seed] = record.metrics[item.metric]
        differences = [values[item.label][seed] - values[baseline][seed] for seed in range(seeds)]
        assert item.differences == pytest.approx(differences)
        raw.append(p_values(differences, item.choice or 0.0, [seeds], item.margin))
    adjusted = corrected(raw, [1.0] * len(raw))
    assert [item.verdict.value in ("BETTER", "WORSE") for item in items].count(True) == resolved
    for item, each in zip(items, adjusted, strict=True):
        better = -1 if item.metric.endswith("_loss") else 1
        assert agrees(item.verdict.value, fmean(item.differences), each, better), (item.label, item.task, each)


def test_what_is_said_of_the_other_readings_is_counted() -> None:
    """Of the rows that decide something, how many do over all rows, and on the test split."""
    lines = (FOLDER / "results" / "summary.md").read_text().splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[7:10]] for line in lines]
    deciding = [row for row in rows if row[0] != "UNRESOLVED"]
    kept, on_test = (sum(row[0] == row[at].partition(" ")[0] for row in deciding) for at in (1, 2))
    assert (len(rows), len(deciding), len(deciding) - kept, on_test) == (40, 21, 7, 19)
    page = " ".join((FOLDER / "README.md").read_text().split())
    assert "Of its 21 rows that decide something, seven do not over all 40 rows" in page
    assert "On the test split 19 decide the same" in page


@pytest.mark.parametrize("page", [FOLDER / "README.md", FOLDER.parents[1] / "README.md"], ids=["study", "root"])
def test_each_interval_beside_a_verdict_is_one_of_the_records(page: Path) -> None:
    lines = [row.split("|") for row in (FOLDER / "results" / "summary.md").read_text().splitlines()]
    known = {(cells[1].strip()[0], cells[3].strip(), *cells[4].strip().split(" to ")) for cells in lines[2:]}
    for row in further.rows(FOLDER / "results"):
        assert row.item.effect is not None
        assert row.item.interval is not None
        figures = (row.item.effect, *row.item.interval)
        known.add((str(further.FURTHER[row.study]), *(f"{number:+.3f}" for number in figures)))
    table = [line for line in page.read_text().splitlines() if re.match(r"\| (\d\.|All together)", line)]
    assert len(table) == 7
    for line in table:
        quoted = re.findall(r"([+-]\d\.\d{3}) \(([+-]\d\.\d{3}) to ([+-]\d\.\d{3})\)", line)
        assert {(line[2].lower(), *figures) for figures in quoted} <= known, line
        assert len(re.findall(r"\d\.\d{3}", line)) == 3 * len(quoted) > 0, f"a figure without its interval: {line}"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("digits", "images of digits"),
        ("code,task.batch_size=4,task.seq_len=1024", "source code, 1024 tokens"),
        ("spoken,task.modality_dropout=0.3", "three modalities, 0.3 left out"),
    ],
)
def test_names_of_tasks(task: str, expected: str) -> None:
    assert summary.task_name(task) == expected
