"""What is printed about a study where nobody looks at a terminal, and above the screen where somebody does."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console
from scripted import Clock, ok, plan, unwell

from ablab.report.live.lines import PlainLines
from ablab.report.live.screen import Screen, observer
from ablab.study.events import Block, Observer

ENDED = re.compile(r"\[ *\d+/\d+]")  # how readers of logs find the lines of ended runs


class Printed:
    """Plain lines, their clock and what they have printed."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.file = io.StringIO()
        self.observer = PlainLines(Console(file=self.file, width=40, highlight=False), self.clock)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def printed() -> Printed:
    return Printed()


def test_a_line_per_run_with_its_outcome(printed: Printed) -> None:
    runs = plan(["attention=full", "model.sizes=[1,2]", "attention=[lsh]"], range(4))
    told = printed.observer
    told.planned(runs)
    told.kept(runs[1], ok(runs[1], 2.0))
    told.kept(runs[2], unwell(runs[2], "diverged", "train_loss became nan at step 7"))
    told.started(runs[0], 1)
    told.progressed(runs[0], 1, 100, "val_loss [bold]3")
    told.ended(runs[0], ok(runs[0], 1.23456), 10.0)
    told.started(runs[4], 1)
    told.ended(runs[4], unwell(runs[4], reason="ValueError: [/] is no\nmarkup"), 30.0)
    told.close()
    assert printed.lines == [
        "[ 1/12] kept        attention=full seed=1  val_loss 2.0000",
        "[ 2/12] diverged    attention=full seed=2  train_loss became nan at step 7",
        "[ 3/12] ok          attention=full seed=0  val_loss 1.2346  10.0 s  (about 90 s left)",
        # seed 3 of the first variant 10 s, 3 more of one that failed after 30 s, 4 of which nothing is known: 10 s each
        "[ 4/12] failed      model.sizes=[1,2] seed=0  ValueError: [/] is no markup  30.0 s  (about 2 min left)",
    ]
    assert all(ENDED.match(line) for line in printed.lines)


def test_blocks_of_seeds_say_what_is_open_and_what_it_will_cost(printed: Printed) -> None:
    runs = plan(["a", "b"], range(4))  # a on seeds 0 to 3, then b
    told = printed.observer
    told.planned(runs)
    told.block(Block(seeds=2, runs=frozenset({0, 1, 4, 5}), later=frozenset({2, 3, 6, 7}), planned=8))
    for index in (0, 4, 1, 5):
        told.started(runs[index], 1)
        told.ended(runs[index], ok(runs[index]), 10.0)
    told.block(
        Block(
            seeds=3,
            runs=frozenset({2, 6}),
            later=frozenset({3, 7}),
            made=4,
            planned=8,
            looked_at=2,
            open=("b[1]\x1b",),
        )
    )
    told.started(runs[2], 1)
    told.ended(runs[2], ok(runs[2]), 10.0)
    told.block(Block(seeds=3, made=5, planned=8, looked_at=3, decided=(("b", "resolved"),)))
    said = [line for line in printed.lines if not ENDED.match(line)]
    assert said == [
        "seed=auto: 4 runs to the look at 2 seeds; 8 at most",
        "seed=auto: after 2 seeds: nothing new is decided; open: b[1]?; 2 runs to the look at 3 seeds (about 20 s); "
        "4 at most (about 40 s)",
        "seed=auto: after 3 seeds: b resolved; 5 runs made, 3 of 8 saved",
    ]
    ended = [line for line in printed.lines if ENDED.match(line)]
    assert ended[0].endswith("10.0 s  (about 30 s to the look at 2 seeds)")
    assert ended[-1].startswith("[5/8]")


def test_what_is_tried_again_is_said_once_more_and_counts_once(printed: Printed) -> None:
    (run,) = plan(["model.sizes=[1,2]"], [3])
    told = printed.observer
    told.planned([run])
    told.started(run, 1)
    told.waiting(run, "the process was killed by SIGKILL; out of memory?", 2.0)
    told.started(run, 2)
    told.ended(run, ok(run), 9.1)
    retry, end = printed.lines
    assert (
        retry
        == "      retry       model.sizes=[1,2] seed=3  the process was killed by SIGKILL; out of memory?; again in 2 s"
    )
    assert end == "[1/1] ok          model.sizes=[1,2] seed=3  val_loss 1.0000  9.1 s"
    assert retry.index("model") == end.index("model")
    assert not ENDED.match(retry)


def test_stopping_is_said_once_and_no_time_after_it(printed: Printed) -> None:
    runs = plan(["a=b"], range(3))
    told = printed.observer
    told.planned(runs)
    for run in runs[:2]:
        told.started(run, 1)
    told.ended(runs[0], ok(runs[0]), 5.0)
    told.stopping()
    told.stopping()
    told.ended(runs[1], unwell(runs[1], "interrupted", "stopped before it was finished"), 6.0)
    assert printed.lines == [
        "[1/3] ok          a=b seed=0  val_loss 1.0000  5.0 s  (about 5 s left)",
        "stopping: running runs save themselves (Ctrl-C again: at once)",
        "[2/3] interrupted a=b seed=1  stopped before it was finished  6.0 s",
    ]


def test_a_finished_run_without_its_metric_is_no_error(printed: Printed) -> None:
    runs = plan(["a=b"])
    told = printed.observer
    told.planned(runs)
    told.ended(runs[0], ok(runs[0], metrics={}), 1.0)
    told.ended(runs[1], ok(runs[1], primary=None), 1.0)
    assert printed.lines == [
        "[1/2] ok          a=b seed=0  val_loss nan  1.0 s",
        "[2/2] ok          a=b seed=1  1.0 s",
    ]


@pytest.mark.parametrize("broken", [OSError("no space left on device"), ValueError("I/O operation on closed file")])
def test_a_study_outlives_its_log(broken: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()

    def write(text: str) -> int:
        raise broken

    monkeypatch.setattr(file, "write", write)
    runs = plan(["a=b"])
    told = PlainLines(Console(file=file))
    told.planned(runs)
    told.ended(runs[0], ok(runs[0]), 1.0)


class Latin(io.StringIO):
    encoding = "latin-1"


@pytest.mark.parametrize(
    ("console", "kind"),
    [
        (lambda: Console(file=io.StringIO(), force_terminal=True), Screen),
        (lambda: Console(file=io.StringIO()), PlainLines),
        (lambda: Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"}), PlainLines),
        (lambda: Console(file=Latin(), force_terminal=True), PlainLines),  # cannot encode what the screen draws
    ],
)
def test_a_screen_is_for_terminals_that_can_draw_it(console: Callable[[], Console], kind: type[Observer]) -> None:
    assert type(observer(console=console())) is kind


def test_without_a_console_lines_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    told = observer()
    (run,) = plan([""], [7])
    told.planned([run])
    told.ended(run, ok(run, 2.5), 1.0)
    told.close()
    assert capsys.readouterr() == ("[1/1] ok          default seed=7  val_loss 2.5000  1.0 s\n", "")


def test_colours_that_are_forced_make_no_terminal_of_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Jupyter's kernels and some services that build projects have them."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert type(observer()) is PlainLines
