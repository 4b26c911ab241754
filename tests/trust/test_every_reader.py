"""A study's folder that is hostile or damaged, for each command that reads one and trains nothing.

It ends in a table with a reason or in one line, runs nothing, shows nothing unescaped, and neither reads nor writes
outside of the folder.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import plain_figures
from strangers import Ended
from synthetic import evaluation, study, write_runs

from ablab.report.dashboard import service
from ablab.results.store import EVALUATION_FOLDER, METRICS_FILE, RECORD_FILE

Ablab = Callable[..., Ended]
SCRIPT = "<script>alert(1)</script>"
MINE = "a secret of mine"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LONGEST = 700  # characters of a line that refuses
COMMANDS = (
    *("compare", "report", "keep", "dashboard", "sync", "resume", "generate", "consolidate", "evaluate", "export"),
)


class Folder:
    """A study of two variants, seen by TensorBoard, beside a folder that is not its own."""

    def __init__(self, place: Path) -> None:
        self.study = write_runs(place / "study", study({"relu": [1.0, 1.1, 1.3], "gelu": [0.9, 1.05, 1.2]}))
        self.outside = place / "outside"
        self.outside.mkdir()
        (self.outside / "mine.txt").write_text(MINE)
        for run in self.runs:
            (run / METRICS_FILE).write_text("step,train_loss,val_loss\n1,2.0,2.0\n2,1.5,1.6\n")
            (run / "events.out.tfevents.1.host").write_bytes(b"")

    @property
    def runs(self) -> list[Path]:
        return sorted(path.parent for path in self.study.rglob(RECORD_FILE))

    def edit(self, run: int = 0, **changes: Any) -> None:
        """Put other values into a record, dotted by two underscores: metrics__val_loss."""
        path = self.runs[run] / RECORD_FILE
        data = json.loads(path.read_text())
        for key, value in changes.items():
            *above, last = key.split("__")
            node = data
            for name in above:
                node = node[name]
            node[last] = value
        path.write_text(json.dumps(data))

    def evaluate(self, content: bytes | None = None, **changes: Any) -> None:
        """Leave an evaluation elsewhere beside a record: some bytes, or one that is whole but for what is changed."""
        folder = self.runs[0] / EVALUATION_FOLDER
        folder.mkdir()
        fingerprint = json.loads((self.runs[0] / RECORD_FILE).read_text())["fingerprint"]
        whole = evaluation("task.seq_len=64", fingerprint).to_dict() | changes
        (folder / "a.json").write_bytes(json.dumps(whole).encode() if content is None else content)

    def link(self, name: str, target: str = "") -> None:
        """Have a link that leads out of the study in the place of something in it."""
        path = self.study / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(self.outside / target)


def _record(text: bytes) -> Callable[[Folder], None]:
    return lambda folder: (folder.runs[0] / RECORD_FILE).write_bytes(text)  # type: ignore[return-value]


def _edited(**changes: Any) -> Callable[[Folder], None]:
    return lambda folder: folder.edit(**changes)


def _file(name: str, content: bytes) -> Callable[[Folder], None]:
    return lambda folder: (folder.study / name).write_bytes(content)  # type: ignore[return-value]


def _linked(name: str, target: str = "") -> Callable[[Folder], None]:
    return lambda folder: folder.link(name, target)


def _folder_at(name: str) -> Callable[[Folder], None]:
    def spoil(folder: Folder) -> None:
        (folder.study / name).unlink(missing_ok=True)
        (folder.study / name).mkdir()

    return spoil


def _view_elsewhere(folder: Folder) -> None:
    """A link to a folder with files that have the names of those of an earlier view, which are replaced."""
    (folder.outside / "views").mkdir()
    (folder.outside / "views" / "events.out.tfevents.1.host.view").write_text(MINE)
    folder.link("dashboard", "views")


def _part_of_view_elsewhere(folder: Folder) -> None:
    _view_elsewhere(folder)
    (folder.study / "dashboard").unlink()
    (folder.study / "dashboard").mkdir()
    folder.link("dashboard/activation=relu", "views")


KINDS: dict[str, Callable[[Folder], None]] = {
    "binary": _record(bytes(range(256)) * 50),
    "empty": _record(b""),
    "a list": _record(b"[1, 2]"),
    "null": _record(b"null"),
    "nested without end": _record(b"[" * 100_000),
    "not a number": _record(b'{"schema": NaN}'),
    "a long number": _edited(seed=10**400),
    "a large seed": _edited(seed=2**63),
    "a large index": _edited(index=2**62),
    "large numbers": _edited(metrics__val_loss=1e308, cost__parameters=2**62, cost__train_time_s=1e308),
    "small numbers": _edited(metrics__val_loss=5e-324, cost__train_time_s=5e-324, cost__tokens_per_second=-1e308),
    "no numbers": _edited(metrics__val_loss=None, cost__train_time_s=None, mechanism={"activation/zero_share": None}),
    "text for a number": _edited(metrics__val_loss="1.0"),
    "many evaluations": _edited(last={"val_loss": [1.0] * 100_000}),
    "a script in every name": _edited(
        study=SCRIPT, variant=SCRIPT, axes__activation=SCRIPT, axes__task=SCRIPT, config__question=SCRIPT
    ),
    "a script in a metric": _edited(metrics={"val_loss": 1.0, SCRIPT: 2.0}, mechanism={f"{SCRIPT}/a": 1.0}),
    "a script in a reason": _edited(status="failed", reason=f"{SCRIPT}\x1b]0;x\x07", traceback=SCRIPT, notes=[SCRIPT]),
    "a script in a unit": _edited(machine={SCRIPT: SCRIPT}, versions={SCRIPT: SCRIPT}, git={"commit": SCRIPT}),
    "ten megabytes of reason": _edited(status="failed", reason="x" * 10**7),
    "a megabyte of name": _edited(variant="x" * 10**6, axes__activation="y" * 10**5),
    "a name that is a path": _edited(study="../../outside", axes__activation="../outside/mine.txt"),
    "pictures elsewhere": _edited(pictures=["../../outside/mine.txt", "/etc/hostname"]),
    "no time": _edited(started_at="yesterday", finished_at="\x1b[31m"),
    "curves of bytes": _file(f"0/{METRICS_FILE}", bytes(range(256)) * 100),
    "curves of long numbers": _file(f"0/{METRICS_FILE}", b"step,val_loss\n" + b"9" * 30 + b",1.0\n1,2\n"),
    "curves without end": _file(f"0/{METRICS_FILE}", b"step,val_loss\n1," + b"9" * 10**6),
    "a plan of bytes": _file("plan.json", bytes(range(256))),
    "a plan of nothing": _file("plan.json", b'{"schema": 2, "runs": {}}'),
    "looks of bytes": _file("looks.json", bytes(range(256))),
    "looks of large numbers": _file("looks.json", b'[{"seeds": [1e999], "at": "x"}]'),
    "a folder for a record": _folder_at(f"0/{RECORD_FILE}"),
    "a folder for curves": _folder_at(f"0/{METRICS_FILE}"),
    "a folder for a plan": _folder_at("plan.json"),
    "a folder for looks": _folder_at("looks.json"),
    "a file for a view": _file("dashboard", b"mine"),
    "a record that leads out": _linked(f"0/{RECORD_FILE}", "mine.txt"),
    "curves that lead out": _linked(f"0/{METRICS_FILE}", "mine.txt"),
    "a report that leads out": _linked("report.html", "mine.txt"),
    "looks that lead out": _linked("looks.json", "mine.txt"),
    "a plan that leads out": _linked("plan.json", "mine.txt"),
    "a view that leads out": _view_elsewhere,
    "a part of a view that leads out": _part_of_view_elsewhere,
    "an evaluation of bytes": lambda folder: folder.evaluate(bytes(range(256))),
    "an evaluation of nothing": lambda folder: folder.evaluate(b'{"schema": 1, "name": "a"}'),
    "an evaluation of another run": lambda folder: folder.evaluate(fingerprint="x"),
    "an evaluation with a script": lambda folder: folder.evaluate(name=f"task={SCRIPT}", metrics={SCRIPT: 1.0}),
    "an evaluation with a name that is none": lambda folder: folder.evaluate(name="b=1,a=1\x1b]0;x\x07"),
    "an evaluation with a long name": lambda folder: folder.evaluate(name="a=" + "x" * 10**6),
    "an evaluation of large numbers": lambda folder: folder.evaluate(metrics={"val_loss": 1e308}, time_s=1e308),
    "evaluations elsewhere": _linked("0/evaluations", "mine.txt"),
    "a circle": lambda folder: (folder.study / "again").symlink_to(folder.study),
}


# What a report and the view of TensorBoard, which take a second each, could show, or be written through.
DRAWN = {
    "report": re.compile(
        "script in (every|a metric|a reason)|with a script|large num|long num|curves th|report that|pictures|of reason"
    ),
    "dashboard": re.compile("script in every|large num|view|no time"),
}
FIGURES = re.compile("script in (every|a metric)|with a script|large num|long num|curves th")  # could show these


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is started when the view has been written, and ended at once."""

    def launch(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(service, "_launch", launch)


def words(command: str, folder: Folder, place: Path) -> list[str]:
    if command == "keep":
        return [command, str(folder.study), str(place / "kept.jsonl.xz")]
    if command in ("generate", "consolidate", "evaluate", "export"):
        return [command, str(folder.study / "0"), *(["--format", "safetensors"] if command == "export" else [])]
    return [command, str(folder.study), *(["--port", "0"] if command == "dashboard" else [])]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(folder: Path) -> bytes:
    return b"".join(lzma.decompress(path.read_bytes()) for path in folder.glob("kept.jsonl.xz"))


def report(folder: Folder) -> bytes:
    path = folder.study / "report.html"
    return path.read_bytes() if path.is_file() and not path.is_symlink() else b""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_reads_it_as_data(folder: Folder, ablab: Ablab, tmp_path: Path, kind: str) -> None:
    KINDS[kind](folder)
    before = content(folder.outside)
    for command in COMMANDS:
        if command in DRAWN and not DRAWN[command].search(kind):
            continue
        with contextlib.nullcontext() if FIGURES.search(kind) else plain_figures():
            ended = ablab(*words(command, folder, tmp_path))
        assert ended.status in (0, 1, 2), (command, str(ended)[:2000])
        for said in (ended.out, ended.err):
            assert "Traceback" not in said, (command, said[-3000:])
            assert "unforeseen" not in said, (command, said[-3000:])
            assert "Warning" not in said, (command, said[-3000:])
            assert MINE not in said, command
            assert not CONTROL.search(said), (command, said[-3000:])
        assert all(len(line) < 5000 or kind == "a megabyte of name" for line in ended.out.splitlines()), command
        assert all(len(line) < LONGEST for line in ended.err.splitlines()), (command, ended.err[:2000])
        assert ended.status != 2 or len(ended.err.splitlines()) == 1, (command, ended.err[-3000:])
        assert content(folder.outside) == before, command
    assert SCRIPT.encode() not in report(folder)
    assert MINE.encode() not in report(folder) + kept(tmp_path)
