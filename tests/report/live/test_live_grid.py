"""What the grid shows after scripted events, however many variants and seeds there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from scripted import Seen, ok, plan, unwell

from ablab.study.events import RunOutline

Look = Callable[..., Seen]


@pytest.fixture
def look() -> Iterator[Look]:
    """look(width, height): a screen of that size; stdout is given back after the test."""
    screens: list[Seen] = []

    def make(width: int = 100, height: int = 40) -> Seen:
        screens.append(Seen(width, height))
        return screens[-1]

    yield make
    for screen in screens:
        screen.close()


def test_every_state_has_its_cell(look: Look) -> None:
    screen, runs = look(), plan(["attention=full", "model.sizes=[1,2]"], range(5))
    screen.planned(runs)
    screen.started(runs[0], 1)
    screen.ended(runs[0], ok(runs[0], 2.65299), 9.0)
    screen.kept(runs[1], ok(runs[1], 12.0))
    screen.kept(runs[2], unwell(runs[2], "failed"))
    screen.ended(runs[3], unwell(runs[3], "diverged"), 1.0)
    screen.ended(runs[4], unwell(runs[4], "interrupted"), 1.0)
    screen.started(runs[5], 1)
    screen.progressed(runs[5], 299, 1000, "")
    screen.started(runs[6], 1)
    screen.started(runs[7], 1)
    screen.waiting(runs[7], "killed", 2.0)
    assert screen.row("attention=full") == ["2.653", "12.00", "failed", "diverged", "interrupted"]
    assert screen.row("model.sizes=[1,2]") == ["29%", "0%", "retry", "·", "·"]
    (header,) = [line for line in screen.drawn() if line.startswith("variant")]
    assert header.endswith(" seed 4")


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5000"), (1234.5, "1234"), (1.0, "1.000"), (2e-7, "2.000e-07")])
def test_a_metric_has_four_digits(look: Look, value: float, shown: str) -> None:
    screen, runs = look(), plan(["a=1"], [0])
    screen.planned(runs)
    screen.kept(runs[0], ok(runs[0], value))
    assert screen.row("a=1") == [shown]


def test_colours_tell_states_apart(look: Look) -> None:
    screen, runs = look(), plan(["a=1"], range(4))
    screen.planned(runs)
    screen.kept(runs[0], ok(runs[0], 1.5))
    screen.ended(runs[1], ok(runs[1], 2.5), 1.0)
    screen.ended(runs[2], unwell(runs[2], "diverged"), 1.0)
    screen.ended(runs[3], unwell(runs[3], "failed"), 1.0)
    screen.drawn()
    (row,) = [line for line in screen.terminal.raw.splitlines() if line.startswith("a=1")]
    for style, word in {"2;32": "1.500", "32": "2.500", "33": "diverged", "31": "failed"}.items():
        assert any(f"\x1b[{style}m" in part for part in row.split(word)[0].split("\x1b[0m")[-1:]), word


def test_a_row_per_task_where_a_variant_learns_several(look: Look) -> None:
    screen, runs = look(), plan(["a=1"], [0], tasks=["text", "images"])
    screen.planned(runs)
    screen.kept(runs[0], ok(runs[0], 1.0))
    assert screen.row("text") == ["a=1", "1.000"]
    assert screen.row("images") == ["a=1", "·"]


def test_seeds_that_a_variant_was_not_given_stay_empty(look: Look) -> None:
    screen = look()
    screen.planned([*plan(["a=1"], [0, 1]), RunOutline(index=2, variant="b=1", task="text", seed=1, steps=10)])
    assert screen.row("a=1") == ["·", "·"]
    assert screen.row("b=1") == ["·"]
    (row,) = [line for line in screen.drawn() if line.startswith("b=1")]
    (other,) = [line for line in screen.drawn() if line.startswith("a=1")]
    assert row.index("·") == other.rindex("·")


def test_more_variants_than_lines(look: Look) -> None:
    """Those that run or changed last are shown, in the order of the plan; the others are counted."""
    screen, runs = look(height=12), plan([f"a={i}" for i in range(30)], range(2))
    screen.planned(runs)
    screen.started(runs[30], 1)  # a=15, before all others
    for run in runs[:20]:  # a=0 to a=9
        screen.started(run, 1)
        screen.ended(run, ok(run), 1.0)
    screen.started(runs[20], 1)
    screen.ended(runs[20], ok(runs[20]), 1.0)  # the first half of a=10
    lines = screen.drawn()
    shown = lines[lines.index(next(line for line in lines if line.startswith("variant"))) :]
    assert [line.split()[0] for line in shown[1:5]] == ["a=8", "a=9", "a=10", "a=15"]
    assert shown[5] == "26 more variants: 8 done, 18 waiting"
    for run in runs[31:60]:
        screen.started(run, 1)
    # half of the lines are needed for the runs themselves; two rows are left, those started last
    lines = screen.drawn()
    assert [screen.row(name) for name in ("a=28", "a=29")] == [["0%", "0%"]] * 2
    assert "28 more variants: 13 running, 10 done, 1 begun, 4 waiting" in lines


def test_more_seeds_than_columns(look: Look) -> None:
    screen, runs = look(width=80), plan(["attention=full", "attention=lsh"], range(20))
    screen.planned(runs)
    for run in runs[:7]:
        screen.ended(run, ok(run), 1.0)
    screen.ended(runs[7], unwell(runs[7]), 1.0)
    screen.kept(runs[8], unwell(runs[8], "diverged"))
    screen.started(runs[9], 1)
    screen.started(runs[10], 1)
    screen.waiting(runs[10], "killed", 1.0)
    assert " ".join(screen.row("attention=full")) == "7/20 ok, 1 diverged, 1 failed, 1 running, 1 retrying"
    assert screen.row("attention=lsh") == ["0/20", "ok"]


def test_seeds_have_columns_where_they_fit_to_the_last_one(look: Look) -> None:
    needed = len("variant") + 2 * len("  diverged")
    for width, header in ((needed, "variant    seed 0    seed 1"), (needed - 1, "variant  runs")):
        screen = look(width=width)
        screen.planned(plan(["a=1"], range(2)))
        assert header in screen.drawn()


def test_long_names_are_cut_and_figures_are_not(look: Look) -> None:
    screen, runs = look(width=60), plan(["attention=windowed,attention.window=16,model.d_model=[64,128]"], range(2))
    screen.planned(runs)
    screen.kept(runs[0], ok(runs[0], 2.5))
    (row,) = [line for line in screen.drawn() if line.startswith("attention=")][:1]
    assert "…" in row
    assert row.split()[-2:] == ["2.500", "·"]


@pytest.mark.parametrize("name", ["model.sizes=[1,2]", "task.path=[red]", "a=[/]", "a=[/red]", "a=:smile:", "a=\\[b]"])
def test_names_are_no_markup(look: Look, name: str) -> None:
    screen, runs = look(), plan([name], [0, 1], tasks=["text", "[bold]"])
    screen.planned(runs)
    screen.started(runs[0], 1)
    screen.ended(runs[1], ok(runs[1], 2.0), 1.0)
    lines = screen.drawn()
    assert [line.split() for line in lines if line.startswith(("text", "[bold]"))] == [
        ["text", name, "0%", "2.000"],
        ["[bold]", name, "·", "·"],
    ]
    assert [name, "0"] in [line.split()[:2] for line in lines]
    assert any(line.startswith(f"[1/4] ok          {name} seed=1") for line in lines)
