"""One command for a GPU at hand: what it finds is kept however it ends, and it says on which GPU that was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import processes_in, wait_for

from ablab.bench.gpu import command, process, readings
from ablab.bench.gpu.command import DESCRIBE, Check, bench_gpu
from ablab.bench.gpu.results import JSON_FILE, LOG_FILE, MARKDOWN_FILE, Results, read
from ablab.bench.gpu.steps import Step
from ablab.errors import UserError

WRITES = "import json; open('result.json', 'w').write(json.dumps({'speed': 2.5})); print('said', flush=True); "


def step(name: str, code: str, limit_s: float = 60.0, missing: str = "") -> Step:
    return Step(
        name=name,
        what=f"what {name} is",
        limit_s=limit_s,
        words=[sys.executable, "-c", code],
        read=readings.any_numbers,
        missing=lambda machine: missing,
    )


def describing(device: str = "A GPU") -> list[str]:
    return [sys.executable, "-c", f"open('{DESCRIBE[-1]}', 'w').write('{{\"device\": \"{device}\"}}')"]


def check(folder: Path, *steps: Step, device: str = "A GPU", limit_s: float = 400.0) -> Check:
    return Check(steps=steps, folder=folder, describe=describing(device), limit_s=limit_s, say=lambda line: None)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "FAREWELL_S", 0.2)
    monkeypatch.setattr(process, "FAREWELL_S", 0.2)


def statuses(results: Results) -> dict[str, str]:
    return {each.name: each.status for each in results.steps}


def test_each_step_ends_as_it_does_and_no_other_suffers(tmp_path: Path) -> None:
    """One ends well, one fails, one stands still with half of its results, one kills itself, one cannot be done."""
    stubborn = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.pause()"
    results = check(
        tmp_path,
        step("good", WRITES),
        step("bad", WRITES + "raise SystemExit('it is broken')"),
        step("still", WRITES + stubborn, limit_s=1.5),
        step("killed", WRITES + "import os; os.kill(os.getpid(), 9)"),
        step("cuda", WRITES, missing="needs CUDA: there is none"),
        step("last", WRITES),
    ).run()
    found = [(each.name, each.status, bool(each.rows)) for each in results.steps]
    assert found == [
        ("good", "ok", True),
        ("bad", "failed", True),
        ("still", "timeout", True),
        ("killed", "failed", True),
        ("cuda", "skipped", False),
        ("last", "ok", True),
    ]
    assert read(tmp_path) == results
    assert results.steps[1].log[-1] == "it is broken"
    assert not results.steps[0].log
    assert (tmp_path / LOG_FILE).read_text().count("said") == 5
    text = (tmp_path / MARKDOWN_FILE).read_text()
    for words in ("A GPU", "| cuda | skipped: needs CUDA: there is none | – |", "## still (timeout: ended", "| 2.5 |"):
        assert words in text
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([JSON_FILE, LOG_FILE, MARKDOWN_FILE])


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_bench_gpu import WRITES, check, step
still = step("still", WRITES + "import signal; signal.pause()")
check(Path({folder!r}), step("good", WRITES), still, step("never", WRITES)).run()
"""


@pytest.mark.parametrize(
    ("which", "status"),
    [(signal.SIGKILL, "running"), (signal.SIGINT, "interrupted"), (signal.SIGTERM, "interrupted")],
)
def test_what_was_found_is_kept_when_it_is_cut_off_and_nothing_lives_on(
    tmp_path: Path, which: signal.Signals, status: str
) -> None:
    script = SCRIPT.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    paths = [str(Path(__file__).parents[2] / "study"), str(Path(__file__).parents[3] / "src")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    started = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)

    def half_done() -> bool:
        assert started.poll() is None, started.communicate()
        found = read(tmp_path)
        return found is not None and found.steps[1].status == "running" and bool(found.steps[1].rows)

    try:
        wait_for(half_done)
        started.send_signal(which)
        started.communicate(timeout=60)
        wait_for(lambda: not processes_in(tmp_path))
    finally:
        started.kill()
        started.wait()
    found = read(tmp_path)
    assert found is not None
    assert statuses(found) == {"good": "ok", "still": status, "never": "waiting"}
    assert [each.rows for each in found.steps[:2]] == [[{"speed": 2.5}]] * 2
    assert "A GPU" in (tmp_path / MARKDOWN_FILE).read_text()


def test_all_of_it_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LEAST_S", 1e6)
    results = check(tmp_path, step("good", WRITES), step("cuda", "", missing="needs CUDA")).run()
    assert statuses(results) == {"good": "waiting", "cuda": "skipped"}
    assert results.steps[0].reason == "not reached: 400 s were over"


def test_steps_that_are_not_run_again_stay_and_never_beside_those_of_another_gpu(tmp_path: Path) -> None:
    first = step("one", WRITES + "raise SystemExit(3)"), step("two", WRITES)
    before = check(tmp_path, *first).run()
    after = check(tmp_path, step("one", WRITES), step("two", "raise SystemExit(1)")).run(["one"])
    assert statuses(before) == {"one": "failed", "two": "ok"}
    assert statuses(after) == {"one": "ok", "two": "ok"}
    assert before.steps[1] == after.steps[1]
    kept = (tmp_path / JSON_FILE).read_text()
    with pytest.raises(UserError, match="has results of A GPU, and this is Another; give another folder by --out"):
        check(tmp_path, *first, device="Another").run(["one"])
    with pytest.raises(UserError, match="--steps three: there are one, two"):
        check(tmp_path, *first).run(["three"])
    assert (tmp_path / JSON_FILE).read_text() == kept
    (tmp_path / JSON_FILE).write_text(kept[: len(kept) // 2])
    with pytest.raises(UserError, match="cannot be read as results of ablab bench gpu"):
        check(tmp_path, *first).run(["one"])


def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DESCRIBE_S", 0.5)
    whole = check(tmp_path, step("good", WRITES))
    whole.describe = [sys.executable, "-c", "import signal; signal.pause()"]
    results = whole.run()
    assert results.machine.device == ""
    assert "could not be asked (no answer in 0.5 s" in results.machine.reason
    assert statuses(results) == {"good": "ok"}


@pytest.mark.parametrize("code", ["", "raise SystemExit(1)"])
def test_the_exit_status_is_that_of_the_worst_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    steps = [step("one", WRITES + code), step("cuda", "", missing="needs CUDA")]
    monkeypatch.setattr(command, "all_steps", lambda: steps)
    monkeypatch.setattr(Check, "describe", describing())
    said, status = bench_gpu(tmp_path / "new" / "folder", [], 400.0)
    assert status == bool(code)
    assert ("did not end well: one" in said) == bool(code)
    assert "skipped: cuda" in said
    with pytest.raises(UserError, match="--limit 1: must be at least"):
        bench_gpu(tmp_path, [], 1.0)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*file/x: cannot be made"):
        bench_gpu(tmp_path / "file" / "x", [], 400.0)


def test_json_has_no_numbers_that_are_none(tmp_path: Path) -> None:
    """NaN is not JSON: a step that writes one has no table, and the others have theirs."""
    nan = "open('result.json', 'w').write('{\"speed\": NaN}')"
    check(tmp_path, step("one", nan), step("two", WRITES)).run()
    found = json.loads((tmp_path / JSON_FILE).read_text(), parse_constant=lambda word: pytest.fail(word))
    assert [each["rows"] for each in found["steps"]] == [[], [{"speed": 2.5}]]
