"""The screen as a whole: what somebody in front of a terminal sees, and what is left when it is closed."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from emulator import Terminal
from rich.console import Console
from rich.table import Table
from scripted import Clock, Seen, ok, plan, unwell

from ablab.report.live.lines import PlainLines
from ablab.report.live.picture import share
from ablab.report.live.screen import Screen
from ablab.results.record import Record
from ablab.study.events import Block, Observer, RunOutline

Look = Callable[..., Seen]


@pytest.fixture
def look() -> Iterator[Look]:
    screens: list[Seen] = []

    def make(*arguments: Any, **settings: Any) -> Seen:
        screens.append(Seen(*arguments, **settings))
        return screens[-1]

    yield make
    for screen in screens:
        screen.close()


def happen(told: Observer, runs: list[RunOutline]) -> None:
    """A bit of everything."""
    told.planned(runs)
    told.kept(runs[0], ok(runs[0], 2.0))
    told.kept(runs[1], unwell(runs[1]))
    for run in runs[2:5]:
        told.started(run, 1)
    told.progressed(runs[2], 10, 100, "val_loss 2.5")
    told.waiting(runs[3], "the process was killed by SIGKILL", 2.0)
    told.ended(runs[2], ok(runs[2], 1.5), 12.5)
    told.started(runs[3], 2)
    told.stopping()
    told.ended(runs[3], unwell(runs[3], "interrupted", "stopped before it was finished" + " at some length" * 9), 3.0)
    told.ended(runs[4], unwell(runs[4], "diverged", "train_loss became nan"), 4.0)


def test_only_the_lines_stay_and_they_are_those_of_plain_output(look: Look) -> None:
    runs = plan(["attention=full", "model.sizes=[1,2]"], range(3))
    file = io.StringIO()
    plain = PlainLines(Console(file=file, highlight=False))
    screen = look(width=70)
    happen(plain, runs)
    happen(screen, runs)
    assert any("runs done" in line for line in screen.drawn())
    screen.close()
    left = screen.terminal.lines
    wide = Terminal(width=70)
    wide.write(file.getvalue())  # which breaks long lines as the screen's terminal has done
    assert [line for line in left if line] == [line for line in wide.lines if line]
    assert screen.terminal.cursor == wide.cursor
    assert screen.terminal.cursor_shown
    assert "\x1b[2J" not in screen.terminal.raw


def test_stdout_is_given_back() -> None:
    before = sys.stdout, sys.stderr
    screen = Seen()
    screen.planned(plan(["a=1"]))
    print("a warning of somebody's")
    screen.refresh()
    assert "a warning of somebody's" in screen.terminal.lines  # above, not across
    screen.close()
    assert (sys.stdout, sys.stderr) == before


def test_a_screen_can_be_closed_before_it_was_opened() -> None:
    screen = Seen()
    screen.close()
    assert screen.terminal.lines == [""]


def test_a_line_per_running_run(look: Look) -> None:
    screen = look(width=120)
    runs = plan(["attention=full", "model.sizes=[1,2]"], range(2), steps=1000)
    screen.planned(runs)
    screen.started(runs[0], 1)
    screen.started(runs[2], 3)
    for step in range(1, 42):
        screen.clock.now += 0.25
        screen.progressed(runs[2], 5 * step, 1000, "val_loss [b]2.5")
    header, full, sizes = [line.split() for line in screen.drawn()[4:7]]
    assert header == ["running", "seed", "step", "steps/s", "left"]
    # no steps yet: 1000 at the speed of the other one, of which 10.25 s have passed
    assert full == ["attention=full", "0", "━" * 16, "0/1000", "39.8", "s"]
    # 795 steps at 20 a second
    bar = "━━━╺" + "━" * 12  # a fifth
    figures = ["0", bar, "205/1000", "20", "39.8", "s", "val_loss", "[b]2.5"]
    assert sizes == ["model.sizes=[1,2]", "(attempt", "3)", *figures]


def test_the_study_in_a_line(look: Look) -> None:
    screen = look(width=120)
    runs = plan(["a=1"], range(5))
    screen.planned(runs)
    screen.kept(runs[0], unwell(runs[0]))
    screen.started(runs[1], 1)
    screen.clock.now += 20
    screen.ended(runs[1], ok(runs[1]), 20.0)
    screen.started(runs[2], 1)
    screen.clock.now += 5
    last = next(line for line in screen.drawn() if "done" in line)
    assert last.endswith("  2/5 runs done, about 55.0 s left, 1 failed, 25.0 s elapsed")
    screen.stopping()
    assert any(line.endswith("2/5 runs done, stopping, 1 failed, 25.0 s elapsed") for line in screen.drawn())


class Counting:
    """Compares, and remembers what it was called with."""

    def __init__(self, takes: float = 0.0) -> None:
        self.calls: list[int] = []
        self.takes = takes
        self.clock: Clock | None = None

    def __call__(self, records: list[Record]) -> Table:
        self.calls.append(len(records))
        if self.clock:
            self.clock.now += self.takes
        table = Table("effect", box=None)
        table.add_row(f"of {len(records)} runs")
        return table


def test_the_comparison_is_made_when_runs_have_ended(look: Look) -> None:
    compare = Counting()
    screen, runs = look(compare=compare), plan(["a=1"], range(4))
    screen.planned(runs)
    screen.drawn()
    screen.started(runs[0], 1)
    screen.progressed(runs[0], 1, 100, "")
    screen.drawn()
    assert compare.calls == []
    screen.kept(runs[1], ok(runs[1]))
    screen.kept(runs[2], ok(runs[2]))
    screen.drawn()
    assert any("of 2 runs" in line for line in screen.drawn())
    screen.ended(runs[0], unwell(runs[0]), 1.0)
    assert any("of 3 runs" in line for line in screen.drawn())
    assert compare.calls == [2, 3]


def test_a_slow_comparison_takes_a_tenth_of_the_time(look: Look) -> None:
    compare = Counting(takes=2.0)
    screen, runs = look(compare=compare), plan(["a=1"], range(30))
    compare.clock = screen.clock
    screen.planned(runs)
    for run in runs:
        screen.kept(run, ok(run))
        screen.drawn()
        screen.clock.now += 1.0
    assert compare.calls == [1, 2, 20]  # it took 2 s, and rested for 18, but for the first time
    screen.clock.now += 20.0
    screen.drawn()
    assert compare.calls == [1, 2, 20, 30]


class Unrenderable:
    def __rich_console__(self, *_: Any) -> Iterator[str]:
        raise RuntimeError("no figures today")
        yield ""


def raising(records: list[Record]) -> None:
    raise RuntimeError("no figures today")


@pytest.mark.parametrize("compare", [raising, lambda records: Unrenderable(), lambda records: None])
def test_a_comparison_that_fails_is_not_shown(look: Look, compare: Any) -> None:
    screen, runs = look(compare=compare), plan(["a=1"], range(2))
    screen.planned(runs)
    screen.ended(runs[0], ok(runs[0]), 1.0)
    assert screen.row("a=1") == ["1.000", "·"]
    assert not any("figures" in line for line in screen.drawn())


@pytest.mark.parametrize("height", [2, 3, 5, 8, 13, 21, 34])
@pytest.mark.parametrize("width", [20, 50, 90, 200])
def test_nothing_is_larger_than_the_terminal(look: Look, width: int, height: int) -> None:
    """A display that is cut off by the terminal cannot be taken back line by line: it would leave rubbish behind."""
    screen = look(width, height, compare=Counting())
    runs = plan([f"attention=o{i},model.sizes=[1,2]" for i in range(40)], range(5))
    screen.planned(runs)
    for run in runs[:30]:
        screen.started(run, 1)
        screen.progressed(run, 5, 100, "val_loss 2.5")
        screen.refresh()
    screen.kept(runs[50], ok(runs[50]))
    screen.refresh()
    screen.close()
    line = Terminal(width)
    line.write("[  1/200] kept        attention=o10,model.sizes=[1,2] seed=0  val_loss 1.0000")
    assert [line for line in screen.terminal.lines if line] == line.lines


def test_lines_are_shared_fairly() -> None:
    assert share(20, [5, 5, 5]) == [5, 5, 5]
    assert share(20, [201, 4, 201]) == [8, 4, 8]
    assert share(20, [201, 30, 0]) == [10, 10, 0]
    assert share(-1, [201, 30, 9]) == [0, 0, 0]


def test_a_thousand_runs(look: Look) -> None:
    """The thread of the study must hardly notice; the screen must keep up with four pictures a second."""
    screen = look(width=120, height=50)
    runs = plan([f"attention=o{i}" for i in range(200)], range(5), steps=1000)
    screen.planned(runs)
    began = time.perf_counter()
    for run in runs[:900]:
        screen.kept(run, ok(run, 2.0))
    for run in runs[900:916]:
        screen.started(run, 1)
    for step in range(1, 101):
        screen.clock.now += 0.25
        for run in runs[900:916]:
            screen.progressed(run, step, 1000, "val_loss 2.3")
    assert (time.perf_counter() - began) / 2500 < 1e-3
    screen.refresh()
    began = time.perf_counter()
    screen.refresh()
    assert time.perf_counter() - began < 1.0  # a few hundredths on an idle machine
    lines = screen.drawn()[-50:]
    assert screen.row("attention=o180") == ["10%"] * 5
    assert screen.row("attention=o183") == ["10%", *"····"]
    assert "173 more variants: 157 done, 16 waiting" in lines
    assert any("900/1000 runs done" in line for line in lines)


def test_the_thread_draws_by_itself_and_ends() -> None:
    terminal = Terminal()
    console = Console(file=terminal, force_terminal=True, width=100, height=40)  # type: ignore[arg-type]
    screen = Screen(console, per_second=100)
    runs = plan(["a=1"])
    screen.planned(runs)
    screen.ended(runs[0], ok(runs[0], 1.5), 1.0)
    deadline = time.monotonic() + 30
    while "1/2 runs done" not in terminal.raw and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "1/2 runs done" in terminal.raw
    screen.ended(runs[1], ok(runs[1], 1.5), 1.0)
    screen.close()
    assert not screen._thread.is_alive()
    assert [line.split("]")[0] for line in terminal.lines if line] == ["[1/2", "[2/2"]


def test_a_study_outlives_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout, sys.stderr
    screen, runs = Seen(), plan(["a=1"])
    screen.planned(runs)

    def write(text: str) -> int:
        raise OSError("the terminal has gone")

    monkeypatch.setattr(screen.terminal, "write", write)
    screen.ended(runs[0], ok(runs[0]), 1.0)
    screen.close()
    assert (sys.stdout, sys.stderr) == before


def test_a_study_in_blocks_shows_what_is_open_and_which_runs_it_does_without(look: Look) -> None:
    runs = plan(["full", "lsh", "topk"], range(4))
    screen = look(width=110)
    screen.planned(runs)
    block = Block(seeds=2, runs=frozenset({0, 1, 4, 5, 8, 9}), later=frozenset({2, 3, 6, 7, 10, 11}), planned=12)
    screen.block(block)
    assert any(line.startswith("6 runs to the look at 2 seeds; 12 at most") for line in screen.drawn())
    for index in sorted(block.runs):
        screen.started(runs[index], 1)
        screen.ended(runs[index], ok(runs[index], 2.0), 10.0)
    screen.block(
        Block(
            seeds=4,
            runs=frozenset({2, 3, 6, 7}),
            made=6,
            planned=12,
            looked_at=2,
            decided=(("topk", "futile"),),
            open=("lsh",),
        )
    )
    lines = screen.drawn()
    assert screen.row("topk") == ["2.000", "2.000", "–", "–"]
    assert screen.row("lsh") == ["2.000", "2.000", "·", "·"]
    assert any(
        line.startswith("after 2 seeds: topk futile; open: lsh; 4 runs to the look at 4 seeds") for line in lines
    )
    assert any("6/10 runs done, about 40.0 s left at most" in line for line in lines)
